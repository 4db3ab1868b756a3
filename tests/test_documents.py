"""Tutorials are run, links hold, and the site's sources are whole."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "site"))

import cells  # noqa: E402
import measured_figures  # noqa: E402
import model_page  # noqa: E402
import stage  # noqa: E402

#: Run by default; the others take seconds to a minute.
TINY = "10_other_codes"
SCRIPTS = sorted((ROOT / "tutorials").glob("*.py"))
TUTORIALS = [
    pytest.param(path, marks=() if path.stem == TINY else pytest.mark.slow, id=path.stem)
    for path in SCRIPTS
]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]


@pytest.mark.parametrize("path", TUTORIALS)
def test_tutorials_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def test_tutorials_are_numbered_without_a_gap():
    assert [path.stem[:2] for path in SCRIPTS] == [f"{n:02}" for n in range(1, len(SCRIPTS) + 1)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_the_site_shows_of_a_tutorial_is_of_the_script_as_it_is(path):
    code = [cell for cell in cells.read_cells(path) if cell.kind == "code"]
    kept = cells.kept_output(path)
    assert kept["code"] == cells.digest(path), f"python docs/site/cells.py run {path.stem}"
    assert len(kept["cells"]) == len(code)
    assert kept["cpu_seconds"] < 60
    for output in kept["cells"]:
        for picture in output.get("pictures", []):
            assert (cells.PICTURES / picture).exists()


def test_a_notebook_holds_the_cells_of_its_script(tmp_path):
    path = SCRIPTS[0]
    notebook = json.loads(cells.to_notebook(path, tmp_path).read_text())
    assert notebook["nbformat"] == 4
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    text = "\n".join("".join(c["source"]) for c in code)
    compile(text, "notebook", "exec")
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("# ")]
    assert all(line in text for line in lines if not line.startswith("#"))
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page, as forges and the site make them."""
    lines = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {stage.anchor_of(line) for line in lines}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path):
    named = re.findall(r"`((?:tests|benchmarks|data|tutorials)/[\w./-]+\.\w+)`", path.read_text())
    # A plugin's README names its own tests, as it would in a repository of its own.
    places = [ROOT, path.parent]
    shown_as_examples = {"benchmarks/results/NAME.json"}
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert missing <= shown_as_examples


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_and_headings_hold(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for address in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", address):
            continue
        name, _, anchor = address.partition("#")
        target = (path.parent / name) if name else path
        # Made when the site is built, from the program itself.
        if target.name == "commands.md":
            continue
        assert target.exists(), address
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), address


def test_the_readme_is_short_and_reads_well_in_a_terminal():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 88 and not line.startswith("|")] == []


def test_comments_and_marks_are_not_shown_but_code_that_quotes_them_is(tmp_path):
    text = "A `<!-- value: x y --><!-- end -->` b <!-- hidden -->c.\n<!-- source: z -->\n"
    stage.write(tmp_path / "page.md", f"{text}```sh\n# not run here: needs a GPU\nls\n```\n")
    shown = "A `<!-- value: x y --><!-- end -->` b c.\n```sh\nls\n```\n"
    assert (tmp_path / "page.md").read_text() == shown


def test_a_line_that_begins_with_a_mark_keeps_its_words_and_what_follows(tmp_path):
    text = "In all\n<!-- value: x y -->75<!-- end --> s.\n\n## One\n\n<!-- run by: z -->\nls\n"
    stage.write(tmp_path / "page.md", text)
    assert (tmp_path / "page.md").read_text() == "In all\n75 s.\n\n## One\n\nls\n"


def test_a_picture_names_no_program_that_its_table_does_not_have(tmp_path):
    rows = [["Facet, epochs", "CPU min", "E", "F", "E", "F"], ["10", "2", "17", "68", "40", "122"]]
    measured_figures.accuracy(rows, tmp_path / "alone.svg")
    assert "MACE" not in (tmp_path / "alone.svg").read_text()
    rows.append(["MACE, 10", "2", "17", "68", "40", "122"])
    measured_figures.accuracy(rows, tmp_path / "both.svg")
    assert "MACE" in (tmp_path / "both.svg").read_text()


def test_the_table_of_families_speaks_to_its_reader():
    page = model_page.model_table({}, "families/table.md")
    assert "| config |" not in page
    rows = [line for line in page.splitlines() if "| none |" in line]
    assert rows
    assert all("| no forces |" in row for row in rows)


def test_a_number_in_a_table_is_not_torn_apart(tmp_path):
    stage.write(tmp_path / "page.md", "In 2026 100 of\n| 1 532 856 | 300 K, 66 atoms |\n")
    shown = "In 2026 100 of\n| 1\u00a0532\u00a0856 | 300 K, 66 atoms |\n"
    assert (tmp_path / "page.md").read_text() == shown


def test_every_page_of_the_site_is_in_a_table_of_contents():
    listed = "".join(
        re.findall(r"\{toctree\}.*?```", (ROOT / "docs" / "index.md").read_text(), re.S)
    )
    guides = [page for page in stage.pages().values() if "/" not in page and page != "index.md"]
    assert [page for page in guides if f"\n{page.removesuffix('.md')}\n" not in listed] == []


def test_the_guide_to_plugins_shows_what_its_tutorial_runs():
    script = (ROOT / "tutorials" / "09_write_a_plugin.py").read_text()
    guide = (ROOT / "docs" / "write-a-plugin.md").read_text()
    blocks = re.findall(r"```python\n# not run here[^\n]*\n(.*?)```", guide, flags=re.DOTALL)
    assert len(blocks) == 4
    shown = [block for block in blocks if not block.startswith("pretrained=")]
    assert len(shown) == 3
    for block in shown:
        assert block.strip() in script, block


def test_the_changelog_speaks_of_this_version():
    import ase_nnp

    assert ase_nnp.__version__ in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {ase_nnp.__version__}" in (ROOT / "CITATION.cff").read_text()
