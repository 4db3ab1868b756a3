"""CatBench reads our benchmark sets and results, and comes to the same classes and errors."""

from __future__ import annotations

import json

import pytest
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ase_nnp import from_ase
from ase_nnp.training.benchmarks.adsorption import Reaction, adsorption_benchmark
from ase_nnp.training.benchmarks.exchange import catbench_reactions, write_catbench_result

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("catbench", reason="needs catbench")


def reaction(metal, height, site, offset):
    slab = fcc111(metal, (2, 2, 3), vacuum=7.0)
    slab.pbc = True
    slab.set_tags([1] * len(slab))
    slab.set_constraint(FixAtoms(range(8)))
    adslab = slab.copy()
    adsorbate = molecule("CO")
    adsorbate.set_tags([2, 2])
    add_adsorbate(adslab, adsorbate, height, site)
    parts = {"star": slab, "COstar": adslab, "COgas": molecule("CO", vacuum=5.0)}
    for atoms in parts.values():
        copy = atoms.copy()
        copy.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=copy.get_potential_energy())
    signs = {"star": -1.0, "COstar": 1.0, "COgas": -1.0}
    energy = sum(signs[p] * a.get_potential_energy() for p, a in parts.items())
    return Reaction(f"{metal}_{site}_{height}", "*CO", energy + offset, parts, signs)


@pytest.mark.parametrize("relax", [False, True])
def test_catbench_finds_the_same_classes_and_errors(tmp_path, monkeypatch, relax):
    import matplotlib

    matplotlib.use("Agg")
    from catbench.adsorption import AdsorptionAnalysis
    from catbench.utils.data_utils import load_catbench_json

    monkeypatch.chdir(tmp_path)
    reactions = [
        reaction("Cu", 1.8, "ontop", 0.0),
        reaction("Cu", 1.9, "fcc", 5.0),
        reaction("Pt", 2.4, "hcp", 0.3),
    ]
    (tmp_path / "raw_data").mkdir()
    catbench_reactions(reactions, tmp_path / "raw_data" / "set_adsorption.json")
    read = load_catbench_json(str(tmp_path / "raw_data" / "set_adsorption.json"))
    assert [r["ref_ads_eng"] for r in read.values()] == [r.energy for r in reactions]

    report, relaxed = adsorption_benchmark(
        from_ase(EMT()), reactions, relax=relax, steps=60, name="emt"
    )
    write_catbench_result(report, reactions, relaxed, tmp_path, steps=60)
    analysis = AdsorptionAnalysis(plot_enabled=False, benchmarking_name="set")
    analysis.analysis()

    classes = json.loads((tmp_path / "result/emt/emt_anomaly_detection.json").read_text())
    theirs = {}
    for name in ("normal", "energy_anomaly", "adsorbate_migration", "unphysical_relaxation"):
        for entry in classes[name]:
            theirs[entry if isinstance(entry, str) else entry["reaction"]] = name
    assert theirs == {a.name: a.label for a in report.answers}

    # The page of the workbook that has one line a model.
    import zipfile

    with zipfile.ZipFile(next(tmp_path.glob("*.xlsx"))) as book:
        numbers = book.read("xl/worksheets/sheet1.xml").decode()
    assert f"<v>{report.metrics['mae']:.6f}"[:10] in numbers
