"""Batched paths against ASE's own bands, step by step, and against an analytic surface."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from path_worker import hop, run

import ase_nnp
from ase_nnp.errors import ConfigError, DatasetError, StructureError
from ase_nnp.uncertainty import DeepEnsemble
from ase_nnp.workflows.paths import reaction_paths
from ase_nnp.workflows.paths.band import Band
from ase_nnp.workflows.paths.ends import match_atoms
from ase_nnp.workflows.paths.outcome import what_no_saddle_means

HELPERS = Path(__file__).parent.parent / "helpers"
EMT_MODEL = ase_nnp.from_ase(EMT)


def as_ase_does(pair, images, method, climb, steps, make=EMT):
    """Positions of all images at every step of ASE's band, from the same interpolation."""
    band = [pair[0].copy(), *(pair[0].copy() for _ in range(images)), pair[1].copy()]
    for image in band:
        image.calc = make()
    chain = NEB(band, climb=climb, method=method)
    chain.interpolate("idpp", apply_constraint=False)
    frames = []
    with FIRE(chain, logfile=None) as optimizer:
        for _ in optimizer.irun(fmax=0.05, steps=steps):
            frames.append([image.positions.copy() for image in band])
    return np.array(frames)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "climb"),
    [
        ("aseneb", False),
        ("improvedtangent", True),
        ("eb", False),
        pytest.param("aseneb", True, marks=pytest.mark.slow),
        pytest.param("improvedtangent", False, marks=pytest.mark.slow),
        pytest.param("eb", True, marks=pytest.mark.slow),
    ],
)
def test_every_image_of_every_step_is_where_ases_band_has_it(method, climb, monkeypatch):
    pair, frames, move = hop("Al", "Au"), [], Band.move

    def watched(band):
        frames.append([image.positions.copy() for image in band.images])
        move(band)

    monkeypatch.setattr(Band, "move", watched)
    result = reaction_paths(
        [pair], EMT_MODEL, images=3, method=method, climb=climb,
        climb_at=np.inf, finish_at=0, relax_ends=False, steps=25,
    )  # fmt: skip
    wanted = as_ase_does(pair, 3, method, climb, 25)
    assert len(frames) >= 15
    np.testing.assert_allclose(np.array(frames), wanted[: len(frames)], atol=1e-8)
    last = np.array([image.positions for image in result[0].images])
    np.testing.assert_allclose(last, wanted[-1], atol=1e-8)


def test_a_neural_network_takes_ases_steps_too():
    pytest.importorskip("ase_nnp_facet")
    model = ase_nnp.build_model("facet", seed=1, dtype="float64", device="cpu")
    pair = hop("Cu", "Pt")
    (path,) = reaction_paths(
        [pair], model, images=3, climb_at=np.inf, finish_at=0, relax_ends=False, steps=5
    )
    wanted = as_ase_does(pair, 3, "improvedtangent", True, 5, lambda: ase_nnp.NNPCalculator(model))
    last = np.array([image.positions for image in path.images])
    assert np.abs(wanted[-1] - wanted[0]).max() > 1e-3
    np.testing.assert_allclose(last, wanted[path.steps], atol=1e-8)


def test_bands_together_are_bands_alone():
    pairs = [hop("Al", "Au"), hop("Cu", "Au"), hop("Al", "Cu")]
    together = reaction_paths(pairs, EMT_MODEL, images=3)
    for pair, one in zip(pairs, together, strict=True):
        (alone,) = reaction_paths([pair], EMT_MODEL, images=3)
        assert (one.steps, one.evaluations) == (alone.steps, alone.evaluations)
        for a, b in zip(one.images, alone.images, strict=True):
            np.testing.assert_allclose(a.positions, b.positions, atol=1e-10)


@pytest.mark.slow
def test_gold_hops_over_the_barrier_of_ases_own_climbing_band():
    initial, final = hop("Al", "Au")
    for end in (initial, final):
        end.calc = EMT()
        BFGS(end, logfile=None).run(fmax=0.01)
    band = [initial, *(initial.copy() for _ in range(3)), final]
    for image in band[1:-1]:
        image.calc = EMT()
    chain = NEB(band, climb=True, method="improvedtangent")
    chain.interpolate("idpp")
    assert FIRE(chain, logfile=None).run(fmax=0.01, steps=400)
    wanted = max(image.get_potential_energy() for image in band) - initial.get_potential_energy()

    for finish in ({"finish_at": 0.0}, {}):
        (path,) = reaction_paths([hop("Al", "Au")], EMT_MODEL, images=3, fmax=0.01, **finish)
        assert path.converged
        assert float(path.barrier) == pytest.approx(wanted, abs=1e-3)
        assert float(path.reaction_energy) == pytest.approx(0, abs=1e-4)  # by symmetry


@pytest.mark.slow
def test_the_top_alone_reaches_the_saddle_with_fewer_evaluations():
    pairs = [hop("Al", "Au"), hop("Cu", "Au")]
    plain = reaction_paths(pairs, EMT_MODEL, images=5, climb_at=np.inf, finish_at=0)
    quick = reaction_paths(pairs, EMT_MODEL, images=5)
    assert sum(p.evaluations for p in quick) < 0.7 * sum(p.evaluations for p in plain)
    for one, other in zip(plain, quick, strict=True):
        assert one.saddle_index == -1
        assert other.saddle_index == 3
        assert float(other.barrier) == pytest.approx(float(one.barrier), abs=2e-3)
        assert np.linalg.norm(other.saddle.get_forces(), axis=1).max() < 0.05


class MuellerBrown(Calculator):
    """The surface of Mueller and Brown (1979), doi:10.1007/BF00547608."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    terms = (
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    )

    def calculate(self, atoms=None, properties=(), system_changes=()):
        x, y, z = atoms.positions[0]
        energy, slope = 50 * z**2, np.array([0.0, 0.0, 100 * z])
        for scale, a, b, c, x0, y0 in self.terms:
            dx, dy = x - x0, y - y0
            value = scale * np.exp(a * dx**2 + b * dx * dy + c * dy**2)
            energy += value
            slope[:2] += value * np.array([2 * a * dx + b * dy, b * dx + 2 * c * dy])
        self.results = {"energy": energy, "forces": -slope[None]}


def test_the_saddle_of_muellers_and_browns_surface():
    ends = [Atoms("H", [(x, y, 0)]) for x, y in ((-0.558, 1.442), (-0.050, 0.467))]
    (path,) = reaction_paths(
        [tuple(ends)], ase_nnp.from_ase(MuellerBrown), images=7, fmax=1e-3, interpolation="linear",
        spring=10.0, climb_at=100.0, finish_at=50.0, steps=500,
    )  # fmt: skip
    assert path.converged
    assert path.saddle.get_potential_energy() == pytest.approx(-40.665, abs=1e-3)
    np.testing.assert_allclose(path.saddle.positions[0, :2], [-0.822, 0.624], atol=1e-3)


def test_a_band_that_fails_does_not_disturb_the_others():
    good = hop("Al", "Au")
    bad = molecule("H2O"), molecule("CO2")
    results = reaction_paths([bad, good], EMT_MODEL, images=3)
    assert [r.status for r in results] == ["failed", "converged"]
    assert "different atoms" in results[0].reason
    assert results[0].as_dict()["converged"] is False


def test_two_ends_in_one_minimum_are_no_path():
    slab = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(len(slab))))
    start, end = slab.copy(), slab.copy()
    for atoms in (start, end):
        add_adsorbate(atoms, "N", 1.2, "fcc")
    end.positions[-1] += [0.2, 0.0, 0.0]
    (path,) = reaction_paths([(start, end)], EMT_MODEL, images=1)
    assert path.status == "failed"
    assert "one minimum" in path.reason


def test_a_path_that_lies_below_an_end_has_no_barrier_and_has_not_converged():
    # One way down: from beside the minimum into it.
    slab = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(len(slab))))
    start, end = slab.copy(), slab.copy()
    for atoms in (start, end):
        add_adsorbate(atoms, "N", 1.0, "fcc")
    start.positions[-1] += [0.5, 0.0, 0.2]
    (path,) = reaction_paths([(start, end)], EMT_MODEL, images=3, relax_ends=False, climb=False)
    assert (path.status, path.converged) == ("finished", False)
    assert "below one of them" in path.reason
    assert what_no_saddle_means([0.0, 0.4, 0.1], None) == ""
    assert what_no_saddle_means([0.0, -0.5, -0.2, -0.6, -1.0], 2) != ""


def test_atoms_that_changed_places_are_matched_and_it_is_said():
    initial, final = hop("Al", "Au")
    order = [1, 0, *range(2, len(final) - 1), len(final) - 1]
    swapped = final[order]
    swapped.set_constraint(final.constraints)
    matched, permutation = match_atoms(initial, swapped)
    assert permutation == order
    np.testing.assert_allclose(matched.positions, final.positions, atol=1e-12)
    assert match_atoms(initial, final)[1] is None
    with pytest.raises(StructureError, match="another order"):
        match_atoms(initial, final[::-1], reorder=False)
    assert match_atoms(initial, final[::-1])[1] == list(range(len(final)))[::-1]


def test_two_atoms_that_truly_change_places_are_left_to_it():
    initial, _ = hop("Al", "Au")
    final = initial.copy()
    final.positions[[0, 1]] = initial.positions[[1, 0]]
    matched, permutation = match_atoms(initial, final)
    assert permutation is None
    np.testing.assert_allclose(matched.positions, final.positions, atol=1e-12)


def test_ends_are_unwrapped_across_the_cells_edge():
    initial, final = hop("Al", "Au")
    final.positions[-1, 0] += 3 * final.cell[0, 0]
    matched, _ = match_atoms(initial, final)
    assert np.linalg.norm(matched.positions - initial.positions, axis=1).max() < 3


def test_a_vacancys_barrier_and_its_bar_are_those_of_the_members():
    crystal = bulk("Ar", "fcc", a=3.56, cubic=True) * (2, 2, 2)
    neighbor = int(np.argsort(crystal.get_distances(0, range(len(crystal)), mic=True))[1])
    initial, final = crystal.copy(), crystal.copy()
    final.positions[neighbor] = crystal.positions[0]
    del initial[0], final[0]
    members = [
        ase_nnp.build_model("lj", {"epsilon": e}, dtype="float64") for e in (0.36, 0.4, 0.46)
    ]
    (path,) = reaction_paths([(initial, final)], DeepEnsemble(members), images=3, finish_at=0.0)
    assert path.converged
    table = np.array(
        [[r["energy"] for r in ase_nnp.predict(m, path.images, ("energy",))] for m in members]
    )
    wanted = table.max(axis=1) - table[:, 0]
    np.testing.assert_allclose(path.barrier.members, wanted, atol=1e-10)
    assert path.barrier.std == pytest.approx(wanted.std(ddof=1), abs=1e-10)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


#: One kill in the fast tests, all ten in the slow ones: each starts a process of its own.
LATER = (0, 4, 8, 12, 20, 24, 28, 32, 36)
KILLS = [16, *(pytest.param(n, marks=pytest.mark.slow) for n in LATER)]


@pytest.mark.slow
@pytest.mark.parametrize("after", KILLS)
def test_a_killed_run_goes_on_to_the_same_paths(after, tmp_path, uninterrupted):
    worker = subprocess.Popen(
        [sys.executable, str(HELPERS / "path_worker.py"), str(tmp_path)], stdout=subprocess.PIPE
    )
    for line in worker.stdout:
        if line.strip().isdigit() and int(line) > after:
            worker.send_signal(signal.SIGKILL)
            break
    worker.stdout.close()
    worker.wait()
    for one, other in zip(run(tmp_path), uninterrupted, strict=True):
        assert (one.steps, one.evaluations) == (other.steps, other.evaluations)
        for a, b in zip(one.images, other.images, strict=True):
            np.testing.assert_allclose(a.positions, b.positions, atol=1e-12)


@pytest.mark.slow
def test_a_folder_goes_on_with_its_own_run_only(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="images"):
        reaction_paths([hop("Al", "Au")], EMT_MODEL, images=4, folder=tmp_path)
    bands = tmp_path / "bands"
    bands.write_bytes(bands.read_bytes()[:-7])
    with pytest.raises(DatasetError, match="damaged"):
        run(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"images": 0}, {"fmax": 0}, {"method": "magic"}, {"finish_at": -1}, {"speed": 3}]
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ConfigError):
        reaction_paths([hop("Al", "Au")], EMT_MODEL, **settings)
