"""Structures made here, with everything a dataset has to keep."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength


def slab(seed=0, metal="Cu", size=(2, 2, 3)):
    rng = np.random.default_rng(seed)
    atoms = fcc111(metal, size, a=3.6 + 0.01 * (seed % 7), vacuum=7.0)
    tags = np.where(atoms.get_tags() == 1, 1, 0)
    add_adsorbate(atoms, Atoms("CO", [[0, 0, 0], [0, 0, 1.15]]), 1.8, "ontop")
    atoms.set_tags([*tags, 2, 2])
    atoms.pbc = True
    atoms.rattle(0.05, seed=seed)
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.get_tags() == 0)))
    atoms.info = {
        "sid": 1000 + seed,
        "fid": seed % 5,
        "energy_kind": "adsorption",
        "reference_energy": -30.0 - seed,
    }
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(rng.normal()), forces=rng.normal(size=(len(atoms), 3))
    )
    return atoms


def rich():
    """One of each kind of thing that can hang on an Atoms."""
    rng = np.random.default_rng(7)
    first = slab(3, "Pt")
    first.set_constraint([*first.constraints, FixBondLength(12, 13)])
    first.info |= {
        "charge": 1,
        "spin": 3,
        "source": "relax/interface_0/a b=c",
        "word": "00012",
        "quoted": 'it"s \\ {odd}',
        "flag": True,
        "number": 0.1,
        "vector": np.arange(4.0),
        "one": np.array([2.5]),
        "nested": {"k": [1, {"deep": None}], "a": np.arange(3)},
        "y_init": -1.5,
        "y_relaxed": -2.5,
        "pos_relaxed": first.positions + 0.1,
        "energy_kind": "total",
    }
    first.set_array("site", rng.normal(size=(len(first), 2)))
    first.set_momenta(rng.normal(size=(len(first), 3)), apply_constraint=False)
    first.calc.results["stress"] = rng.normal(size=6)
    first.calc.results["dipole"] = rng.normal(size=3)
    water = molecule("H2O")
    water.info = {"charge": 0, "energy_kind": "total"}
    water.calc = SinglePointCalculator(
        water, energy=-14.0, forces=rng.normal(size=(3, 3)), charges=rng.normal(size=3)
    )
    unlabelled = fcc111("Al", (1, 1, 2), vacuum=5.0)
    unlabelled.info = {"sid": "unlabelled"}
    return [first, water, unlabelled]


def same(value, other):
    if isinstance(value, dict):
        return set(value) == set(other) and all(same(value[k], other[k]) for k in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    return np.array_equal(value, other)


def assert_same_atoms(ours, theirs):
    assert set(ours.arrays) - {"tags"} == set(theirs.arrays) - {"tags"}
    np.testing.assert_array_equal(ours.get_tags(), theirs.get_tags())
    for name in set(theirs.arrays) - {"tags"}:
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name], err_msg=name)
    np.testing.assert_array_equal(ours.cell[:], theirs.cell[:])
    np.testing.assert_array_equal(ours.pbc, theirs.pbc)
    ours_c, theirs_c = ([c.todict() for c in atoms.constraints] for atoms in (ours, theirs))
    assert same(ours_c, theirs_c)
    results = [dict(a.calc.results) if a.calc else {} for a in (ours, theirs)]
    assert same(*results), results
    assert same(ours.info, theirs.info), (ours.info, theirs.info)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Metadata of these tests stay out of the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ASE_NNP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def slabs():
    return [slab(seed, metal) for seed, metal in enumerate(["Cu", "Pt", "Ag", "Cu", "Pd", "Cu"])]
