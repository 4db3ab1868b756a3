"""What the commands that move many structures share: a bar, a folder, rows of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.output import note
from ase_nnp.cli.commands.shared_options import ModelOptions, with_uncertainty
from ase_nnp.cli.commands.targets import OverwriteOption, Target, open_target
from ase_nnp.errors import ConfigError, PredictionError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["BatchedOptions", "doubt_columns", "number", "run_batched"]


@dataclass(frozen=True)
class BatchedOptions(ModelOptions):
    """Also what a run of many structures may be stopped by, and a folder that it resumes from."""

    overwrite: OverwriteOption = False
    index: Annotated[int | None, typer.Option(help="Only this structure (0 first).")] = None
    folder: Annotated[
        Path | None,
        typer.Option(help="Trajectories and checkpoints; the same command goes on after a kill."),
    ] = None
    trajectory: Annotated[
        str, typer.Option(help="With --folder: traj, h5 or none, one file for each structure.")
    ] = "traj"
    threshold: Annotated[
        float | None,
        typer.Option(
            "--stop-above", help="Stop a structure whose forces_std_norm exceeds this, eV/Å."
        ),
    ] = None
    at_flag: Annotated[
        bool,
        typer.Option("--stop-at-flag", help="Stop a structure that the model's own flag marks."),
    ] = False
    uncertainty: Annotated[
        Path | None,
        typer.Option(help="A fitted uncertainty of this model, for --stop-above, --stop-at-flag."),
    ] = None

    def load(self, model: str | Path | None) -> Potential:
        """Load the model with its uncertainty."""
        return with_uncertainty(super().load(model), self.uncertainty)

    def target(self, output: Path | None, data: Sequence[Atoms], default: str) -> Target:
        """Return where the last structures go."""
        # A run in a folder goes on after a kill, and then writes the same file again. Without a
        # name that file lies in the folder: in another place it could be someone else's.
        goes_on = self.folder is not None and self.folder.is_dir()
        if output is None and self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--folder {self.folder}: {error.strerror}.") from error
            output, goes_on = self.folder / default, True
        return open_target(output, data, default=default, overwrite=self.overwrite or goes_on)


def run_batched(
    start: Callable[..., Iterator[Any]],
    total: int,
    options: BatchedOptions,
    folder: Path | None = None,
) -> tuple[list[dict[str, Any]], list[Atoms]]:
    """Run with a bar of finished, running and failed; returns rows and the structures that live.

    Parameters
    ----------
    start
        Begins the run with a folder, a trajectory, a monitor and a callback for progress.
    total
        Structures.
    options
        Of the command line.
    folder
        Where the run is kept if the options name none.

    Raises
    ------
    ConfigError
        Two rules to stop by.
    PredictionError
        If all structures failed, with the first reason.
    """
    from rich.console import Console
    from rich.progress import Progress

    stop: dict[str, Any] | None = None
    if options.threshold is not None and options.at_flag:
        raise ConfigError("--stop-above and --stop-at-flag are two rules; give one of them.")
    if options.threshold is not None:
        stop = {"key": "forces_std_norm", "threshold": options.threshold, "mode": "stop"}
    elif options.at_flag:
        stop = {"key": "ood_flag", "mode": "stop"}
    with Progress(console=Console(stderr=True), disable=options.as_json) as bar:
        task = bar.add_task("", total=total)

        def show(now: Any) -> None:
            text = f"{now.finished} finished, {now.running} running, {now.failed} failed"
            text += f"; {now.text}" if now.text else ""
            bar.update(task, completed=now.finished, description=text)

        running = start(
            folder=options.folder or folder,
            trajectory=None if options.trajectory == "none" else options.trajectory,
            monitor=stop,
            progress=show,
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
    from ase_nnp.workflows.doubts import noted

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
            **_doubts(o.doubts),
            "unknown": o.unknown,
        }
        for o in outcomes
    ]
    return rows, [noted(o.atoms, o.doubts) for o in alive]


def _doubts(given: dict[str, Any]) -> dict[str, Any]:
    """Return error bar and score as numbers, and whether the flag is raised."""
    row: dict[str, Any] = {k: float(v) for k, v in given.items() if k != "ood_flag"}
    if "ood_flag" in given:
        row["out_of_domain"] = bool(given["ood_flag"])
    return row


def doubt_columns(rows: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return headings and cells of what a model doubts; none where it has no uncertainty."""
    names = [n for n in ("energy_std", "out_of_domain") if any(n in r for r in rows)]
    headings = {"energy_std": "± (eV)", "out_of_domain": "in domain"}
    cells = [[_doubt(r.get(n)) for n in names] for r in rows]
    return tuple(headings[n] for n in names), cells


def _doubt(value: float | bool | None) -> str:
    return ("NO" if value else "yes") if isinstance(value, bool) else number(value)


def number(value: float | None) -> str:
    """Return a number for a table, or nothing."""
    return "" if value is None else f"{value:.4f}"
