"""What all commands share: JSON on request, tables for people, structures from files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["JsonOption", "print_json", "print_table", "read_structures"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def print_json(value: Any) -> None:
    """Print ``value``; numpy numbers and arrays become plain ones."""
    print(json.dumps(value, default=_plain, indent=1))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def read_structures(path: Path) -> Sequence[Atoms]:
    """Return the structures of any dataset or file that ASE reads."""
    if not path.exists():
        raise DatasetError("there is no such file or folder", path=path)
    from ase_nnp.datasets import open_dataset

    return open_dataset(path)
