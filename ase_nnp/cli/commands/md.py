"""``ase-nnp md``: molecular dynamics of the structures of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, read_structures
from ase_nnp.cli.commands.predict import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    ModelArgument,
    model_from,
)
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("md")(md)


def md(
    model: ModelArgument,
    structures: Annotated[Path, typer.Argument(help="Any dataset, or file that ASE reads.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the last structures go.")
    ] = Path("last.extxyz"),
    ensemble: Annotated[str, typer.Option(help="nve, langevin, nvt or npt.")] = "langevin",
    steps: Annotated[int, typer.Option(help="Steps of each structure.")] = 1000,
    timestep: Annotated[float, typer.Option(help="Femtoseconds.")] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Kelvin; of the thermostat, and of structures without momenta."),
    ] = None,
    friction: Annotated[float, typer.Option(help="Of langevin, 1/fs.")] = 0.01,
    pressure: Annotated[float, typer.Option(help="Of npt, GPa.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of momenta and noise.")] = 0,
    index: Annotated[int | None, typer.Option(help="Only this structure (0 first).")] = None,
    folder: FolderOption = None,
    trajectory: TrajectoryOption = "traj",
    interval: Annotated[int, typer.Option(help="Steps from frame to frame.")] = 10,
    threshold: ThresholdOption = None,
    uncertainty: UncertaintyOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Run molecular dynamics of all structures at a time, in ASE's steps."""
    check_output(output, folder)
    data = read_structures(structures)
    if index is not None:
        if not -len(data) <= index < len(data):
            raise ConfigError(f"--index {index}: {structures} holds {len(data)} structures.")
        data = [data[index]]
    potential = with_uncertainty(model_from(model, checkpoint, device, dtype), uncertainty)
    from ase_nnp.workflows.batched import iter_dynamics

    def start(**options: Any) -> Any:
        return iter_dynamics(
            potential,
            data,
            ensemble,
            steps=steps,
            timestep_fs=timestep,
            temperature_K=temperature,
            friction_per_fs=friction,
            pressure_GPa=pressure,
            seed=seed,
            interval=interval,
            **options,
        )

    rows, last = run_batched(start, len(data), as_json, folder, trajectory, threshold)
    from ase_nnp.datasets.writing.write import write_dataset

    write_dataset(output, last, overwrite=folder is not None)
    for row in rows:
        del row["converged"], row["fmax"]
    if as_json:
        print_json({"output": str(output), "ensemble": ensemble, "structures": rows})
    else:
        print_table(
            f"{ensemble} with {potential.family}, last structures written to {output}",
            ("formula", "status", "steps", "energy before (eV)", "energy (eV)"),
            [
                (
                    r["formula"],
                    f"{r['status']}: {r['reason']}" if r["reason"] else r["status"],
                    r["steps"],
                    number(r["energy_before"]),
                    number(r["energy"]),
                )
                for r in rows
            ],
        )
    exit_if_failed(rows)
