"""What ``eos``, ``elastic`` and ``phonons`` share: one structure, numbers with bars, titles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.model_argument import model_and_structures, model_name
from ase_nnp.cli.commands.output import read_structures, select
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = [
    "CrystalArguments",
    "IndexOption",
    "number_with_bar",
    "one_structure",
    "title_of",
]

CrystalArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] STRUCTURE",
        help="A model (the default one without it), and a file with a relaxed crystal.",
    ),
]
IndexOption = Annotated[int, typer.Option(help="Which structure of the file (0 first, -1 last).")]


def one_structure(words: list[str], command: str, index: int) -> tuple[str | None, Atoms]:
    """Return the model's name and the structure that the command line names."""
    model, files = model_and_structures(words, command)
    if not files:
        raise ConfigError(f"Which structure? {command} [MODEL] STRUCTURE.")
    return model, select(read_structures(files[0]), index, files[0])[0]


def number_with_bar(value: float, std: Any, digits: int = 2) -> str:
    """``1.23`` or ``1.23 ± 0.04``."""
    text = f"{value:.{digits}f}"
    return text if std is None else f"{text} ± {float(std):.{digits}f}"


def title_of(what: str, atoms: Atoms, potential: Potential) -> str:
    """Return the line above a table."""
    return f"{what} of {atoms.get_chemical_formula()} with {model_name(potential)}"
