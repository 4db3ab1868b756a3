"""What the exit code of ``ase-nnp`` says; ``docs/command-line.md`` has the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from ase_nnp.cli.commands.output import note

__all__ = ["EPILOG", "FAILED", "INTERRUPTED", "NOT_CONVERGED", "WRONG_INPUT", "leave"]

#: Some structures failed, records are broken, or a check did not pass.
FAILED = 1
#: The input, the options or a file is wrong; one line on stderr says what.
WRONG_INPUT = 2
#: Everything was computed and written, and something did not converge.
NOT_CONVERGED = 3
INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 done; 1 some structures failed or a check did not pass; 2 wrong input, in one "
    "line; 3 done, but something did not converge; 130 interrupted."
)


def leave(rows: Iterable[Mapping[str, Any]], advice: str = "") -> None:
    """End with 1 if a row says ``failed``, else with 3 if one has not converged, and say so.

    Parameters
    ----------
    rows
        Reports of structures, with ``status`` and ``converged``.
    advice
        What to do about rows that have not converged.
    """
    listed = list(rows)
    failed = [row for row in listed if row.get("status") == "failed"]
    open_ends = [row for row in listed if row not in failed and not row.get("converged", True)]
    if open_ends:
        note(f"ase-nnp: {len(open_ends)} of {len(listed)} did not converge. {advice}".rstrip())
    if failed:
        note(f"ase-nnp: {len(failed)} of {len(listed)} failed.")
        raise typer.Exit(FAILED)
    if open_ends:
        raise typer.Exit(NOT_CONVERGED)
