"""Batched relaxations: the steps of ASE's own optimizers, whatever shares the batch."""

from __future__ import annotations

import ase.optimize
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc111
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.filters import FrechetCellFilter
from mixed_structures import mixed, slab

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.workflows.batched import iter_relax, relax_many


@pytest.fixture(scope="module")
def model():
    return ase_nnp.build_model("lj", config={}).to(torch.float64)


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


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "LBFGS"])
def test_every_step_is_that_of_ase(model, optimizer, tmp_path):
    structures = mixed()
    outcomes, paths = paths_of_batch(
        structures, model, tmp_path, optimizer=optimizer, fmax=0.02, steps=30
    )
    for outcome, path, atoms in zip(outcomes, paths, structures, strict=True):
        expected, converged, energy = path_of_ase(atoms, model, optimizer, False, 0.02, 30)
        assert len(path) == len(expected) == outcome.steps + 1
        assert outcome.converged == converged
        assert outcome.energy == pytest.approx(energy, abs=1e-8)
        for ours, (positions, _) in zip(path, expected, strict=True):
            np.testing.assert_allclose(ours.positions, positions, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "LBFGS"])
def test_every_step_with_the_cell_is_that_of_ase(model, optimizer, tmp_path):
    sheared = bulk("Cu", a=2.95, cubic=True)
    sheared.set_cell(sheared.cell.array @ np.array([[1, 0.04, 0], [0, 1.03, 0], [0.02, 0, 1]]))
    sheared.rattle(0.1, seed=1)
    held = bulk("Cu", a=3.05) * (2, 2, 1)
    held.rattle(0.1, seed=2)
    held.set_constraint([FixAtoms([0]), FixCartesian([1], mask=(False, True, False))])
    structures = [sheared, held, bulk("Cu", a=3.1)]
    outcomes, paths = paths_of_batch(
        structures, model, tmp_path, optimizer=optimizer, fmax=0.01, steps=20, cell=True
    )
    for outcome, path, atoms in zip(outcomes, paths, structures, strict=True):
        expected, converged, energy = path_of_ase(atoms, model, optimizer, True, 0.01, 20)
        assert len(path) == len(expected) == outcome.steps + 1
        assert outcome.converged == converged
        assert outcome.energy == pytest.approx(energy, abs=1e-8)
        for ours, (positions, cell) in zip(path, expected, strict=True):
            np.testing.assert_allclose(ours.positions, positions, rtol=0, atol=1e-8)
            np.testing.assert_allclose(ours.cell.array, cell, rtol=0, atol=1e-8)


class Capped(Conservative):
    """Lennard-Jones between the nearest neighbors only, on folded positions."""

    cutoff = 5.0
    max_neighbors = 9
    outputs = ("energy", "forces")
    graph_options = {"wrap": True}  # noqa: RUF012

    def energies(self, graph):
        r = graph.edge_vectors().norm(dim=-1)
        x = (2.3 / r) ** 6
        pair = 0.8 * (x * x - x) * (1 - (r / 5.0) ** 2) ** 3
        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)


@pytest.mark.parametrize("cell", [False, True])
def test_the_skin_changes_nothing(model, cell):
    structures = [slab(2, 5), slab(3, 6)]
    runs = [
        relax_many(model, structures, steps=25, cell=cell, skin=skin, batch=10**6)
        for skin in (0.0, 0.5, 2.0)
    ]
    for one, other in [(runs[0], runs[1]), (runs[0], runs[2])]:
        for a, b in zip(one, other, strict=True):
            assert a.steps == b.steps
            assert a.energy == pytest.approx(b.energy, rel=1e-12)
            np.testing.assert_allclose(a.atoms.positions, b.atoms.positions, atol=1e-12)
            np.testing.assert_allclose(a.atoms.cell.array, b.atoms.cell.array, atol=1e-12)


def test_a_cap_on_neighbors_and_folded_positions_are_as_in_the_calculator():
    model = Capped().to(torch.float64)
    atoms = bulk("Cu", a=3.4, cubic=True) * (2, 1, 1)
    atoms.rattle(0.2, seed=1)
    atoms.positions += [30.0, -11.0, 0.3]
    outcome = relax_many(model, [atoms], steps=12, fmax=1e-6)[0]
    path, _, energy = path_of_ase(atoms, model, "FIRE", False, 1e-6, 12)
    assert outcome.energy == pytest.approx(energy, abs=1e-8)
    np.testing.assert_allclose(outcome.atoms.positions, path[-1][0], rtol=0, atol=1e-8)


@pytest.mark.slow
def test_company_and_waiting_in_line_change_nothing(model):
    structures = [*mixed(), *mixed()]
    alone = [relax_many(model, [atoms], steps=80, optimizer="LBFGS")[0] for atoms in structures]
    order, most = [], []
    for outcome in iter_relax(
        model,
        structures,
        steps=80,
        optimizer="LBFGS",
        max_atoms=40,
        progress=lambda now: most.append(now.running),
    ):
        order.append(outcome.index)
        expected = alone[outcome.index]
        assert (outcome.status, outcome.steps) == (expected.status, expected.steps)
        np.testing.assert_allclose(
            outcome.atoms.positions, expected.atoms.positions, rtol=0, atol=1e-9
        )
    assert sorted(order) == list(range(10))
    assert order != sorted(order)  # nobody waits for the slowest
    assert 1 < max(most) < 10


def test_fixed_atoms_stay_exactly(model):
    atoms = slab(3, 9)
    outcome = relax_many(model, [atoms], steps=40)[0]
    held = atoms.constraints[0].index
    assert np.array_equal(outcome.atoms.positions[held], atoms.positions[held])
    assert np.abs(outcome.atoms.positions - atoms.positions).max() > 0.05
    assert outcome.atoms.constraints[0].index.tolist() == held.tolist()


class Fussy(Conservative):
    """A pair potential that refuses gold and answers silver with nonsense."""

    cutoff = 4.0

    def energies(self, graph):
        if bool((graph.atomic_numbers == 79).any()):
            raise RuntimeError("no gold, please")
        r = graph.edge_vectors().norm(dim=-1)
        pair = 0.5 * (r - 2.5) ** 2 * (1 - r / 4.0) ** 2
        silver = (graph.atomic_numbers == 47).any()
        pair = torch.where(
            silver & (graph.atomic_numbers[graph.edge_index[1]] == 47), torch.nan, pair
        )
        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)


def test_who_fails_fails_alone_and_by_name(tmp_path):
    model = Fussy().to(torch.float64)
    good = Atoms("Cu3", positions=[[0, 0, 0], [2.1, 0, 0], [0, 2.9, 0.1]])
    nowhere = good.copy()
    nowhere.positions[1, 1] = np.nan
    twice = good.copy()
    twice.positions[1] = twice.positions[0]
    bond = good.copy()
    bond.set_constraint(FixBondLength(0, 1))
    gold, silver = Atoms("Au2", [[0, 0, 0], [2, 0, 0]]), Atoms("Ag2", [[0, 0, 0], [2, 0, 0]])
    structures = [good, gold, nowhere, good, silver, twice, bond, Atoms(), good]
    outcomes = relax_many(model, structures, steps=200, folder=tmp_path / "run")
    reasons = {o.index: o.reason for o in outcomes if o.status == "failed"}
    assert sorted(reasons) == [1, 2, 4, 5, 6, 7]
    assert "no gold" in reasons[1]
    assert "finite" in reasons[2]
    assert "finite" in reasons[4]
    assert "same place" in reasons[5] or "apart" in reasons[5]
    assert "FixBondLength" in reasons[6]
    assert "no atoms" in reasons[7]
    assert all(outcomes[k].converged for k in (0, 3, 8))
    assert outcomes[0].energy == pytest.approx(outcomes[8].energy, abs=1e-12)
    again = relax_many(model, structures, steps=200, folder=tmp_path / "run")
    assert [(o.status, o.reason, o.energy) for o in again] == [
        (o.status, o.reason, o.energy) for o in outcomes
    ]


@pytest.mark.parametrize("method", ["FIRE", "LBFGS", "BFGS", "langevin", "nvt", "npt"])
def test_an_answer_that_is_not_finite_disturbs_nobody_else(method):
    from ase.build import bulk

    from ase_nnp.workflows.batched import run_dynamics

    model = Fussy().to(torch.float64)
    good, bad = (bulk(metal, "fcc", a=3.4, cubic=True) for metal in ("Cu", "Ag"))
    good.rattle(0.1, seed=1)

    def run(structures):
        if method.isupper():
            return relax_many(model, structures, optimizer=method, cell=True, steps=6, fmax=1e-9)
        return run_dynamics(model, structures, method, temperature_K=300, steps=6)

    alone, (first, failed) = run([good]), run([good, bad])
    assert (failed.status, failed.steps, "finite" in failed.reason) == ("failed", 0, True)
    np.testing.assert_array_equal(failed.atoms.positions, bad.positions)
    assert np.isfinite(failed.atoms.get_momenta()).all()
    assert first.steps == 6
    np.testing.assert_allclose(first.atoms.positions, alone[0].atoms.positions, atol=1e-10)
    np.testing.assert_allclose(first.atoms.cell.array, alone[0].atoms.cell.array, atol=1e-10)


class Cliff(Conservative):
    """A repulsion that throws atoms out of any structure."""

    cutoff = 6.0

    def energies(self, graph):
        pair = -(10.0 ** graph.positions[:, 0].clamp(max=250))
        return pair.new_zeros(graph.num_structures).index_add(0, graph.batch, pair)


def test_an_explosion_is_a_failure_and_ends():
    from ase_nnp.workflows.batched import run_dynamics

    model = Cliff().to(torch.float64)
    lone = Atoms("Cu2", positions=[[0, 0, 0], [3.0, 0, 0]])
    outcome = run_dynamics(model, [lone], "nve", steps=400, timestep_fs=5.0)[0]
    assert outcome.status == "failed"
    assert "exploded" in outcome.reason or "finite" in outcome.reason


def test_a_float32_model_writes_hdf5(tmp_path):
    model = ase_nnp.build_model("lj", config={})
    outcomes = relax_many(
        model, [mixed()[2], slab(2, 1)], steps=150, optimizer="FIRE", fmax=0.05,
        folder=tmp_path / "run", trajectory="h5", interval=5,
    )  # fmt: skip
    assert outcomes[0].converged
    frames = ase_nnp.open_dataset(tmp_path / "run" / "000001.h5")
    last = frames[len(frames) - 1]
    assert last.get_potential_energy() == pytest.approx(outcomes[1].energy, abs=1e-5)
    np.testing.assert_allclose(last.positions, outcomes[1].atoms.positions, atol=1e-6)


def test_a_folder_belongs_to_one_run(model, tmp_path):
    structures = [slab(2, 1)]
    relax_many(model, structures, steps=3, folder=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"fmax: 0\.05 there, 0\.1 here"):
        relax_many(model, structures, steps=3, fmax=0.1, folder=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"structures: number 0 of 1 differ in content"):
        relax_many(model, [slab(3, 1)], steps=3, folder=tmp_path / "run")
    going = iter_relax(model, [slab(3, 1), slab(2, 1)], steps=5, folder=tmp_path / "other")
    next(going)
    with pytest.raises(ConfigError, match="Another process"):
        relax_many(model, [slab(3, 1), slab(2, 1)], steps=5, folder=tmp_path / "other")
    going.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "NEWTON"}, "FIRE, BFGS, LBFGS"),
        ({"fmax": 0.0}, "positive force"),
        ({"batch": "sometimes"}, "'auto', 'loop'"),
        ({"skin": -1.0}, "zero or more"),
        ({"monitor": {"key": "forces_std_norm"}}, "does not give"),
        ({"monitor": {"key": "forces", "save": "x"}}, "of its own"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(model, options, said):
    with pytest.raises(ConfigError, match=said):
        relax_many(model, [slab(2, 1)], **options)


def catalogue() -> list[Atoms]:
    """64 slabs of 9 to 38 atoms as in OC20: adsorbates, fixed layers, periodic in the plane."""
    sizes = ((2, 2, 2), (2, 2, 3), (3, 2, 3), (3, 3, 3), (3, 3, 4))
    slabs = []
    for k in range(64):
        make, site = ((fcc111, "ontop"), (fcc111, "hcp"), (fcc100, "hollow"))[k % 3]
        atoms = make("CuNiPdPt"[2 * (k % 4) :][:2], sizes[k % 5], a=3.5 + 0.02 * (k % 4), vacuum=7)
        add_adsorbate(atoms, "OHNC"[k % 4], 1.8, site)
        if k % 2:
            add_adsorbate(atoms, "OHNC"[k % 4], 4.0, site)
        atoms.pbc = (True, True, False)
        tags = atoms.get_tags()
        atoms.set_constraint(FixAtoms(mask=tags > max(1, tags.max() // 2)))
        atoms.rattle(0.05, seed=k)
        slabs.append(atoms)
    return slabs


@pytest.mark.slow
def test_64_slabs_in_one_batch_end_as_64_runs_of_ase(model):
    structures = catalogue()
    outcomes = relax_many(model, structures, optimizer="FIRE", fmax=0.05, steps=150)
    for outcome, atoms in zip(outcomes, structures, strict=True):
        alone = atoms.copy()
        alone.calc = ase_nnp.NNPCalculator(model)
        driver = ase.optimize.FIRE(alone, logfile=None)
        assert driver.run(fmax=0.05, steps=150) == outcome.converged
        assert driver.nsteps == outcome.steps
        assert outcome.energy == pytest.approx(alone.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(outcome.atoms.positions, alone.positions, rtol=0, atol=1e-3)
        held = atoms.constraints[0].index
        assert np.array_equal(outcome.atoms.positions[held], atoms.positions[held])
        assert outcome.atoms.pbc.tolist() == [True, True, False]
    assert sum(o.converged for o in outcomes) > 50
