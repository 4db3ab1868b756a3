"""Every command refuses bad input in one line on stderr with exit code 2."""

from __future__ import annotations

import json

import pytest
import typer
from ase.build import bulk, fcc111, molecule
from ase.io import write

import ase_nnp.cli as cli


def leaves(command, words=()):
    """Every command with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(words, command)]
    return [leaf for name, sub in inner.items() for leaf in leaves(sub, (*words, name))]


cli._register()
COMMANDS = {" ".join(words): command for words, command in leaves(typer.main.get_command(cli.app))}
# What a name that is not there is right for: these make something of that name.
MAKERS = ("plugin new", "env create")


def with_each_argument(name, value):
    """The words of a command whose required arguments and options all say ``value``."""
    words = name.split()
    for parameter in COMMANDS[name].params:
        if parameter.required:
            option = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += [*option, str(value)]
    return words


def one_line(code, err):
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("ase-nnp: ")
    assert "Traceback" not in err
    assert "not expected" not in err
    return True


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_named(run, name):
    code, _, err = run(*name.split(), "--nonsense")
    assert one_line(code, err)


@pytest.mark.parametrize(
    "name", [n for n in COMMANDS if len(with_each_argument(n, "x")) > len(n.split())]
)
def test_missing_arguments_are_named_with_the_usage(run, name):
    code, _, err = run(*name.split())
    assert one_line(code, err)
    assert f"usage: ase-nnp {name}" in err


TAKES_FILES = [
    n for n in COMMANDS if n not in MAKERS and len(with_each_argument(n, "x")) > len(n.split())
]


@pytest.mark.parametrize("name", TAKES_FILES)
def test_names_of_nothing_are_refused(run, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*with_each_argument(name, "nowhere.xyz"))
    assert one_line(code, err)


# `data verify` lists what is broken and ends with 1.
@pytest.mark.parametrize("name", [n for n in TAKES_FILES if n != "data verify"])
@pytest.mark.parametrize("content", [b"hello\nworld\n", bytes(range(256)) * 4, b""])
def test_files_of_nothing_known_are_refused(run, name, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.dat").write_bytes(content)
    code, _, err = run(*with_each_argument(name, "file.dat"))
    assert one_line(code, err)


@pytest.mark.parametrize("group", ["screen", "data", "plugin", "env", "uncertainty"])
def test_a_group_alone_shows_its_commands_and_asks_for_one(run, group):
    code, out, err = run(*group.split())
    assert one_line(code, err)
    assert "which command" in err
    assert "Commands" in out


@pytest.fixture
def copper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("cu.xyz", bulk("Cu", cubic=True))
    write("co.xyz", molecule("CO"))
    return "cu.xyz"


BAD = {
    ("predict", "env:mace", "cu.xyz"): "ase-nnp env create mace",
    ("predict", "cu.xyz", "cu.xyz"): "seems to hold structures",
    ("relax", "cu.xyz", "cu.xyz"): "seems to hold structures",
    ("relax", "a", "b"): "no such file",
    ("eos", "Au"): "ase build -x fcc Au Au.traj",
    ("elastic", "Mo"): "ase build -x bcc Mo Mo.traj",
    ("vibrations", "H2O"): "ase build H2O H2O.traj",
    ("predict", "lj", "cu.xyz", "--device", "mps"): "'mps' cannot be used here",
    ("predict", "lj", "cu.xyz", "--device", "meta"): "'meta' cannot be used here",
    ("predict", "lj", "co.xyz", "--properties", "energy,stress"): "have no stress",
    ("predict", "lj", "cu.xyz", "--properties", ","): "names with commas",
    ("md", "lj", "cu.xyz"): "--temperature 300",
    ("md", "lj", "cu.xyz", "--temperature", "-1"): "zero or more",
    ("plugin", "new", "lj"): "installed already",
    ("plugin", "new", "facet"): "installed already",
    ("bench", "scn"): "--random-weights",
    ("data", "convert", "cu.xyz", "co.xyz"): "--overwrite",
    ("relax", "lj", "cu.xyz", "--fmax", "-1"): "positive force",
    ("compare", "lj", "facet", "cu.xyz", "--plot", "nowhere/x.png"): "no folder",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_the_line_says_what_to_do(run, copper, words):
    code, _, err = run(*words)
    assert one_line(code, err)
    assert BAD[words] in err
    assert "overwrite=" not in err


def test_a_fault_of_our_own_is_one_line_too_and_its_place_can_be_seen(run, copper, monkeypatch):
    def broken(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr("ase_nnp.models.predictor.Predictor.__call__", broken)
    code, _, err = run("predict", "lj", copper)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "KeyError" in err
    code, _, err = run("--traceback", "predict", "lj", copper)
    assert code == 2
    assert "in broken" in err


def test_a_plugin_with_wrong_defaults_is_named_in_one_line(run, lj_family, monkeypatch):
    from dataclasses import replace

    from ase_nnp.registry.installed import installed

    wrong = replace(lj_family, name="wrong", defaults={"sigma": 2.3, "colour": 1})
    monkeypatch.setitem(installed().families, "wrong", wrong)
    code, _, err = run("plugin", "check", "wrong")
    assert one_line(code, err)
    assert "defaults" in err
    assert "'wrong'" in err


def test_a_cell_with_vacuum_that_should_move_is_warned_about(run, copper):
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0, periodic=True)
    slab.info.clear()
    write("slab.xyz", slab)
    code, out, err = run("relax", "lj", "slab.xyz", "--cell", "--steps", 0, "--json")
    assert code in (0, 3)
    assert "warning: --cell" in err
    assert "16.0 Å" in err
    assert json.loads(out)["warnings"]
    npt = ("--ensemble", "npt", "--temperature", 300, "--steps", 1)
    _, _, err = run("md", "lj", "slab.xyz", *npt, "--json")
    assert "warning: --ensemble npt" in err
    _, _, err = run("relax", "lj", copper, "--cell", "--steps", 0, "--json")
    assert "warning" not in err
