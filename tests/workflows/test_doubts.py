"""What a model doubts reaches the result of every workflow, its picture and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms
from ase.io import read, write

import ase_nnp
from ase_nnp import NNPCalculator
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.adsorption import adsorption_energy
from ase_nnp.workflows.adsorption.gate import doubtful
from ase_nnp.workflows.crystals import elastic, eos, phonons
from ase_nnp.workflows.doubts import doubts, flagged, unknown_places
from ase_nnp.workflows.neb import draw_neb, minimum_energy_path
from ase_nnp.workflows.paths import saddle
from ase_nnp.workflows.tasks import ModelTask
from ase_nnp.workflows.thermo import adsorbate, gas, gibbs, solid
from ase_nnp.workflows.vibrations import vibrations

#: Lattice constant of the crystal of the pair potential, Angstrom.
LATTICE = 3.53


class Doubting(Potential):
    """The pair potential of the tests, which knows no volume (or spread) below a limit."""

    def __init__(self, smallest: float = np.inf) -> None:
        super().__init__()
        self.base = ase_nnp.build_model("lj", dtype="float64")
        self.outputs = (*self.base.outputs, "energy_std", "ood_score", "ood_flag")
        self.cutoff, self.conservative = self.base.cutoff, True
        self.smallest = smallest
        self.register_buffer("one", torch.ones((), dtype=torch.float64))  # says the precision

    def forward(self, graph):
        result = dict(self.base.compute(graph, self.base.outputs))
        volume = torch.linalg.det(graph.cell.double()).abs()
        result["energy_std"] = torch.full_like(result["energy"], 0.1)
        result["ood_score"] = torch.full_like(result["energy"], 2.0)
        result["ood_flag"] = volume < self.smallest
        return result


@pytest.fixture
def crystal():
    return bulk("Cu", a=LATTICE)


@pytest.fixture
def pair():
    return Atoms("N2", [(0, 0, 0), (0, 0, 2.57)])


@pytest.fixture(scope="module")
def covered():
    slab = fcc111("Cu", (2, 2, 2), a=LATTICE, vacuum=6)
    slab.set_constraint(FixAtoms(range(8)))
    add_adsorbate(slab, "O", 2.0, "fcc")
    return slab


def test_an_equation_of_state_says_at_which_volumes(crystal, tmp_path):
    found = eos(crystal, Doubting(0.99 * crystal.get_volume()), points=5)
    assert found.result.unknown_volumes == (0, 1)
    assert found.result.as_dict()["unknown_volumes"] == (0, 1)
    assert eos(crystal, Doubting(0.0), points=5).result.unknown_volumes == ()


def test_elastic_constants_count_their_cells(crystal):
    assert elastic(crystal, Doubting()).result.unknown_cells == 25
    assert elastic(crystal, Doubting(0.0)).result.as_dict()["unknown_cells"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ase", "phonopy"])
def test_phonons_count_their_cells(crystal, engine):
    pytest.importorskip(engine)
    settings = {"supercell": (1, 1, 1), "points": 5, "mesh": (2, 2, 2), "engine": engine}
    assert phonons(crystal, Doubting(), **settings).result.unknown_cells >= 2
    assert phonons(crystal, Doubting(0.0), **settings).result.unknown_cells == 0


def test_vibrations_and_free_energies_carry_the_flag(pair, crystal, covered):
    modes = vibrations(pair, Doubting())
    assert modes.unknown
    assert 0 < modes.fmax < 1
    assert not vibrations(pair, Doubting(0.0)).unknown
    for state in (
        gas(pair, Doubting()),
        gas(Atoms("N"), Doubting()),
        adsorbate(covered, Doubting(), relax=False, free=[8], saddle=False),
        solid(crystal, Doubting()),
    ):
        assert state.unknown
        if state.kind != "adsorbate":
            assert gibbs(state).as_dict()["unknown"]
    assert not gas(pair, Doubting(0.0)).unknown


def test_a_band_of_ase_and_a_saddle_point_carry_the_flag(covered, tmp_path):
    other = covered.copy()
    other.positions[8, :2] = covered.cell[:2, :2].sum(axis=0) - covered.positions[8, :2]
    settings = {"images": 1, "steps": 0, "relax_ends": False}
    path = minimum_energy_path(covered, other, NNPCalculator(Doubting()), **settings)
    assert path.unknown_images == (0, 1, 2)
    assert path.as_dict()["unknown_images"] == [0, 1, 2]
    draw_neb(path, tmp_path / "band.png")
    known = minimum_energy_path(covered, other, NNPCalculator(Doubting(0.0)), **settings)
    assert known.unknown_images == ()
    assert saddle(covered, Doubting(), steps=0, mode=np.ones((9, 3))).unknown


def test_batched_runs_end_with_what_the_model_doubts(pair, tmp_path):
    (relaxed,) = ase_nnp.relax_many(Doubting(), pair, steps=2)
    assert relaxed.doubts == {"energy_std": 0.1, "ood_score": 2.0, "ood_flag": True}
    assert relaxed.atoms.calc.results["ood_flag"]
    (moved,) = ase_nnp.run_dynamics(Doubting(), pair, "nve", steps=1, timestep_fs=1.0)
    assert moved.doubts["ood_flag"]
    # Read back from the folder of the run too.
    first, again = (
        ase_nnp.relax_many(Doubting(), pair, steps=2, folder=tmp_path / "run") for _ in range(2)
    )
    assert bool(again[0].doubts["ood_flag"]) is first[0].doubts["ood_flag"] is True
    (plain,) = ase_nnp.relax_many(ase_nnp.build_model("lj"), pair, steps=2)
    assert plain.doubts == {}


def test_tasks_of_a_screening_keep_the_flag(pair, monkeypatch):
    for task in ("relax", "predict"):
        work = ModelTask(task=task, steps=1)
        monkeypatch.setattr(ModelTask, "load", lambda self: Doubting())
        monkeypatch.setattr(ModelTask, "_predictor", lambda self: ase_nnp.Predictor(Doubting()))
        info = work(pair).info
        assert (bool(info["ood_flag"]), info["energy_std"]) == (True, 0.1)


def test_an_adsorption_energy_has_its_bar_and_names_what_is_unknown(covered):
    slab, atom = covered[:8], Atoms("O")
    limit = 1.0  # of the atom's box, which has no volume
    found = adsorption_energy(covered, slab, atom, Doubting(limit))
    # Three bars of 0.1 eV that nothing is known to correlate.
    assert found.std == pytest.approx(np.sqrt(3) * 0.1)
    assert found.unknown == ("O(g)",)
    assert "±" in str(found)
    assert "unknown to the model: O(g)" in str(found)
    plain = adsorption_energy(covered, slab, atom, ase_nnp.build_model("lj", dtype="float64"))
    assert (plain.std, plain.unknown) == (None, ())
    assert plain.energy == pytest.approx(found.energy, abs=1e-9)


def test_a_flag_without_a_score_rejects_too():
    assert doubtful({"ood_flag": True})
    assert not doubtful({"ood_flag": False})


def test_calculators_and_models_without_a_flag_raise_none(pair):
    plain = ase_nnp.build_model("lj")
    assert doubts(plain, [pair]) == [{}]
    assert unknown_places(plain, [pair]) == []
    assert not flagged(object())


#: What each command is given beside the model, which flags everything.
COMMANDS = {
    "eos": ("crystal.traj", "--points", "5"),
    "elastic": ("crystal.traj",),
    "phonons": ("crystal.traj", "--supercell", "1,1,1", "--points", "3"),
    "vibrations": ("pair.traj",),
    "gibbs": ("pair.traj",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_warn_and_their_json_says_so(run, monkeypatch, tmp_path, command, crystal, pair):
    from ase_nnp.cli.commands import shared_options

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shared_options, "model_from", lambda *_: Doubting())
    write("crystal.traj", crystal)
    write("pair.traj", pair)
    code, out, err = run(command, *COMMANDS[command], "--json")
    assert code == 0, err
    assert "outside of what the model knows" in err
    assert "outside of what the model knows" in json.loads(out)["warnings"][0]


@pytest.mark.parametrize("command", ["predict", "relax", "md"])
def test_tables_have_a_column_for_the_flag(run, monkeypatch, tmp_path, command, pair):
    from ase_nnp.cli.commands import shared_options

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shared_options, "model_from", lambda *_: Doubting())
    write("pair.traj", pair)
    more = {"relax": ("--steps", "1"), "md": ("--steps", "1", "--temperature", "300")}
    code, out, err = run(command, "pair.traj", *more.get(command, ()))
    assert code in (0, 3), err
    assert "in domain" in " ".join(out.split())
    assert "NO" in out.split()


def test_a_structure_that_is_not_at_rest_has_no_modes_to_speak_of(run, tmp_path, pair):
    pair.set_distance(0, 1, 2.4)
    write(tmp_path / "pair.traj", pair)
    _, out, err = run("vibrations", "lj", tmp_path / "pair.traj", "--json")
    assert "relax it first" in err
    assert json.loads(out)["fmax"] == pytest.approx(
        np.linalg.norm(_forces(read(tmp_path / "pair.traj")), axis=1).max(), rel=1e-6
    )


def _forces(atoms):
    atoms.calc = NNPCalculator("lj", dtype="float64")
    return atoms.get_forces()


@pytest.mark.slow
def test_eos_on_the_command_line_has_the_bar_of_the_function(run, tmp_path):
    write(tmp_path / "cu.traj", bulk("Cu"))
    _, out, err = run("eos", tmp_path / "cu.traj", "--json")
    expected = eos(bulk("Cu"))
    report = json.loads(out)
    assert report["warnings"] == [], err
    assert list(report["std"].values()) == pytest.approx(expected.std.tolist(), rel=1e-3)
    assert report["error_bar"] == expected.covers
