"""A family that trains in milliseconds, and copper with silver labeled by EMT."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import ase_nnp

pytest.importorskip("lightning", reason="needs the extra 'train'")
pytest.importorskip("pydantic", reason="needs the extra 'train'")
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))


@pytest.fixture(autouse=True, scope="session")
def pairs_family():
    from ase_nnp.registry.installed import installed

    registry = installed()
    registry.add_plugin("pairs", lambda: importlib.import_module("pair_plugin"))
    assert "pairs" not in registry.broken, registry.broken


def labeled(count, seed=0, shift=0.0, rattle=0.1):
    """Rattled and strained cells of Cu and Cu3Ag; ``shift`` eV is added for each atom."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        if k % 2:
            atoms.numbers[0] = 47
        atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
        atoms.rattle(rattle, rng=rng)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy() + shift * len(atoms),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def frames():
    return labeled


@pytest.fixture
def pairs():
    """A fresh model, the same every time."""

    def make(seed=0, **options):
        return ase_nnp.build_model("pairs", seed=seed, device="cpu", **options)

    return make
