"""Figures in the documents come from files that scripts wrote."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [
    str(ROOT / "benchmarks"),
    str(ROOT / "data" / "shipped"),
    str(ROOT / "docs" / "site"),
]

import cells  # noqa: E402
import measurement  # noqa: E402
import shipped_table  # noqa: E402
import tables  # noqa: E402
import typed_figures  # noqa: E402

DOCUMENTS = tables.documents()
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_a_table_and_a_quoted_figure_are_those_of_their_file(path):
    text = path.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "python benchmarks/tables.py"


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_a_figure_in_a_document_comes_from_a_file_or_has_a_source(path):
    assert typed_figures.typed_figures(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", TUTORIALS, ids=names)
def test_a_figure_in_the_words_of_a_tutorial_has_a_source(path):
    words = [cell.text for cell in cells.read_cells(path) if cell.kind != "code"]
    assert [line for text in words for line in typed_figures.typed_figures(text)] == []


@pytest.mark.parametrize("row", ["| Facet | 71 ms |", "| a | 84 % |", "| lips | 0.89 | 0.04 |"])
def test_a_typed_figure_in_a_table_is_found(row):
    head = "| what | value |\n| --- | --- |\n"
    assert typed_figures.typed_figures(head + row + "\n") == [row]
    assert not typed_figures.typed_figures(f"<!-- source: a default -->\n{head}{row}\n")
    made = f"<!-- table: x -->\n{head}{row}\n\n*origin*\n<!-- end -->\n"
    assert not typed_figures.typed_figures(made)


@pytest.mark.parametrize(
    "line",
    [
        "It takes 12.3 CPU ms a call.",
        "Forces are off by 50 meV/Å,",
        "- 88 % of them were marked, and **4.2 %** of these again",
        "2.9 times faster",
        "rotations hold to 1.3e-14 of the largest force",
        "an AUROC of 0.953",
        "of 30 systems 2 of 30 fail",
    ],
)
def test_a_typed_figure_in_a_sentence_is_found(line):
    assert typed_figures.typed_figures(f"# Head\n\nBefore.\n{line}\nAfter.\n") == [line]
    assert not typed_figures.typed_figures(f"<!-- source: a paper -->\nBefore.\n{line}\nAfter.\n")
    below = f"<!-- source: a paper -->\nOther words.\n\n{line}\n"
    assert typed_figures.typed_figures(below) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "90 % intervals of torch 2.13.0 at 300 K with a cutoff of 5 Å (doi:10.1038/s41524-023)",
        "`fmax=0.05` and `0.31 eV`",
        "[a paper](https://doi.org/10.1021/acs.jctc.4c00190)",
        "an error of <!-- value: speed slab -->61.1 ms<!-- end --> a call",
        "    ```sh\n    --std 12.3 eV\n    ```",
    ],
)
def test_settings_code_and_quoted_values_are_no_typed_figures(line):
    assert typed_figures.typed_figures(f"{line}\n") == []


def test_every_file_of_figures_says_where_it_comes_from_and_is_shown():
    shown = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    for path in sorted(tables.RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert re.match(r"\d{4}-\d\d-\d\d", content["date"]), path
        assert content["command"], path
        assert all(len(row) == len(content["columns"]) for row in content["rows"]), path
        assert re.search(rf"<!-- (table|value): {path.stem} ", shown), path


def test_what_a_script_writes_stands_in_the_document(tmp_path):
    rows = [["slab", 61.066, 2], ["crystal", 12345.6, None]]
    measurement.write_measurement(
        "speed", ["what", "ms", "rounds"], rows, values={"slab_ms": 61.066}, folder=tmp_path
    )
    text = "It takes <!-- value: speed slab_ms --><!-- end --> ms.\n\n<!-- table: speed -->\n"

    filled = tables.fill(text + "<!-- end -->\n", tmp_path)
    assert "<!-- value: speed slab_ms -->61.1<!-- end --> ms" in filled
    assert "| slab | 61.1 | 2 |\n| crystal | 12 346 | - |\n" in filled
    assert tables.fill(filled, tmp_path) == filled

    content = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert content["rows"] == rows
    assert set(content["versions"]) >= {"python", "torch", "ase", "numpy"}


def test_a_sentence_quotes_any_json_file_by_the_keys_that_lead_to_a_value(tmp_path, monkeypatch):
    report = {"wide": {"all": {"recall": 0.96}}, "cores": {"pull": [1, 2]}, "cpu ms": 48.41}
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)

    def quote(key):
        return tables.fill(f"<!-- value: report.json {key} --><!-- end -->", tmp_path)

    assert (
        quote("wide/all/recall %")
        == "<!-- value: report.json wide/all/recall % -->96 %<!-- end -->"
    )
    assert ">2<" in quote("cores/pull")
    assert ">48.4<" in quote("cpu ms")
    with pytest.raises(SystemExit, match="no 'none', but"):
        quote("wide/none")


def test_a_run_of_one_model_keeps_the_rows_of_others(tmp_path):
    for model, error in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        measurement.write_measurement(
            "sites", ["model", "eV"], [[model, error]], keep_others=True, folder=tmp_path
        )
    assert tables.read("sites", tmp_path)["rows"] == [["b", 2.0], ["a", 3.0]]


def test_a_row_with_a_missing_cell_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        measurement.write_measurement("x", ["a", "b"], [[1]], folder=tmp_path)


def test_a_document_that_names_no_measurement_is_told(tmp_path):
    with pytest.raises(SystemExit, match="nothing"):
        tables.fill("<!-- table: nothing -->\n<!-- end -->\n", tmp_path)


def test_the_table_of_shipped_models_states_the_present_report():
    content = tables.read("shipped")
    place = content["columns"].index(shipped_table.SHIPS)
    shown = [row[place] for row in content["rows"]]
    assert shown == shipped_table.column(*shipped_table.reports()), "data/shipped/shipped_table.py"
