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
from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
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


@pytest.mark.slow
def test_the_energy_drifts_as_with_velocity_verlet_to_rounding(model, tmp_path):
    structures = crystals()
    paths = path_of_batch(
        structures, model, tmp_path, "nve", steps=200, timestep_fs=2.0, interval=10
    )
    for ours, atoms in zip(paths, structures, strict=True):
        moving = atoms.copy()
        moving.calc = ase_nnp.NNPCalculator(model)
        driver = VelocityVerlet(moving, 2.0 * FS)
        expected = []
        for step, _ in enumerate(driver.irun(steps=200)):
            if step % 10 == 0:
                expected.append(moving.get_total_energy())
        energies = [frame.get_total_energy() for frame in ours]
        np.testing.assert_allclose(energies, expected, rtol=0, atol=1e-8)
        assert np.ptp(energies) < 0.01 * moving.get_kinetic_energy()


def test_structures_without_momenta_get_a_temperature_and_no_drift(model):
    atoms = bulk("Cu", a=3.55, cubic=True) * (3, 3, 3)
    outcomes = run_dynamics(model, [atoms, atoms], "nve", steps=0, temperature_K=300, seed=5)
    first, second = (o.atoms for o in outcomes)
    assert 240 < first.get_temperature() < 360
    np.testing.assert_allclose(first.get_momenta().sum(0), 0, atol=1e-9)
    assert not np.allclose(first.get_momenta(), second.get_momenta())
    again = run_dynamics(model, [atoms], "nve", steps=0, temperature_K=300, seed=5)[0].atoms
    np.testing.assert_allclose(again.get_momenta(), first.get_momenta(), rtol=1e-12)


@pytest.mark.parametrize(
    ("ensemble", "options", "said"),
    [
        ("nph", {}, "nve, langevin, nvt, npt"),
        ("nvt", {}, "needs a temperature"),
        ("nve", {"timestep_fs": -1.0}, "positive time"),
        ("langevin", {"temperature_K": 300, "friction_per_fs": 0.0}, "friction"),
        ("nvt", {"temperature_K": 0.0}, "positive"),
        ("nvt", {"temperature_K": [300.0, 300.0]}, "more structures than that"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(model, ensemble, options, said):
    with pytest.raises(ConfigError, match=said):
        run_dynamics(model, [bulk("Cu")] * 3, ensemble, steps=2, **options)


def test_npt_refuses_what_it_cannot_move(model):
    held = bulk("Cu", cubic=True)
    held.set_constraint(FixAtoms([0]))
    free = Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]])
    outcomes = run_dynamics(model, [held, free], "npt", steps=2, temperature_K=300)
    assert [o.status for o in outcomes] == ["failed", "failed"]
    assert "fixed atoms" in outcomes[0].reason
    assert "volume" in outcomes[1].reason


class Argon(Potential):
    """Lennard-Jones cut at 3 sigma, with the usual long-range correction of energy and pressure."""

    EPSILON, SIGMA = 0.0104, 3.4
    cutoff = 3 * SIGMA
    outputs = ("energy", "forces", "stress")

    def forward(self, graph):
        d = graph.edge_vectors()
        squared = d.square().sum(1)
        x = (self.SIGMA**2 / squared) ** 3
        center = graph.edge_index[1]
        energy = d.new_zeros(graph.num_structures)
        energy = energy.index_add(0, graph.batch[center], 2 * self.EPSILON * (x * x - x))
        pull = (24 * self.EPSILON * (x - 2 * x * x) / squared)[:, None] * d
        forces = d.new_zeros(graph.num_atoms, 3).index_add(0, center, pull)
        assert graph.num_structures == 1
        volume = torch.linalg.det(graph.cell)
        density = graph.num_atoms * self.SIGMA**3 / volume
        tail = np.pi * density * self.EPSILON * graph.num_atoms
        energy = energy + 8 / 3 * tail * (1 / 3 / 3.0**9 - 1 / 3.0**3)
        pressure = 16 / 3 * tail / volume * (2 / 3 / 3.0**9 - 1 / 3.0**3)
        stress = 0.5 * d.T @ pull / volume - pressure * torch.eye(3)
        return {"energy": energy, "forces": forces, "stress": stress[None]}


@pytest.mark.slow
def test_npt_gives_the_density_of_the_published_lennard_jones_table(tmp_path):
    """NIST Standard Reference Simulation Website, Lennard-Jones fluid, NVT Monte Carlo.

    T* = 0.85, cut at 3 sigma with long-range corrections: at density 0.82 the pressure is 0.55355
    and the energy of an atom -5.7947. Here the pressure is given and the density is found.
    """
    model = Argon().to(torch.float64)
    epsilon, sigma = Argon.EPSILON, Argon.SIGMA
    kelvin = 0.85 * epsilon / ase.units.kB
    time = sigma * np.sqrt(39.95 / epsilon) / FS  # fs
    lattice = bulk("Ar", a=(4 / 0.82) ** (1 / 3) * sigma, cubic=True) * (4, 4, 4)
    start = []
    for seed in range(4):
        start.append(lattice.copy())
        start[-1].rattle(0.03 * sigma, seed=seed)
    options = {"timestep_fs": 0.005 * time, "tdamp_fs": 0.2 * time, "batch": "loop"}
    molten = run_dynamics(model, start, "nvt", steps=200, temperature_K=2 * kelvin, **options)
    liquid = [o.atoms for o in molten]
    for atoms in liquid:
        atoms.set_momenta(atoms.get_momenta() / np.sqrt(2))
    paths = path_of_batch(
        liquid, model, tmp_path, "npt", steps=1400, temperature_K=kelvin, interval=10,
        pressure_GPa=0.55355 * epsilon / sigma**3 / ase.units.GPa, pdamp_fs=0.5 * time, **options,
    )  # fmt: skip
    density = np.array([[256 * sigma**3 / a.get_volume() for a in p[41:]] for p in paths])
    energy = np.array([[a.get_potential_energy() / 256 / epsilon for a in p[41:]] for p in paths])
    blocks = density.reshape(4, 4, -1).mean(2).ravel()
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    print(f"density {density.mean():.4f} +- {error:.4f}, energy {energy.mean():.4f}")
    assert error < 0.004
    assert abs(density.mean() - 0.82) < 3 * error
    assert abs(energy.mean() + 5.7947) < 3 * 6.4 * error  # d(energy) is about -6.4 d(density)
