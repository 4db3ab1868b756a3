"""``ase-nnp md``: molecular dynamics of the structures of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.batched import BatchedOptions, doubt_columns, number, run_batched
from ase_nnp.cli.commands.cautions import warn_of_unknown, warn_of_vacuum
from ase_nnp.cli.commands.exit_codes import EPILOG, INTERRUPTED, leave
from ase_nnp.cli.commands.model_argument import InputsArgument, model_and_structures, model_name
from ase_nnp.cli.commands.output import print_json, print_table, read_structures, select
from ase_nnp.cli.commands.shared_options import takes
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("md", epilog=EPILOG)(md)


@takes(BatchedOptions)
def md(
    inputs: InputsArgument,
    options: BatchedOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the last structures go, in any ASE format; last.extxyz or the next free "
            "name without it.",
        ),
    ] = None,
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
    interval: Annotated[int, typer.Option(help="Steps from frame to frame.")] = 10,
) -> None:
    """Run molecular dynamics of all structures at a time, in ASE's steps."""
    settings: dict[str, Any] = {
        "timestep_fs": timestep,
        "temperature_K": temperature,
        "friction_per_fs": friction,
        "pressure_GPa": pressure,
        "seed": seed,
    }
    _check(ensemble, settings, steps, interval)
    model, files = model_and_structures(inputs, "md")
    data = select(read_structures(files[0]), options.index, files[0])
    target = options.target(output, data, "last.extxyz")
    potential = options.load(model)
    cautions: list[str] = []
    if ensemble == "npt":
        warn_of_vacuum(data, "--ensemble npt", cautions)

    from ase_nnp.workflows.batched import iter_dynamics

    def start(**run: Any) -> Any:
        return iter_dynamics(
            potential, data, ensemble, steps=steps, interval=interval, **settings, **run
        )

    rows, last = run_batched(start, len(data), options)
    written = target.write(last)

    for row in rows:
        del row["converged"], row["fmax"]
    strange = [row["index"] for row in rows if row["unknown"]]
    what = "states along the way (the first, every hundredth and the last were looked at)"
    warn_of_unknown(strange, f"{what} of structures", cautions)
    if options.as_json:
        report = {"output": str(written), "ensemble": ensemble, "warnings": cautions}
        print_json({**report, "structures": rows})
    else:
        _show(rows, f"{ensemble} with {model_name(potential)}, last structures in {written}")
    if len(rows) < len(data):
        raise typer.Exit(INTERRUPTED)
    leave(rows)


def _check(ensemble: str, settings: dict[str, Any], steps: int, interval: int) -> None:
    """Refuse settings before a model is loaded, in the words of the options."""
    from ase_nnp.workflows.batched.ensembles import ENSEMBLES, integrator

    if ensemble in ENSEMBLES and ensemble != "nve" and settings["temperature_K"] is None:
        raise ConfigError(
            f"--ensemble {ensemble} needs a temperature: say --temperature 300 (Kelvin)."
        )
    if steps < 0 or interval < 1:
        raise ConfigError(f"--steps {steps} --interval {interval}: at least 0 and 1.")
    integrator(ensemble, **settings)


def _show(rows: list[dict[str, Any]], title: str) -> None:
    columns = ("formula", "status", "steps", "energy before (eV)", "energy (eV)")
    headings, doubts = doubt_columns(rows)
    table = [
        (
            r["formula"],
            f"{r['status']}: {r['reason']}" if r["reason"] else r["status"],
            r["steps"],
            number(r["energy_before"]),
            number(r["energy"]),
            *said,
        )
        for r, said in zip(rows, doubts, strict=True)
    ]
    print_table(title, columns + headings, table)
