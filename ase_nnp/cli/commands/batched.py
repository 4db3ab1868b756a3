"""What the commands that move many structures share: a bar, a folder, rows of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.output import note
from ase_nnp.errors import PredictionError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = [
    "FolderOption",
    "ThresholdOption",
    "TrajectoryOption",
    "UncertaintyOption",
    "number",
    "run_batched",
    "with_uncertainty",
]

FolderOption = Annotated[
    Path | None,
    typer.Option(help="Trajectories and checkpoints; the same command goes on after a kill."),
]
TrajectoryOption = Annotated[
    str, typer.Option(help="With --folder: traj, h5 or none, one file for each structure.")
]
UncertaintyOption = Annotated[
    Path | None, typer.Option(help="A fitted uncertainty of this model, for --stop-above.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--stop-above", help="Stop a structure whose forces_std_norm exceeds this, eV/Å."),
]


def with_uncertainty(potential: Potential, path: Path | None) -> Potential:
    """Attach a fitted uncertainty, if one is named."""
    if path is None:
        return potential
    from ase_nnp.uncertainty import attach

    return attach(potential, path)


def run_batched(
    start: Callable[..., Iterator[Any]],
    total: int,
    as_json: bool,
    folder: Path | None,
    trajectory: str,
    threshold: float | None,
    **options: Any,
) -> tuple[list[dict[str, Any]], list[Atoms]]:
    """Run with a bar of finished, running and failed; returns rows and the structures that live.

    Raises
    ------
    PredictionError
        If all structures failed, with the first reason.
    """
    from rich.console import Console
    from rich.progress import Progress

    stop = {"key": "forces_std_norm", "threshold": threshold, "mode": "stop"}
    with Progress(console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task("", total=total)

        def show(now: Any) -> None:
            text = f"{now.finished} finished, {now.running} running, {now.failed} failed"
            text += f"; {now.text}" if now.text else ""
            bar.update(task, completed=now.finished, description=text)

        running = start(
            folder=folder,
            trajectory=None if trajectory == "none" else trajectory,
            monitor=None if threshold is None else stop,
            progress=show,
            **options,
        )
        outcomes: list[Any] = []
        try:
            outcomes.extend(running)
        except KeyboardInterrupt:
            # What is done is written; the caller sees that rows are missing.
            if not outcomes:
                raise
    if len(outcomes) < total:
        note(f"ase-nnp: interrupted; {len(outcomes)} of {total} structures are done and kept")

    outcomes.sort(key=lambda outcome: int(outcome.index))
    alive = [o for o in outcomes if o.status != "failed"]
    if outcomes and not alive:
        first = outcomes[0]
        raise PredictionError(f"All {total} structures failed. Structure 0: {first.reason}")
    rows = [
        {
            "index": o.index,
            "formula": o.atoms.get_chemical_formula(),
            "status": o.status,
            "converged": o.converged,
            "steps": o.steps,
            "energy_before": o.energy_before,
            "energy": o.energy,
            "fmax": o.fmax,
            "reason": o.reason,
        }
        for o in outcomes
    ]
    return rows, [o.atoms for o in alive]


def number(value: float | None) -> str:
    """Return a number for a table, or nothing."""
    return "" if value is None else f"{value:.4f}"
