"""A small dataset of adsorbates on slabs, with all that an index asks about."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ase_nnp import open_dataset, write_dataset

METALS = ("Cu", "Pt", "Ni", "Al")
ADSORBATES = ("CO", "OH", "H", "O", "NH3")


def slab_of(rng, number):
    """A tagged slab, mostly with an adsorbate, with labels and metadata."""
    metal = METALS[number % len(METALS)]
    atoms = fcc111(metal, (1, int(rng.integers(1, 4)), 3), vacuum=6.0)
    atoms.pbc = True
    atoms.set_tags(np.where(atoms.get_tags() == 1, 1, 0))
    if number % 3 == 0:
        atoms.numbers[0] = 29
    info = {
        "sid": f"random{1000 + number // 2}",
        "fid": number % 2,
        "bulk_id": f"mp-{number % 7}",
        "miller": [1, 1, int(rng.integers(0, 2))],
    }
    if number % 5:
        name = ADSORBATES[int(rng.integers(len(ADSORBATES)))]
        admolecule = molecule(name) if len(name) > 1 else Atoms(name)
        admolecule.set_tags([2] * len(admolecule))
        add_adsorbate(atoms, admolecule, 2.0)
        info |= {"reference_energy": float(rng.normal()), "adsorbate": f"*{name}"}
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.get_tags() == 0)))
    if number % 11:
        results = {"energy": float(rng.normal(scale=3)), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info = info
    return atoms


@pytest.fixture(scope="session")
def adsorption_file(tmp_path_factory):
    """A file of 120 records."""
    path = tmp_path_factory.mktemp("catalog") / "train" / "data.aselmdb"
    path.parent.mkdir()
    rng = np.random.default_rng(1)
    write_dataset(path, [slab_of(rng, number) for number in range(120)])
    return path


@pytest.fixture(scope="session")
def indexed(adsorption_file, tmp_path_factory):
    """The dataset with its index."""
    dataset = open_dataset(adsorption_file)
    dataset.index(tmp_path_factory.mktemp("index") / "index.sqlite")
    return dataset


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path / "cache"))
