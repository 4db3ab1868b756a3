"""``ase-nnp relax``: relax the structures of a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.batched import (
    FolderOption,
    ThresholdOption,
    TrajectoryOption,
    UncertaintyOption,
    check_output,
    exit_if_failed,
    number,
    run_batched,
    with_uncertainty,
)
from ase_nnp.cli.commands.defaults import doubts, example, named, split_inputs
from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, read_structures
from ase_nnp.cli.commands.predict import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    model_from,
)
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("relax")(relax)


def relax(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [STRUCTURES]",
            help="A model file or family (the default model without it), and any dataset or file "
            "that ASE reads (CO on a copper slab without it).",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the relaxed structures go.")
    ] = Path("relaxed.extxyz"),
    index: Annotated[int | None, typer.Option(help="Relax only this structure (0 first).")] = None,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many steps each.")] = 300,
    optimizer: Annotated[str, typer.Option(help="FIRE, BFGS, LBFGS, ...")] = "FIRE",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the (first) relaxed structure to this PNG.")
    ] = None,
    folder: FolderOption = None,
    trajectory: TrajectoryOption = "traj",
    threshold: ThresholdOption = None,
    uncertainty: UncertaintyOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Relax structures: FIRE, BFGS and LBFGS many at a time in ASE's steps, others one by one."""
    from ase_nnp.workflows.picture import check_picture, draw
    from ase_nnp.workflows.relax import check_optimizer

    check_optimizer(optimizer)
    check_output(output, folder)
    if plot is not None:
        check_picture(plot)
    model, structures = split_inputs(inputs or [])
    data: Sequence[Atoms] = [example()] if structures is None else read_structures(structures)
    if index is not None:
        if not -len(data) <= index < len(data):
            raise ConfigError(f"--index {index}: the input holds {len(data)} structures.")
        data = [data[index]]
    potential = with_uncertainty(model_from(model, checkpoint, device, dtype), uncertainty)
    from ase_nnp.workflows.batched import iter_relax
    from ase_nnp.workflows.batched.optimizers import METHODS

    if optimizer in METHODS:
        rows, finished = run_batched(
            lambda **options: iter_relax(
                potential, data, optimizer=optimizer, fmax=fmax, steps=steps, cell=cell, **options
            ),
            len(data),
            as_json,
            folder,
            trajectory,
            threshold,
        )
    else:
        if folder is not None or threshold is not None:
            raise ConfigError(
                f"--folder and --stop-above go with {', '.join(METHODS)}, not with {optimizer}."
            )
        rows, finished = _one_by_one(potential, data, fmax, steps, optimizer, cell, as_json)
    from ase_nnp.datasets.writing.write import write_dataset

    write_dataset(output, finished, overwrite=folder is not None)
    alive = [row for row in rows if row.get("status") != "failed"]
    for row, said in zip(alive, doubts(potential, finished), strict=True):
        row.update(said)
    if plot is not None:
        draw(finished[0], plot, f"{alive[0]['formula']}: {alive[0]['energy']:.3f} eV")
    if as_json:
        print_json({"output": str(output), "structures": rows})
        exit_if_failed(rows)
        return
    picture = "" if plot is None else f", drawn in {plot}"
    std, flag = "energy_std" in alive[0], "out_of_domain" in alive[0]
    print_table(
        f"Relaxed with {named(potential)}, written to {output}{picture}",
        ("formula", "converged", "steps", "start (eV)", "end (eV)", "fmax (eV/Å)")
        + ("± (eV)",) * std
        + ("in domain",) * flag,
        [
            (
                r["formula"],
                "yes" if r["converged"] else r.get("reason") or "no",
                r["steps"],
                number(r["energy_before"]),
                number(r["energy"]),
                number(r["fmax"]),
                *([number(r.get("energy_std"))] if std else []),
                *(["NO" if r["out_of_domain"] else "yes"] if "out_of_domain" in r else []),
            )
            for r in rows
        ],
    )
    exit_if_failed(rows)


def _one_by_one(
    potential: Potential,
    data: Any,
    fmax: float,
    steps: int,
    optimizer: str,
    cell: bool,
    as_json: bool,
) -> tuple[list[dict[str, Any]], list[Atoms]]:
    """Relax with ASE's own optimizer; a bar shows how far the forces have come down."""
    from rich.console import Console
    from rich.progress import Progress

    from ase_nnp.calculator.calculator import NNPCalculator
    from ase_nnp.workflows.relax import relax as run

    rows: list[dict[str, Any]] = []
    finished = []
    with Progress(console=Console(stderr=True), disable=as_json) as bar:
        for number, atoms in enumerate(data):
            formula = atoms.get_chemical_formula()
            task = bar.add_task(f"{number} {formula}", total=1.0)
            start: list[float] = []

            def show(
                step: int,
                energy: float,
                force: float,
                task: Any = task,
                start: list[float] = start,
                formula: str = formula,
            ) -> None:
                start.append(force)
                span = math.log(max(start[0], fmax * 1.001) / fmax)
                done = 1 - math.log(max(force, fmax) / fmax) / span
                text = f"{formula} step {step}  {energy:.3f} eV  {force:.3f} eV/Å"
                bar.update(task, completed=max(0.0, min(1.0, done)), description=text)

            found = run(
                atoms,
                NNPCalculator(potential),
                fmax=fmax,
                steps=steps,
                optimizer=optimizer,
                cell=cell,
                callback=show,
            )
            finished.append(found.atoms)
            rows.append(
                {
                    "formula": formula,
                    "converged": found.converged,
                    "steps": found.steps,
                    "energy_before": found.energy_before,
                    "energy": found.energy,
                    "fmax": found.fmax,
                }
            )
    return rows, finished
