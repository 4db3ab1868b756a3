"""``ase-nnp uncertainty``: from a model file to a report."""

import base64
import json

import numpy as np
import pytest
from ase.io import read, write
from toy_models import Pair, label, molecules

from ase_nnp import NNPCalculator
from ase_nnp.cli import main
from ase_nnp.models.files import build_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_family):
    folder = tmp_path_factory.mktemp("uq")
    truth = Pair(hidden=8, seed=9).double()
    for seed in range(3):
        model = build_model(toy_family, {"hidden": 8, "seed": seed}, dtype="float64")
        save_model(model, folder / f"m{seed}.nnp")
    for name, count, spread in (("train", 20, 0.25), ("cal", 20, 0.25), ("test", 30, 0.25)):
        write(folder / f"{name}.extxyz", label(molecules(count, len(name), spread=spread), truth))
    squeezed = molecules(15, 7)
    for atoms in squeezed:
        atoms.positions *= 0.75
    write(folder / "strange.extxyz", squeezed)
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["uncertainty", *map(str, arguments)])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def fit(capsys, folder, method, *more):
    models = [folder / f"m{i}.nnp" for i in range(3 if method == "ensemble" else 1)]
    return run(
        capsys, "fit", method, *models, "-o", folder / f"{method}.uq", "--dtype", "float64",
        "--train", folder / "train.extxyz", "--calibration", folder / "cal.extxyz", *more,
    )  # fmt: skip


@pytest.mark.slow
def test_fit_evaluate_report(capsys, folder):
    code, out, err = fit(capsys, folder, "ensemble", "--json", "--coverage", "0.8")
    assert code == 0, err
    assert json.loads(out)["coverage"] == 0.8
    given = (folder / "m0.nnp", folder / "ensemble.uq", folder / "test.extxyz")
    more = ("--dtype", "float64", "--shifted", folder / "strange.extxyz")
    code, out, err = run(capsys, "evaluate", *given, *more, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["measures"]["forces"]["interval_coverage"] == pytest.approx(0.8, abs=0.1)
    assert set(report["measures"]["forces"]["interval_coverage_by_element"]) == {"H", "C", "O"}
    assert 0 <= report["ood"]["auroc"] <= 1
    assert "not covered" in report["notes"][0]
    code, out, _ = run(capsys, "evaluate", *given, *more)
    assert code == 0
    assert "miscalibration_area" in out
    pages = []
    for name in ("one", "two"):
        code, out, err = run(capsys, "report", *given, *more, "-o", folder / name)
        assert code == 0, err
        files = {f.name: f.read_bytes() for f in (folder / name).iterdir()}
        pages.append(files)
    assert pages[0] == pages[1]
    text = pages[0]["report.html"].decode()
    for png in (n for n in pages[0] if n.endswith(".png")):
        assert base64.b64encode(pages[0][png]).decode() in text
    figures = {"forces_reliability.png", "forces_error_std.png", "forces_confidence.png"}
    assert figures | {"forces_coverage.png", "ood.png", "report.json"} <= set(pages[0])
    assert "not covered" in text


@pytest.mark.slow
def test_coverage_is_shown_by_kind_and_of_a_shifted_set_with_labels(capsys, folder):
    code, out, err = fit(capsys, folder, "auto", "--json")
    assert code == 0, err
    assert json.loads(out)["calibrator"] == "leave-kind-out"
    test = read(folder / "test.extxyz", ":")
    for number, atoms in enumerate(test):
        atoms.info["phase"] = "cold" if number < 20 else "warm"
    write(folder / "phases.extxyz", test)
    given = (folder / "m0.nnp", folder / "auto.uq", folder / "phases.extxyz", "--kinds", "phase")
    more = ("--dtype", "float64", "--shifted", folder / "phases.extxyz")
    code, out, err = run(capsys, "evaluate", *given, *more, "--json")
    assert code == 0, err
    measures = json.loads(out)["measures"]["forces"]
    table = measures["by_kind"]
    assert list(table) == ["cold", "warm", "shifted: cold", "shifted: warm"]
    assert table["cold"]["n"] == 20 * 5 * 3
    assert table["cold"] == table["shifted: cold"]
    mean = (2 * table["cold"]["interval_coverage"] + table["warm"]["interval_coverage"]) / 3
    assert mean == pytest.approx(measures["interval_coverage"])
    code, out, err = run(capsys, "report", *given, *more, "-o", folder / "by_kind")
    assert code == 0, err
    assert "shifted: warm" in (folder / "by_kind" / "report.html").read_text()
    code, _, err = run(capsys, "evaluate", *given[:-1], "pressure", "--dtype", "float64")
    assert code == 2
    assert "info['pressure']" in err


def test_what_the_command_line_fits_loads_beside_the_model(capsys, folder):
    code, _, err = fit(capsys, folder, "last_layer", "--seed", "3", "--option", "force_std=sampled")
    assert code == 0, err
    (atoms, *_) = read(folder / "test.extxyz", ":")
    calc = NNPCalculator(folder / "m0.nnp", uncertainty=folder / "last_layer.uq", dtype="float64")
    atoms.calc = calc
    atoms.get_forces()
    assert calc.results["energy_std"] > 0
    assert calc.model.seed == 3
    again = folder / "again.uq"
    code, out, err = run(
        capsys, "calibrate", folder / "m0.nnp", folder / "last_layer.uq", folder / "test.extxyz",
        "-o", again, "--calibrator", "affine", "--json", "--dtype", "float64",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["calibrator"] == "affine"
    calc = NNPCalculator(folder / "m0.nnp", uncertainty=again, dtype="float64")
    assert calc.model.uq["n_cal"] == 30


def test_single_precision_is_no_other_model(capsys, folder):
    code, _, err = fit(capsys, folder, "latent")
    assert code == 0, err
    calc = NNPCalculator(folder / "m0.nnp", uncertainty=folder / "latent.uq", dtype="float32")
    (atoms, *_) = read(folder / "test.extxyz", ":")
    atoms.calc = calc
    assert np.isfinite(atoms.get_potential_energy())
    assert calc.results["ood_scores"].shape == (5,)


def test_mistakes_end_in_one_line(capsys, folder):
    for arguments, reason in (
        (("fit", "magic", folder / "m0.nnp", "-o", "x.uq"), "no uncertainty method"),
        (("fit", "latent", folder / "m0.nnp", "-o", "x.uq", "--option", "kind"), "NAME=VALUE"),
        (("fit", "latent", folder / "m0.nnp", "-o", "x.uq"), "training structures"),
        (("evaluate", folder / "m0.nnp", "none.uq", folder / "test.extxyz"), "no uncertainty file"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert reason in err
        assert len(err.strip().splitlines()) == 1


def test_methods_are_listed(capsys):
    code, out, _ = run(capsys, "methods", "--json")
    assert code == 0
    assert {"ensemble", "last_layer", "latent"} <= {row["name"] for row in json.loads(out)}


@pytest.mark.parametrize("count", [1, 12])
def test_a_few_structures_that_calibrate_are_warned_of(folder, capsys, tmp_path, count):
    write(tmp_path / "few.extxyz", read(folder / "cal.extxyz", f":{count}"))
    files = [folder / f"m{i}.nnp" for i in range(3)]
    code, _, err = run(
        capsys, "fit", "ensemble", *files, "--calibration", tmp_path / "few.extxyz",
        "-o", tmp_path / "few.uq", "--dtype", "float64",
    )  # fmt: skip
    assert code == 0, err
    assert f"{count} structures calibrate" in err
    assert ("energy have no end" in err) == (count == 1)
