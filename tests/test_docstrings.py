"""Documented parameters are the real ones, in every docstring that has a section of them."""

from __future__ import annotations

import ast
import doctest
import warnings
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "ase_nnp").rglob("*.py"), *(ROOT / "plugins").glob("*/ase_nnp_*/**/*.py")])


def documented(docstring: str) -> list[str] | None:
    """Names in the section Parameters, several to an entry where they are described together."""
    from numpydoc.docscrape import NumpyDocString

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sections = NumpyDocString(docstring)
    entries = sections["Parameters"] + sections["Other Parameters"]
    names = [name.strip().lstrip("*") for entry in entries for name in entry.name.split(",")]
    return names or None


def real(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's arguments, ``self`` and those with an underscore left out."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    names += [a.arg for a in (given.vararg, given.kwarg) if a is not None]
    return [n for n in names if n not in ("self", "cls") and not n.startswith("_")]


def mismatches(path: Path) -> list[str]:
    """One line for each docstring whose parameters are not the function's or the class's."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        names = documented(ast.get_docstring(node) or "")
        if names is None:
            continue
        if isinstance(node, ast.ClassDef):
            made_by = [n for n in node.body if getattr(n, "name", "") == "__init__"]
            fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
            fields = [name for name in fields if not name.startswith("_")]
            actual = real(made_by[0]) if made_by else fields
        else:
            actual = real(node)
        missing, unknown = set(actual) - set(names), set(names) - set(actual)
        if missing or unknown:
            lines.append(
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: undocumented "
                f"{sorted(missing)}, not there {sorted(unknown)}"
            )
    return lines


def test_documented_parameters_are_the_real_ones():
    pytest.importorskip("numpydoc")
    wrong = [line for path in FILES for line in mismatches(path)]
    assert not wrong, "\n".join(wrong)


EXAMPLES = [
    path for path in FILES if ">>>" in path.read_text() and path.is_relative_to(ROOT / "ase_nnp")
]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_run(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    results = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0


def test_fields_of_the_graph_and_attributes_of_potentials_are_documented():
    from dataclasses import fields

    from ase_nnp import AtomGraph, Conservative, Potential

    for cls, names in (
        (AtomGraph, [f.name for f in fields(AtomGraph)]),
        (Potential, [n for n in Potential.__annotations__]),
        (Conservative, [n for n in Conservative.__annotations__]),
    ):
        missing = [name for name in names if name not in (cls.__doc__ or "")]
        assert not missing, (cls.__name__, missing)
