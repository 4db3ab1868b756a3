"""Batched molecular dynamics: the steps of ASE's own integrators, and physics."""

from __future__ import annotations

import warnings

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms, FixCartesian
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

import ase_nnp
from ase_nnp.workflows.batched import run_dynamics
from ase_nnp.workflows.batched.dynamics import random_numbers

FS = ase.units.fs


@pytest.fixture(scope="module")
def model():
    return ase_nnp.build_model("lj", config={}).to(torch.float64)


def heated(atoms: Atoms, kelvin: float, seed: int) -> Atoms:
    width = np.sqrt(atoms.get_masses() * kelvin * ase.units.kB)[:, None]
    atoms.set_momenta(width * np.random.default_rng(seed).normal(size=(len(atoms), 3)))
    return atoms


def crystals() -> list[Atoms]:
    cubic = heated(bulk("Cu", a=3.55, cubic=True) * (2, 1, 1), 400, 1)
    return [cubic, heated(bulk("Cu", a=3.5) * (3, 2, 2), 250, 2)]


def with_fixed() -> list[Atoms]:
    slab = fcc111("Cu", (2, 2, 3), a=3.5, vacuum=6.0)
    slab.pbc = (True, True, False)
    add_adsorbate(slab, "O", 1.7, "fcc")
    slab.set_constraint(
        [FixAtoms(mask=slab.get_tags() == 3), FixCartesian([12], (True, True, False))]
    )
    return [*crystals(), heated(slab, 300, 3)]


def path_of_ase(atoms: Atoms, model, make, steps: int):
    """Positions, momenta and cells of every step of one of ASE's integrators."""
    moving = atoms.copy()
    moving.calc = ase_nnp.NNPCalculator(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        driver = make(moving)
    path = []
    for _ in driver.irun(steps=steps):
        path.append((moving.get_positions(), moving.get_momenta(), moving.cell.array.copy()))
    return path


def path_of_batch(structures, model, tmp_path, ensemble, **options):
    from ase.io import read

    outcomes = run_dynamics(model, structures, ensemble, folder=tmp_path / "run", **options)
    assert [o.status for o in outcomes] == ["finished"] * len(structures)
    return [read(tmp_path / "run" / f"{k:06d}.traj", ":") for k in range(len(structures))]


def same(ours, expected):
    assert len(ours) == len(expected)
    for k, (frame, (positions, momenta, cell)) in enumerate(zip(ours, expected, strict=True)):
        np.testing.assert_allclose(frame.positions, positions, rtol=0, atol=1e-8, err_msg=str(k))
        np.testing.assert_allclose(frame.cell.array, cell, rtol=0, atol=1e-8)
        if k:  # ASE keeps momenta of held atoms as given until the first step
            np.testing.assert_allclose(frame.get_momenta(), momenta, rtol=0, atol=1e-8)


def test_nve_is_velocity_verlet(model, tmp_path):
    structures = with_fixed()
    paths = path_of_batch(structures, model, tmp_path, "nve", steps=60, timestep_fs=2.0)
    for ours, atoms in zip(paths, structures, strict=True):
        same(ours, path_of_ase(atoms, model, lambda a: VelocityVerlet(a, 2.0 * FS), 60))


class Draws:
    """Our random numbers, handed to ASE in its order."""

    def __init__(self, seed: int, index: int) -> None:
        self.seed, self.index, self.calls = seed, index, 0

    def standard_normal(self, size):
        step, which = divmod(self.calls, 2)
        self.calls += 1
        return random_numbers(self.seed, self.index, step, (2, *size))[which]


def test_langevin_is_that_of_ase_with_the_same_random_numbers(model, tmp_path):
    structures = with_fixed()
    paths = path_of_batch(
        structures, model, tmp_path, "langevin", steps=40, timestep_fs=2.0, temperature_K=350,
        friction_per_fs=0.02, seed=7,
    )  # fmt: skip
    for k, (ours, atoms) in enumerate(zip(paths, structures, strict=True)):
        expected = path_of_ase(
            atoms,
            model,
            lambda a, k=k: Langevin(
                a, 2.0 * FS, temperature_K=350, friction=0.02 / FS, fixcm=False, rng=Draws(7, k)
            ),
            40,
        )
        same(ours, expected)


def test_nvt_is_the_nose_hoover_chain_of_ase(model, tmp_path):
    structures = crystals()
    paths = path_of_batch(
        structures, model, tmp_path, "nvt", steps=40, timestep_fs=2.0, temperature_K=[350, 200],
        tdamp_fs=40,
    )  # fmt: skip
    for ours, atoms, kelvin in zip(paths, structures, (350, 200), strict=True):
        expected = path_of_ase(
            atoms,
            model,
            lambda a, kelvin=kelvin: NoseHooverChainNVT(a, 2.0 * FS, kelvin, 40 * FS),
            40,
        )
        same(ours, expected)


def test_npt_is_the_isotropic_mtk_of_ase(model, tmp_path):
    structures = crystals()
    paths = path_of_batch(
        structures, model, tmp_path, "npt", steps=40, timestep_fs=2.0, temperature_K=350,
        tdamp_fs=40, pdamp_fs=60, pressure_GPa=[1.0, -0.5],
    )  # fmt: skip
    for ours, atoms, pressure in zip(paths, structures, (1.0, -0.5), strict=True):
        expected = path_of_ase(
            atoms,
            model,
            lambda a, pressure=pressure: IsotropicMTKNPT(
                a, 2.0 * FS, 350, pressure * ase.units.GPa, 40 * FS, 60 * FS
            ),
            40,
        )
        same(ours, expected)
        assert abs(ours[-1].get_volume() / ours[0].get_volume() - 1) > 1e-4
