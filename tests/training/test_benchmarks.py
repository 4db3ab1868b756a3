"""Benchmarks: known answers through the whole way, classes, bars, and files of other programs."""

from __future__ import annotations

import json
import lzma
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.optimize import BFGS

import ase_nnp
from ase_nnp import from_ase, open_dataset, write_dataset
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.metrics import solvation_metrics
from ase_nnp.models.potential import Potential
from ase_nnp.training.benchmarks.adsorption import (
    Reaction,
    adsorption_benchmark,
    classify,
    reactions_of,
)
from ase_nnp.training.benchmarks.crystals import read_crystals
from ase_nnp.training.benchmarks.exchange import catbench_reactions, write_catbench_result
from ase_nnp.training.benchmarks.judged import judge
from ase_nnp.training.benchmarks.relaxed import Relaxed
from ase_nnp.training.benchmarks.report import Answer, BenchmarkReport
from ase_nnp.training.benchmarks.run import benchmark_path, compare_reports, run_benchmark

ROOT = Path(__file__).resolve().parent.parent.parent


def emt():
    return from_ase(EMT())


def reaction(metal, height, offset=0.0, site="ontop"):
    """CO on a slab of a metal by EMT; the reference is EMT's own energy plus an offset."""
    slab = fcc111(metal, (2, 2, 3), vacuum=7.0)
    slab.pbc = True
    slab.set_tags(np.where(slab.get_tags() == 1, 1, 0))
    slab.set_constraint(FixAtoms(range(8)))
    adslab = slab.copy()
    adsorbate = molecule("CO")
    adsorbate.set_tags([2, 2])
    add_adsorbate(adslab, adsorbate, height, site)
    gas = molecule("CO", vacuum=5.0)
    parts = {"star": slab, "COstar": adslab, "COgas": gas}
    signs = {"star": -1.0, "COstar": 1.0, "COgas": -1.0}
    for atoms in parts.values():
        copy = atoms.copy()
        copy.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=copy.get_potential_energy())
    energy = sum(signs[p] * a.get_potential_energy() for p, a in parts.items())
    return Reaction(f"{metal}_{site}_{height}", "*CO", energy + offset, parts, signs)


@pytest.fixture(scope="module")
def reactions():
    sites = ("ontop", "fcc", "bridge")
    return [
        reaction(metal, 1.8 + 0.1 * k, 0.1 * k, sites[k])
        for metal in ("Cu", "Pt")
        for k in range(3)
    ]


def test_a_model_that_is_the_reference_has_exactly_the_errors_put_in(reactions):
    report, relaxed = adsorption_benchmark(emt(), reactions)
    assert relaxed == {}
    assert [a.error for a in report.answers] == pytest.approx([0, -0.1, -0.2] * 2, abs=1e-9)
    assert report.metrics["mae"] == pytest.approx(0.1)
    assert report.metrics["bias"] == pytest.approx(-0.1)
    assert report.metrics["mae_shifted"] == pytest.approx(0.4 / 6)
    # Relative to each metal's mean the errors are 0.1, 0, -0.1.
    assert report.metrics["site_groups"] == 2
    assert report.metrics["site_mae"] == pytest.approx(0.2 / 3)
    assert report.bars["coverage"] is None
    assert [a.label for a in report.answers] == ["normal"] * 6
    assert report.metrics["mae_normal"] == pytest.approx(0.1)


def test_a_set_survives_the_way_through_its_file(reactions, tmp_path):
    path = catbench_reactions(reactions, tmp_path / "set_adsorption.json")
    back = reactions_of(open_dataset(path))
    assert [(r.name, r.adsorbate) for r in back] == [(r.name, r.adsorbate) for r in reactions]
    assert [r.energy for r in back] == pytest.approx([r.energy for r in reactions])
    report = run_benchmark({"emt": emt()}, path, output=tmp_path)[0]
    assert report.metrics["mae"] == pytest.approx(0.1, abs=1e-6)
    structures = open_dataset(tmp_path / "ml-peg/emt/mol_surface_structs.extxyz")
    difference = [
        a.info["pred_adsorption_energy"] - a.info["PBE_adsorption_energy"] for a in structures
    ]
    assert difference == pytest.approx([0, -0.1, -0.2] * 2, abs=1e-6)
    assert (tmp_path / "result/emt/emt_result.json").exists()


def test_relaxed_reactions_get_classes_and_catbench_files(reactions, tmp_path):
    far = reaction("Cu", 1.9, offset=5.0)
    chosen = [reactions[0], far]
    report, relaxed = adsorption_benchmark(emt(), chosen, relax=True, steps=60)
    labels = [a.label for a in report.answers]
    assert labels[0] in ("normal", "adsorbate_migration")
    assert labels[1] in ("energy_anomaly", "adsorbate_migration", "unphysical_relaxation")
    assert sum(row["rate"] for row in report.by_label.values()) == pytest.approx(1)
    path = write_catbench_result(report, chosen, relaxed, tmp_path)
    content = json.loads(path.read_text())
    one = content[reactions[0].name]
    assert one["final"]["ads_eng_median"] == pytest.approx(report.answers[0].prediction)
    assert one["0"]["adslab_steps"] == relaxed[reactions[0].name].runs["COstar"].steps
    assert content["calculation_settings"]["chemical_bond_cutoff"] == 6.0


@pytest.mark.parametrize(
    ("changes", "energy", "expected"),
    [
        ({}, 0.0, "normal"),
        ({}, 2.5, "energy_anomaly"),
        ({"bond_change": 0.3}, 2.5, "adsorbate_migration"),
        ({"substrate_displacement": 0.6, "bond_change": 0.3}, 0.0, "unphysical_relaxation"),
        ({"slab_displacement": 0.51}, 0.0, "unphysical_relaxation"),
        ({"steps": 999}, 0.0, "unphysical_relaxation"),
        ({"converged": False}, 0.0, "unphysical_relaxation"),
        ({}, None, "unphysical_relaxation"),
    ],
)
def test_classes_follow_the_published_order_and_thresholds(changes, energy, expected):
    still = {
        "steps": 10,
        "converged": True,
        "slab_displacement": 0.1,
        "adslab_displacement": 0.1,
        "substrate_displacement": 0.1,
        "bond_change": 0.05,
        "runs": {},
    }
    assert classify(Relaxed(**{**still, **changes}), energy, 0.0, 999) == expected


def test_an_element_that_a_model_does_not_know_is_an_answer_without_energy(reactions):
    model = emt()
    model.elements = frozenset({29, 6, 8})
    report, _ = adsorption_benchmark(model, reactions)
    assert report.metrics["answered"] == 3
    refused = [a for a in report.answers if a.prediction is None]
    assert all(a.unknown and "element" in a.problem for a in refused)


def test_coverage_and_sharpness_are_those_of_the_bars():
    answers = [
        Answer("a", "x", 0.0, 0.1, 0.2, (-0.2, 0.4), False),
        Answer("b", "x", 1.0, 0.1, 0.4, (-0.5, 0.7), True),
        Answer("c", "y", 1.0, None, unknown=True, problem="no"),
    ]
    bars = BenchmarkReport("b", "adsorption", "m", answers=answers).bars
    assert bars["coverage"] == 0.5
    assert bars["sharpness"] == pytest.approx(0.3)
    assert bars["unknown"] == pytest.approx(2 / 3)


def test_two_models_are_compared_over_groups(reactions):
    answers = {
        name: [
            Answer(f"{g}{k}", f"group {g}", 0.0, shift + 0.01 * np.sin(7 * k + g))
            for g in range(4)
            for k in range(20)
        ]
        for name, shift in (("good", 0.05), ("bad", 0.25))
    }
    reports = [BenchmarkReport("b", "s2ef", n, answers=a) for n, a in answers.items()]
    comparison = compare_reports(reports)["good - bad"]
    assert comparison.difference == pytest.approx(-0.2, abs=0.01)
    assert comparison.significant
    assert comparison.a_better > 0.95


def test_solvation_known_answers_come_through_the_benchmark(shared, tmp_path):
    folder = shared / "datasets" / "oc25_solvation"
    expected = json.loads((folder / "expected.json").read_text())
    dataset = open_dataset(folder / "solvation.aselmdb")
    truth = {row["identifier"]: row["solvation_energy"] for row in expected["rows"]}
    wrong = expected["predicted_solvation_energy"]

    # Only the full structure's label is moved, by what the stored prediction is off.
    frames = []
    for atoms in dataset:
        shift = 0.0
        if atoms.info["part"] == "randsh0":
            shift = truth[atoms.info["identifier"]] - wrong[atoms.info["identifier"]]
        energy = atoms.get_potential_energy() + shift
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        frames.append(atoms)
    write_dataset(tmp_path / "cases.aselmdb", frames)

    report = run_benchmark({"stored": Stored(dataset)}, tmp_path / "cases.aselmdb")[0]
    known = solvation_metrics(wrong, truth)["solvation_energy_mae"]
    assert report.metrics["mae"] == pytest.approx(known, abs=1e-6)
    assert report.metrics["clean_ads_energy_mae"] == pytest.approx(0, abs=1e-6)


def Stored(dataset):
    """A model that answers with the labels of a dataset."""
    from ase.calculators.calculator import Calculator

    class Labels(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=("energy",), system_changes=()):
            for one in dataset:
                if len(one) == len(atoms) and np.allclose(one.positions, atoms.positions):
                    self.results = {
                        "energy": one.get_potential_energy(),
                        "forces": np.zeros((len(one), 3)),
                    }
                    return
            raise ValueError("another structure")

    return from_ase(Labels())


def labeled(atoms, **results):
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_s2ef_scores_are_those_of_the_labels(tmp_path):
    frames = []
    for k in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        copy = atoms.copy()
        copy.calc = EMT()
        frames.append(
            labeled(
                atoms,
                energy=copy.get_potential_energy() + 0.01 * k,
                forces=copy.get_forces() + 0.02,
            )
        )
    (tmp_path / "val_id").mkdir()
    write_dataset(tmp_path / "val_id" / "d.extxyz", frames)
    report = run_benchmark({"emt": emt()}, tmp_path / "val_id")[0]
    assert report.metrics["mae"] == pytest.approx(0.025, abs=1e-5)
    assert report.metrics["forces_mae"] == pytest.approx(0.02, abs=1e-5)
    # Energies within 0.02 eV: offsets 0, 0.01 (0.02 itself is not below).
    assert report.metrics["energy_within_threshold"] == pytest.approx(2 / 6, abs=0.17)
    assert list(report.by_group) == ["val_id"]


def test_is2re_needs_a_model_of_adsorption_energies(tmp_path):
    atoms = labeled(fcc111("Cu", (1, 1, 3), vacuum=5.0), energy=0.0)
    atoms.info = {"y_relaxed": -1.0, "sid": 1, "energy_kind": "adsorption"}
    write_dataset(tmp_path / "d.extxyz", [atoms])
    with pytest.raises(ConfigError, match="adsorption"):
        run_benchmark({"emt": emt()}, tmp_path / "d.extxyz")
    model = emt()
    model.energy_kind = "adsorption"
    copy = atoms.copy()
    copy.calc = EMT()
    report = run_benchmark({"emt": model}, tmp_path / "d.extxyz")[0]
    expected = abs(copy.get_potential_energy() + 1.0)
    assert report.metrics["mae"] == pytest.approx(expected, abs=1e-5)
    assert report.metrics["energy_mae"] == pytest.approx(expected, abs=1e-5)


def test_is2rs_counts_structures_that_end_where_the_reference_does(tmp_path):
    frames = []
    for number, off in enumerate((0.0, 0.1, 0.45)):
        atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0)
        add_adsorbate(atoms, "O", 1.4 + 0.1 * number, "fcc")
        atoms.pbc = True
        atoms.set_constraint(FixAtoms(range(3)))
        relaxed = atoms.copy()
        relaxed.calc = EMT()
        BFGS(relaxed, logfile=None).run(fmax=1e-4, steps=200)
        # Only the oxygen is free, so that its way is the mean over free atoms.
        relaxed.positions[3, 2] += off
        energy = relaxed.get_potential_energy()
        labeled(atoms, energy=0.0)
        atoms.info = {"sid": number, "energy_kind": "adsorption", "y_relaxed": energy}
        atoms.info["pos_relaxed"] = relaxed.positions
        frames.append(atoms)
    write_dataset(tmp_path / "d.aselmdb", frames)
    model = emt()
    model.energy_kind = "adsorption"
    metrics = run_benchmark({"emt": model}, tmp_path / "d.aselmdb", relax=True)[0].metrics
    # Of 490 thresholds 0.010, 0.011 ... 0.499 lie 490, 399 and 49 above 0, 0.1 and 0.45 A; the two
    # relaxations, to 0.05 and to 1e-4 eV/A, differ by some 0.002 A.
    assert metrics["adwt"] == pytest.approx((490 + 399 + 49) / (3 * 490), abs=0.005)
    assert metrics["dwt"] == pytest.approx(2 / 3)
    assert metrics["mean_distance"] == pytest.approx(0.55 / 3, abs=0.004)


def test_placements_are_ranked_as_adsorbml_ranks_them(tmp_path):
    frames = []
    energies = []
    for k, height in enumerate((1.6, 1.9, 2.4, 3.0)):
        atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0)
        add_adsorbate(atoms, "O", height)
        atoms.pbc = True
        copy = atoms.copy()
        copy.calc = EMT()
        energies.append(copy.get_potential_energy())
        atoms.info = {"system_id": "s", "config_id": str(k)}
        frames.append(atoms)
    # The model's best placement is 0.3 eV above the best of the reference.
    order = np.argsort(energies)
    reference = {int(order[0]): -1.0, int(order[1]): -1.3, int(order[2]): 0.5, int(order[3]): 0.6}
    for k, atoms in enumerate(frames):
        atoms.info["adsorption_energy"] = reference[k]
    write_dataset(tmp_path / "d.extxyz", frames)
    report = run_benchmark({"emt": emt()}, tmp_path / "d.extxyz")[0]
    assert report.kind == "adsorbml"
    assert report.metrics["success_at_1"] == 0
    assert report.metrics["success_at_2"] == 1


@pytest.mark.slow
def test_elastic_moduli_and_heat_capacities_of_a_table_are_compared(tmp_path):
    pytest.importorskip("pymatgen")
    from pymatgen.io.ase import AseAtomsAdaptor

    entry = {
        "mp_id": "mp-30",
        "formula": "Cu",
        "structure": AseAtomsAdaptor.get_structure(bulk("Cu")).as_dict(),
        "bulk_modulus_vrh": 137.0,
        "shear_modulus_vrh": 50.0,
    }
    path = tmp_path / "mp.json"
    path.write_text(json.dumps([entry], default=lambda value: value.item()))  # NumPy 1 in pbc
    assert read_crystals(path)[0][2] == {"bulk_modulus_vrh": 137.0, "shear_modulus_vrh": 50.0}
    report = run_benchmark({"emt": emt()}, path)[0]
    moduli = {a.group: a.prediction for a in report.answers}
    # EMT's copper: bulk modulus 134 GPa (Jacobsen, Stoltze, Norskov 1996).
    assert moduli["bulk_modulus_vrh"] == pytest.approx(134, abs=4)
    assert report.unit == "GPa"

    heat = {k: v for k, v in entry.items() if "modulus" not in k} | {"heat_capacity": 24.0}
    path.write_text(json.dumps([heat]))
    report = run_benchmark({"emt": emt()}, path)[0]
    # Below Dulong and Petit's 3 R = 24.9 J/(mol K), by a few per cent at 300 K.
    assert 22.5 < report.answers[0].prediction < 24.94
    path.write_text(json.dumps([{"structure": 3, "heat_capacity": 1}]))
    with pytest.raises(DatasetError):
        read_crystals(path)


def test_a_name_that_is_no_benchmark_and_one_that_is_not_there_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="neither a file nor a benchmark"):
        benchmark_path("nonsense")
    monkeypatch.delenv("ASE_NNP_BENCHMARKS", raising=False)
    with pytest.raises(ConfigError, match="ASE_NNP_BENCHMARKS"):
        benchmark_path("BM_dataset")
    (tmp_path / "BM_dataset_adsorption.json").write_text("{}")
    monkeypatch.setenv("ASE_NNP_BENCHMARKS", str(tmp_path))
    assert benchmark_path("BM_dataset") == tmp_path / "BM_dataset_adsorption.json"


@pytest.mark.slow
def test_sites_of_the_coverage_set_are_ranked_as_measured(shared, tmp_path, monkeypatch):
    pytest.importorskip("chgnet")
    from ase_nnp import load_model

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "sites_catbench.py"))
    table = shared / "data_real" / "coverage_adsorption" / "adsorption.json.xz"
    rows = json.loads(lzma.decompress(table.read_bytes()))
    path = catbench_reactions(script["reactions_of_table"](rows), tmp_path / "set.json")
    everything = reactions_of(open_dataset(path))
    assert len(everything) == 630
    chosen = [r for r in everything if r.name.split("_")[1] in "HCNO" and r.name.endswith("_0.25")]
    report, _ = adsorption_benchmark(load_model("chgnet"), chosen)
    metrics = report.metrics
    assert (metrics["site_groups"], metrics["site_best"]) == (20, 14)
    assert metrics["site_within_0.1"] == 18
    assert metrics["site_mae"] == pytest.approx(0.126, abs=0.0006)


def test_isolated_atoms_count_as_relaxed():
    gas = Atoms("O", [[0, 0, 0]], cell=[8, 8, 8])
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    slab.pbc = True
    adslab = slab.copy()
    add_adsorbate(adslab, "O", 1.5)
    adslab.set_tags([0, 0, 1, 2])
    parts = {"star": slab, "Ostar": adslab, "Ogas": gas}
    signs = {"star": -1.0, "Ostar": 1.0, "Ogas": -1.0}
    report, relaxed = adsorption_benchmark(
        emt(), [Reaction("O", "*O", 0.0, parts, signs)], relax=True
    )
    assert relaxed["O"].runs["Ogas"].converged
    assert report.answers[0].prediction is not None


class Sure(Potential):
    """The pair potential with bars of energies that are all wrong together, and a flag."""

    def __init__(self):
        super().__init__()
        self.base = ase_nnp.build_model("lj", dtype="float64")
        self.outputs = (*self.base.outputs, "energy_std", "ood_flag")
        self.cutoff, self.conservative = self.base.cutoff, True
        self.register_buffer("one", torch.ones((), dtype=torch.float64))  # says the precision

    def forward(self, graph):
        result = dict(self.base.compute(graph, self.base.outputs))
        result["energy_std"] = torch.full_like(result["energy"], 0.1)
        result["ood_flag"] = graph.pbc.any(dim=1)
        return result

    def energy_rows(self, graph):
        return torch.ones(graph.num_structures, 1, dtype=torch.float64)


def test_what_errors_of_a_model_that_flags_share_cancels_in_answers():
    one, two = judge(Sure(), [bulk("Cu"), Atoms("N2", [(0, 0, 0), (0, 0, 2.6)])])
    assert (one.unknown, two.unknown) == (True, False)
    assert one.energy.std == pytest.approx(0.1)
    assert (one.energy - two.energy).std == pytest.approx(0.0, abs=1e-12)
