"""What reaches the terminal: numbers whole, names harmless."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from ase.build import bulk, fcc111
from ase.io import write

from ase_nnp.cli.commands.output import plain, print_table
from ase_nnp.cli.commands.tables import render


def test_help_wraps_by_the_width_of_the_terminal_alone():
    """A line break inside a paragraph of a docstring, the first apart, would be printed."""
    import typer

    from ase_nnp.cli import _register, app

    _register()
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for paragraph in (command.help or "").split("\n\n")[1:]:
            assert "\n" not in paragraph.strip(), command.name


def test_long_names_break_at_their_underscores():
    row = ["forces_are_the_gradient_of_energies", "violated", "8.0e-07", "of 1e-8, " * 8]
    lines = render(("check", "result", "figure", ""), [row], 80).splitlines()
    first = [line[: line.find("  ")] for line in lines[2:4]]
    assert first == ["forces_are_the_gradient_of_", "energies"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_number_of_a_table_is_cut_and_no_line_is_too_long(width):
    rows = [["CCu16O", "yes", "48", "-77.115979", "-123456.297012", "0.0499"]] * 2
    heads = ("formula", "converged", "steps", "start (eV)", "end (eV)", "fmax (eV/Å)")
    page = render(heads, rows, width)
    assert page.count("-123456.297012") == page.count("-77.115979") == 2
    table = "─" in page
    assert not table or max(map(len, page.split("\n"))) <= width


def test_heads_are_folded_before_cells():
    columns = ["energy of adsorption", "interval"]
    table = render(columns, [["-1.23", "-1.46 to -1.01 eV"], ["-0.23", "-0.46 to -0.01 eV"]], 32)
    assert "-1.46 to -1.01 eV" in table
    assert "energy of adsorption" not in table


def test_a_long_word_is_folded_and_nothing_of_it_lost():
    page = render(("name", "value"), [["x" * 100, "1.5"]], 40)
    assert page.count("x") == 100
    assert "1.5" in page


@pytest.mark.parametrize("columns", ["80", "40"])
def test_a_narrow_terminal_shows_whole_energies(columns, tmp_path, run, monkeypatch):
    slabs = [fcc111("Cu", (1, 1, n), vacuum=6.0) for n in (2, 3)]
    for slab in slabs:
        slab.info.clear()
    write(tmp_path / "s.xyz", slabs)
    monkeypatch.setenv("COLUMNS", columns)
    models = ("ase:ase.calculators.emt:EMT", "ase:ase.calculators.lj:LennardJones")
    code, out, _ = run("compare", *models, tmp_path / "s.xyz")
    assert code == 0
    assert "…" not in out
    assert "..." not in out
    assert len(re.findall(r"-?\d+\.\d{4}\b", out)) >= 4


HOSTILE = {
    "an escape sequence": ("a\x1b[31mb", "a\\x1b[31mb"),
    "a title change": ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
    "a C1 control": ("a\x9bb", "a\\x9bb"),
    "an overprint": ("a\rb", "a\\rb"),
    "a turned direction": ("a\u202eb", "a\\u202eb"),
    "a lone surrogate": ("a\udcffb", "a\\udcffb"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_print_is_written_as_an_escape(case):
    text, wanted = HOSTILE[case]
    assert plain(text) == wanted


def test_markup_in_a_table_is_text(capsys):
    print_table("[red]title[/b]", ("[x]", ""), [("[/b]cell", "[bold]")])
    out = capsys.readouterr().out
    assert all(text in out for text in ("[red]title[/b]", "[x]", "[/b]cell", "[bold]"))


@pytest.mark.parametrize("name", ["a[/b].xyz", "a\x1b[31m.xyz", "a\u202e.xyz", "[red]x.xyz"])
def test_names_of_files_cannot_talk_to_the_terminal(run, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    (tmp_path / name).parent.mkdir(exist_ok=True)  # "[/b]" is a folder and a file
    (tmp_path / "cu.extxyz").rename(tmp_path / name)
    outputs = [
        run("data", "info", name),
        run("predict", "lj", f"no{name}"),
        run("relax", "lj", name, "-o", f"out{name}", "--steps", 0),
        run("data", "convert", name, f"converted{name}"),
    ]
    for code, out, err in outputs:
        assert code in (0, 2, 3)
        assert "Traceback" not in err
        for text in (out, err):
            assert "\x1b" not in text.replace("\x1b[?25", "")
            assert "\u202e" not in text
    if "[/b]" in name:
        assert name in outputs[0][1]


def test_a_terminal_without_the_letter_gets_an_escape(tmp_path):
    code = "from ase_nnp.cli.commands.output import say; say('eV/Å')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "eV/\\xc5\n"
