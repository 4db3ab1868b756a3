"""A flag travels with every number that is made of the flagged structure, and into files."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.io import read, write

import ase_nnp
from ase_nnp import relax_many
from ase_nnp.cli.commands.relaxation_picture import draw_first
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty import DeepEnsemble, UncertaintyWarning
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.observables import combine
from ase_nnp.workflows import adsorption, batched, picture
from ase_nnp.workflows.adsorption import (
    AdsorptionEnergy,
    adsorption_table,
    draw_adsorption_table,
    draw_volcano,
)
from ase_nnp.workflows.batched import run_dynamics
from ase_nnp.workflows.batched.dynamics import Dynamics
from ase_nnp.workflows.doubts import noted
from ase_nnp.workflows.paths import reaction_paths, transition_rate
from ase_nnp.workflows.solvation import solvation
from ase_nnp.workflows.thermo import State, gibbs
from ase_nnp.workflows.thermo.bulk_pourbaix import bulk_pourbaix
from ase_nnp.workflows.thermo.electrode import draw_reaction_diagram, reaction_diagram
from ase_nnp.workflows.thermo.integration import integrate
from ase_nnp.workflows.thermo.surface_phases import (
    SurfacePhase,
    draw_surface_phases,
    surface_energy,
    surface_phase_diagram,
    surface_pourbaix,
    wulff_shape,
)
from ase_nnp.workflows.thermo.vacancies import vacancy_energies


class NoOxygen(Potential):
    """The pair potential of the tests, which knows no structure with oxygen."""

    def __init__(self, strange: int = 8) -> None:
        super().__init__()
        self.base = ase_nnp.build_model("lj", dtype="float64")
        self.outputs = (*self.base.outputs, "energy_std", "ood_score", "ood_flag")
        self.cutoff, self.conservative, self.strange = self.base.cutoff, True, strange
        self.register_buffer("one", torch.ones((), dtype=torch.float64))  # says the precision

    def forward(self, graph):
        result = dict(self.base.compute(graph, self.base.outputs))
        count = torch.zeros_like(result["energy"])
        count.index_add_(0, graph.batch, (graph.atomic_numbers == self.strange).to(count.dtype))
        result["energy_std"] = torch.full_like(result["energy"], 0.1)
        result["ood_score"] = count
        result["ood_flag"] = count > 0
        return result


@pytest.fixture(scope="module")
def model():
    return NoOxygen()


@pytest.fixture(scope="module")
def known(model):
    """Energies of a slab alone, with H, with O and with OH."""
    slab = fcc111("Cu", (2, 2, 1), vacuum=6)
    structures = [slab]
    for guest in ("H", "O", Atoms("OH", [(0, 0, 0), (0, 0, 1)])):
        covered = slab.copy()
        add_adsorbate(covered, guest, 2.0, "fcc")
        structures.append(covered)
    return dict(zip(("*", "*H", "*O", "*OH"), energies(model, structures), strict=True))


@pytest.fixture
def figures(monkeypatch):
    from ase_nnp.workflows.adsorption import trends

    drawn = []
    for place in (picture, trends):
        monkeypatch.setattr(place, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


def words(figure):
    axes = figure.axes[0]
    legend = axes.get_legend()
    texts = [*axes.texts, *(legend.get_texts() if legend else ())]
    return [text.get_text() for text in texts] + [axes.get_title()]


def test_a_sum_knows_what_of_it_is_unknown_and_forgets_what_cancels(known):
    difference = known["*O"] - known["*"]
    assert difference.unknown == ("Cu4O",)
    assert "unknown to the model: Cu4O" in str(difference)
    assert known["*"].unknown == (known["*H"] - known["*"]).unknown == ()
    assert (difference - known["*O"] + 3.0).unknown == ()
    assert (0.5 * known["*O"] + known["*OH"] / 3).unknown == ("Cu4O", "HCu4O")
    assert (0.0 * known["*O"]).unknown == ()


def test_a_function_rests_on_all_its_arguments(known):
    highest = combine(max, known["*H"], known["*O"])
    assert highest.unknown == ("Cu4O",)
    assert (highest - known["*O"]).unknown == ("Cu4O",)


def test_two_models_that_flag_one_structure_do_not_cancel():
    atoms = [Atoms("CO", [(0, 0, 0), (0, 0, 2.6)])]
    (one,), (two,) = energies(NoOxygen(), atoms), energies(NoOxygen(6), atoms)
    assert (one - two).unknown == ("CO",)
    assert (one - pickle.loads(pickle.dumps(one))).unknown == ()


def test_ensembles_carry_the_flag_of_their_bonding():
    known = [bulk("Cu", cubic=True) for _ in range(3)]
    for seed, atoms in enumerate(known):
        atoms.rattle(0.02, seed=seed)
    members = [ase_nnp.build_model("lj", {"sigma": sigma}) for sigma in (2.3, 2.35)]
    ensemble = DeepEnsemble(members).remember_bonding(known)
    metal, oxide = energies(ensemble, [known[0], bulk("CuO", "rocksalt", a=4.2)])
    assert (metal.unknown, oxide.unknown) == ((), ("CuO",))
    assert (oxide - metal / 4).unknown == ("CuO",)


def test_a_reaction_diagram_marks_steps_levels_and_potentials(known, figures):
    states = {**known, "H2": 0.0, "H2O": 0.0}
    steps = ["* + H2O -> *OH + H+ + e-", "*OH -> *O + H+ + e-", "*O + H2 -> * + H2O"]
    diagram = reaction_diagram(steps, states)
    assert [step["unknown"] for step in diagram.as_dict()["steps"]] == [
        ["HCu4O"], ["Cu4O", "HCu4O"], ["Cu4O"]
    ]  # fmt: skip
    assert diagram.as_dict()["levels_unknown"] == [[], ["HCu4O"], ["Cu4O"], []]
    assert diagram.limiting_potential.unknown == ("Cu4O", "HCu4O")
    # What cancels in the whole reaction does not make its equilibrium doubtful.
    assert diagram.equilibrium_potential.unknown == ()
    draw_reaction_diagram(diagram, "any.png")
    assert "unknown to the model" in words(figures[0])


def test_phases_and_surface_energies_name_their_doubt(known, figures):
    phases = [
        SurfacePhase("clean", 0.0, {}, 10.0),
        SurfacePhase("H", known["*H"] - known["*"], {"H": 1}, 10.0),
        SurfacePhase("O", known["*O"] - known["*"], {"O": 1}, 10.0),
    ]
    others = {"H": -1.0}
    diagram = surface_phase_diagram(phases, "O", [-2.0, 9.0], others)
    assert diagram.unknown == [2]
    assert diagram.crossing(0, 2).unknown == ("Cu4O",)
    draw_surface_phases(diagram, "any.png")
    assert words(figures[0])[:3] == ["clean", "H", "O, unknown to the model"]
    assert surface_pourbaix(phases, known["*H"], 0.0, [0.0, 1.0]).unknown == [2]
    assert surface_energy(known["*OH"], known["*H"], 5, 10.0).unknown == ("HCu4O",)


def test_a_free_energy_of_a_state_made_by_hand_is_unknown_by_its_energy(known):
    assert gibbs(State(known["*O"] - known["*"], "solid")).unknown
    assert not gibbs(State(known["*H"] - known["*"], "solid")).unknown


def test_solvation_energies_name_the_parts(model):
    snapshot = fcc111("Cu", (2, 2, 1), vacuum=8)
    snapshot.set_tags([1] * 4)
    snapshot += Atoms("HO", [(0, 0, 11), (2, 2, 12)], tags=[2, 3])
    found = solvation(snapshot, model)
    assert found.energy.unknown == ("Cu4O", "HCu4O")
    assert found.as_dict()["unknown"] == ["full", "solvent_surface"]


def test_a_vacancy_in_what_is_unknown_says_so():
    pytest.importorskip("spglib")
    crystal = bulk("Cu", a=3.53, cubic=True)
    settings = {"smallest": 3.0, "relax": False}
    assert vacancy_energies(crystal, NoOxygen(29), **settings)[0].energy.unknown == ("Cu3", "Cu4")
    assert vacancy_energies(crystal, NoOxygen(), **settings)[0].energy.unknown == ()


def test_a_rate_rests_on_what_its_barrier_does(known):
    barrier = known["*O"] - known["*O"].value + 0.5
    assert transition_rate(barrier, [0.1], [0.1j], 300).unknown == ("Cu4O",)


def test_images_of_a_path_carry_the_flag_into_files(tmp_path, model):
    apart = [Atoms("OCu", [(0, 0, 0), (0, 0, z)]) for z in (2.5, 2.7)]
    settings = {"relax_ends": False, "images": 3, "steps": 0}
    (path,) = reaction_paths([tuple(apart)], model, **settings)
    assert path.unknown_images == [0, 1, 2, 3, 4]
    write(tmp_path / "path.traj", path.images)
    assert all(image.info["ood_flag"] for image in read(tmp_path / "path.traj", ":"))


def test_dynamics_count_at_how_many_states_the_flag_was_raised(tmp_path, model, monkeypatch):
    monkeypatch.setattr(Dynamics, "looks", 3)
    structures = [Atoms("ON", [(0, 0, 0), (0, 0, 2.6)]), Atoms("N2", [(0, 0, 0), (0, 0, 2.6)])]
    settings = {"steps": 5, "temperature_K": 50, "folder": tmp_path}
    outcomes = run_dynamics(model, structures, "nve", **settings)
    assert [outcome.unknown for outcome in outcomes] == [3, 0]  # steps 0, 3 and 5
    assert [o.unknown for o in run_dynamics(model, structures, "nve", **settings)] == [3, 0]
    assert relax_many(model, structures)[0].unknown == 0


@pytest.mark.parametrize("name", ["q.extxyz", "q.traj", "q.json"])
def test_what_is_noted_comes_back_with_ase_and_what_was_there_goes(tmp_path, name):
    atoms = Atoms("O", info={"ood_score": 9.0, "energy_std": 9.0, "id": 3})
    noted(atoms, {"energy_std": np.float64(0.1), "ood_flag": np.array(True)})
    write(tmp_path / name, atoms)
    info = read(tmp_path / name).info
    info = info.get("data", info) if name == "q.json" else info
    if name != "q.json":  # ASE's database keeps no info
        assert (info["energy_std"], info["ood_flag"]) == (pytest.approx(0.1), True)
    assert sorted(atoms.info) == ["energy_std", "id", "ood_flag"]


def test_a_table_of_adsorption_energies_marks_what_rests_on_the_unknown(tmp_path, figures):
    rows = []
    for surface, energy, more in (("Cu", -0.5, {"unknown": "H2(g)"}), ("Pd", -0.7, {})):
        given = {"surface": surface, "adsorbate": "H", "adsorption_energy": energy}
        rows.append(Atoms("H", info={**given, **more}))
    table = adsorption_table(rows)
    assert table.as_dict()["unknown"] == [["H2(g)"], [""]]
    assert table.doubted("H") == [True, False]
    draw_adsorption_table(table, tmp_path / "a.png")
    draw_volcano(table, "H", tmp_path / "b.png")
    assert {"-0.50?", "-0.70"} <= set(words(figures[0]))
    assert "rests on a structure unknown to the model" in words(figures[1])


def test_shapes_and_diagrams_of_other_packages_warn_of_what_they_cannot_hold(known):
    pytest.importorskip("pymatgen")
    crystal = bulk("Cu", cubic=True)
    energies = {(1, 1, 1): known["*O"] - known["*O"].value + 1.0, (1, 0, 0): 1.1}
    with pytest.warns(UncertaintyWarning, match="the Wulff shape rests on Cu4O, unknown"):
        wulff_shape(crystal, energies)
    solid = known["*O"] - known["*O"].value - 3.6
    with pytest.warns(UncertaintyWarning, match="the Pourbaix diagram rests on Cu4O"):
        bulk_pourbaix("ZnO", {"ZnO": solid}, {"Zn": 0.0, "O": 0.0, "H": 0.0})


def test_the_picture_of_a_relaxation_says_what_its_adsorption_energy_rests_on(
    tmp_path, model, monkeypatch
):
    titles = []
    monkeypatch.setattr(picture, "draw_relaxation", lambda *a, **k: titles.append(k["title"]))
    monkeypatch.setattr(adsorption, "adsorption_energy", lambda *a: AdsorptionEnergy(
        -0.5, "* + O", "oc20", std=0.1, unknown=("adslab", "H2(g)")
    ))  # fmt: skip
    slab = fcc111("Cu", (2, 2, 1), vacuum=6)
    add_adsorbate(slab, "O", 1.2, "fcc")
    row = {"index": 0, "formula": "Cu4O", "converged": True, "out_of_domain": True}
    row |= {"energy_before": 0.0, "energy": 0.0}
    monkeypatch.setattr(batched, "relax_many", lambda *a, **k: [SimpleNamespace(
        converged=True, atoms=slab[:-1]
    )])  # fmt: skip
    draw_first(tmp_path / "a.png", model, slab, slab, row, None, [])
    said = "* + O: -0.50 ± 0.10 eV; unknown to the model: adslab, H2(g)\nunknown to the model"
    assert titles[0].endswith(said)
    assert row["adsorption_unknown"] == ["adslab", "H2(g)"]


def test_integration_says_how_much_of_its_sampling_is_unknown(model):
    pair = Atoms("ON", [(0, 0, 0), (0, 0, 2.6)])
    settings = {"temperature": 100, "steps": 16, "equilibration": 1}
    assert integrate(pair, model, model, 1, **settings).unknown == 1.0
    assert integrate(pair, NoOxygen(6), NoOxygen(6), 1, **settings).unknown == 0.0
