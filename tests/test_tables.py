"""Figures in the documents come from files that scripts wrote."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "data" / "shipped")]

import measurement  # noqa: E402
import shipped_table  # noqa: E402
import tables  # noqa: E402

UNITS = "ms|s|min|µs|eV|meV|kB|MB|MiB|GB|GPa|Å|THz|times|meV/atom|meV/Å|eV/Å"
NUMBER = r"(?<![\w.-])\d+\.\d+(?![\w.-])"
#: A number with a unit, a share, or two numbers with decimals in one row.
FIGURE = re.compile(rf"\d (?:{UNITS})(?![\w³^])|\d ?%|{NUMBER}.*\|.*{NUMBER}")
DOCUMENTS = tables.documents()


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_a_table_and_a_quoted_figure_are_those_of_their_file(path):
    text = path.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "python benchmarks/tables.py"


def measured(text: str) -> list[str]:
    """Return the rows of tables that hold figures and name no source."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = tables.TABLE.sub("", text)
    # Stated limits, defaults and arithmetic are no measurements: the line above says what they are.
    text = re.sub(r"^<!-- source: .* -->\n(\|.*\n)+", "", text, flags=re.MULTILINE)
    return [row for row in text.splitlines() if row.startswith("|") and FIGURE.search(row)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_a_figure_in_a_table_has_a_source(path):
    assert measured(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("row", ["| Facet | 71 ms |", "| a | 84 % |", "| lips | 0.89 | 0.04 |"])
def test_a_typed_figure_is_found(row):
    head = "| what | value |\n| --- | --- |\n"
    assert measured(head + row + "\n") == [row]
    assert measured(f"<!-- source: the default of relax -->\n{head}{row}\n") == []
    assert measured(f"<!-- table: x -->\n{head}{row}\n\n*origin*\n<!-- end -->\n") == []


def test_every_file_of_figures_says_where_it_comes_from_and_is_shown():
    shown = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    for path in sorted(tables.RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert re.match(r"\d{4}-\d\d-\d\d", content["date"]), path
        assert content["command"] or content["carried_over"], path
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
