"""What all commands print and read: text, tables and JSON by one door, structures from files.

File names, formulas and texts of plugins are other people's. What they say reaches the terminal
only through :func:`say` and :func:`note`, which write control characters as escapes, so that no
name can move the cursor, set a title or color what follows.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ase_nnp.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "JsonOption",
    "note",
    "plain",
    "print_json",
    "print_table",
    "read_structures",
    "say",
    "select",
    "warn",
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def plain(text: object) -> str:
    """Return text with every character that does not print as an escape; line ends stay."""
    return "".join(
        c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def say(text: object = "") -> None:
    """Print text to stdout."""
    _write(sys.stdout, plain(text))


def note(text: object) -> None:
    """Print text to stderr."""
    _write(sys.stderr, plain(text))


def warn(text: str, seen: list[str] | None = None) -> None:
    """Print a warning to stderr in one line; also append it to ``seen``."""
    if seen is not None:
        seen.append(text)
    note(f"ase-nnp: warning: {' '.join(text.split())}")


def _write(stream: TextIO, text: str) -> None:
    # A terminal that knows no "Å" gets an escape: a finished calculation must not die of it.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def print_json(value: Any) -> None:
    """Print ``value``; numpy numbers and arrays become plain ones, what is not finite null."""
    say(json.dumps(_jsonable(value), default=str, indent=1, allow_nan=False))


def _jsonable(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; where the terminal is too narrow, each row becomes a block."""
    from rich.console import Console

    from ase_nnp.cli.commands.tables import render

    heads = [plain(c) for c in columns]
    cells = [[" ".join(plain(cell).split("\n")) for cell in row] for row in rows]
    if title:
        say(title)
    say(render(heads, cells, Console().width))


def read_structures(path: Path) -> Sequence[Atoms]:
    """Return the structures of any dataset or file that ASE reads."""
    if not path.exists():
        raise DatasetError(f"there is no such file or folder{_how_to_build(str(path))}", path=path)
    from ase_nnp.datasets import open_dataset

    return open_dataset(path)


def _how_to_build(name: str) -> str:
    """Return how to make a file of what ASE knows by name; empty for any other name."""
    from ase.collections import g2
    from ase.data import atomic_numbers, reference_states

    state = reference_states[atomic_numbers[name]] if name in atomic_numbers else None
    if state and state["symmetry"] in ("fcc", "bcc", "hcp", "diamond", "sc"):
        return f"; make one of the crystal: ase build -x {state['symmetry']} {name} {name}.traj"
    if name in g2.names:
        return f"; make one of the molecule: ase build {name} {name}.traj"
    return ""


def select(data: Sequence[Atoms], index: int | None, source: object) -> Sequence[Atoms]:
    """Return the structures that ``--index`` leaves."""
    if index is None:
        return data
    if not -len(data) <= index < len(data):
        raise ConfigError(f"--index {index}: {source} holds {len(data)} structures.")
    return [data[index]]
