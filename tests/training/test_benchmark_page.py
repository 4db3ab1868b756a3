"""The page of a benchmark: every figure of the report, in one file that loads nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp import build_model, list_models, save_model, write_dataset
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError
from ase_nnp.training.benchmarks.benchmark_page import write_benchmark_page
from ase_nnp.training.benchmarks.report import Answer, BenchmarkReport
from ase_nnp.training.benchmarks.run import compare_reports


def report(model, shift):
    answers = [
        Answer(f"record {g}{k}", f"group <{g}>", 0.1 * k, 0.1 * k + shift * (1 + k % 2), 0.2,
               (0.1 * k - 0.3, 0.1 * k + 0.5), k == 2, label="normal" if k else "energy_anomaly")
        for g in range(3)
        for k in range(4)
    ]  # fmt: skip
    answers.append(Answer("silent", "group <0>", 1.0, problem="an element it does not know"))
    return BenchmarkReport("set.json", "adsorption", model, answers=answers, notes=["a note"])


def test_a_page_holds_metrics_bars_groups_and_the_worst_records(tmp_path):
    reports = [report("good", 0.05), report("bad", 0.25)]
    compared = {name: one.as_dict() for name, one in compare_reports(reports).items()}
    path = write_benchmark_page(reports, tmp_path / "pages", compared)
    text = path.read_text()
    # The mean of 0.05 and 0.1 over as many records of each, and five times that.
    assert "0.075" in text
    assert "0.375" in text
    assert "group &lt;0&gt;" in text
    assert "an element it does not know" in text
    assert "energy_anomaly" in text
    assert "good against bad" in text
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text
    stored = json.loads((tmp_path / "pages" / "benchmark.json").read_text())
    assert stored["reports"][0]["metrics"]["mae"] == pytest.approx(0.075)
    assert stored["reports"][1]["bars"]["unknown"] == pytest.approx(3 / 12)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name a folder"):
        write_benchmark_page([report("good", 0.05)], tmp_path / "file")


def test_the_command_writes_the_page(tmp_path, capsys):
    atoms = bulk("Ar", "fcc", 5.3)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((1, 3)))
    write_dataset(tmp_path / "d.extxyz", [atoms])
    model = build_model("lj", dict(list_models()["lj"].test_config), dtype="float64")
    save_model(model, tmp_path / "m.nnp", license="MIT")

    command = ["evaluate", str(tmp_path / "m.nnp"), "--benchmark", str(tmp_path / "d.extxyz")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--report", str(tmp_path / "out"), "--device", "cpu", "--json"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    assert json.loads(output.out)["report"] == str(tmp_path / "out" / "benchmark.html")
    assert (tmp_path / "out" / "benchmark.html").exists()
