"""Warnings about settings that run well and mean little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ase_nnp.cli.commands.output import warn

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["warn_of_unknown", "warn_of_vacuum"]

#: A gap without atoms of this width, in Angstrom, is vacuum: no crystal has one.
VACUUM = 6.0


def warn_of_vacuum(data: Sequence[Atoms], what: str, warnings: list[str]) -> None:
    """Say which structures have a vacuum that a moving cell would squeeze or stretch.

    Parameters
    ----------
    data
        Structures; the first hundred are looked at.
    what
        The option that moves the cell.
    warnings
        The text is appended here.
    """
    from ase_nnp.workflows.surfaces import vacuum_gaps

    looked_at = min(len(data), 100)
    open_cells = []
    for k in range(looked_at):
        atoms = data[k]
        gap = max(vacuum_gaps(atoms))
        if gap > VACUUM or (atoms.cell.rank == 3 and not atoms.pbc.all()):
            open_cells.append((k, gap))
    if not open_cells:
        return
    first, gap = open_cells[0]
    width = f"a vacuum of {gap:.1f} Å" if gap > VACUUM else "a direction without period"
    warn(
        f"{what} moves cell vectors that span vacuum: structure {first} has {width} "
        f"({len(open_cells)} of {looked_at} structures looked at). A stress of vacuum means "
        f"nothing there; keep the cell of a slab or molecule fixed.",
        warnings,
    )


def warn_of_unknown(unknown: bool | int | Sequence[int], what: str, warnings: list[str]) -> None:
    """Say what the model's own flag is raised for.

    Parameters
    ----------
    unknown
        Whether it is, how often, or the places; nothing is said of none.
    what
        In words: ``"this structure"``, or what ``unknown`` counts, such as ``"images"``.
    warnings
        The text is appended here.
    """
    if not unknown:
        return
    if isinstance(unknown, bool):
        said = f"{what} is"
    elif isinstance(unknown, int):
        said = f"{unknown} {what} are"
    else:
        said = f"{what} {', '.join(map(str, unknown))} are"
    warn(
        f"{said} outside of what the model knows, by its own flag (ood_flag): do not trust these "
        "numbers without another model or DFT",
        warnings,
    )
