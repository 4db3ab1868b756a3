"""Batched relaxations: the steps of ASE's own optimizers, whatever shares the batch."""

from __future__ import annotations

import ase.optimize
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.filters import FrechetCellFilter

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.potential import Conservative
from ase_nnp.workflows.batched import iter_relax, relax_many


@pytest.fixture(scope="module")
def model():
    return ase_nnp.build_model("lj", config={}).to(torch.float64)


def slab(size: int, seed: int, metal: str = "Cu") -> Atoms:
    atoms = fcc111(metal, (size, size, 2), a=3.0, vacuum=6.0, periodic=False)
    atoms.pbc = (True, True, False)
    add_adsorbate(atoms, "O", 1.7, "fcc")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 2))
    atoms.rattle(0.08, seed=seed)
    return atoms


def mixed() -> list[Atoms]:
    """Slabs, a crystal, a molecule and a wire with a fixed axis: sizes and pbc of all kinds."""
    crystal = bulk("Cu", a=2.9, cubic=True) * (2, 1, 1)
    crystal.rattle(0.1, seed=3)
    cluster = Atoms("Cu5", positions=np.random.default_rng(4).normal(size=(5, 3)) * 1.9)
    wire = Atoms("Cu3", positions=[[0, 0, 0], [2.3, 0.4, 0], [4.9, 0, 0.3]], cell=[7.2, 0, 0])
    wire.pbc = (True, False, False)
    wire.set_constraint(FixCartesian([1, 2], mask=(True, False, False)))
    return [slab(2, 1), crystal, cluster, slab(3, 2), wire]


def path_of_ase(atoms: Atoms, model, optimizer: str, cell: bool, fmax: float, steps: int):
    """Positions and cells of every step of ASE's optimizer, and whether it converged."""
    moving = atoms.copy()
    moving.calc = ase_nnp.NNPCalculator(model)
    target = FrechetCellFilter(moving) if cell else moving
    driver = getattr(ase.optimize, optimizer)(target, logfile=None)
    path, converged = [], False
    for done in driver.irun(fmax=fmax, steps=steps):
        converged = bool(done)
        path.append((moving.get_positions(), moving.cell.array.copy()))
    return path, converged, moving.get_potential_energy()


def paths_of_batch(structures, model, tmp_path, **options):
    from ase.io import read

    outcomes = relax_many(model, structures, folder=tmp_path / "run", **options)
    paths = [read(tmp_path / "run" / f"{k:06d}.traj", ":") for k in range(len(structures))]
    return outcomes, paths


@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "LBFGS"])
def test_every_step_is_that_of_ase(model, optimizer, tmp_path):
    structures = mixed()
    outcomes, paths = paths_of_batch(
        structures, model, tmp_path, optimizer=optimizer, fmax=0.02, steps=60
    )
    for outcome, path, atoms in zip(outcomes, paths, structures, strict=True):
        expected, converged, energy = path_of_ase(atoms, model, optimizer, False, 0.02, 60)
        assert len(path) == len(expected) == outcome.steps + 1
        assert outcome.converged == converged
        assert outcome.energy == pytest.approx(energy, abs=1e-8)
        for ours, (positions, _) in zip(path, expected, strict=True):
            np.testing.assert_allclose(ours.positions, positions, rtol=0, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "LBFGS"])
def test_every_step_with_the_cell_is_that_of_ase(model, optimizer, tmp_path):
    sheared = bulk("Cu", a=2.95, cubic=True)
    sheared.set_cell(sheared.cell.array @ (np.eye(3) + [[0, 0.04, 0], [0, 0.03, 0], [0.02, 0, 0]]))
    sheared.rattle(0.1, seed=1)
    held = bulk("Cu", a=3.05) * (2, 2, 1)
    held.rattle(0.1, seed=2)
    held.set_constraint([FixAtoms([0]), FixCartesian([1], mask=(False, True, False))])
    structures = [sheared, held, bulk("Cu", a=3.1)]
    outcomes, paths = paths_of_batch(
        structures, model, tmp_path, optimizer=optimizer, fmax=0.01, steps=40, cell=True
    )
    for outcome, path, atoms in zip(outcomes, paths, structures, strict=True):
        expected, converged, energy = path_of_ase(atoms, model, optimizer, True, 0.01, 40)
        assert len(path) == len(expected) == outcome.steps + 1
        assert outcome.converged == converged
        assert outcome.energy == pytest.approx(energy, abs=1e-8)
        for ours, (positions, cell) in zip(path, expected, strict=True):
            np.testing.assert_allclose(ours.positions, positions, rtol=0, atol=1e-8)
            np.testing.assert_allclose(ours.cell.array, cell, rtol=0, atol=1e-8)
