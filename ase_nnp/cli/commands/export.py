"""``ase-nnp export``: a model as one file that loads without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.output import print_json, print_table, say, warn
from ase_nnp.cli.commands.shared_options import ModelOptions, takes
from ase_nnp.cli.commands.targets import OverwriteOption, check_place
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=EPILOG)(export)


@takes(ModelOptions)
def export(
    model: Annotated[str, typer.Argument(help="A model, as everywhere.")],
    output: Annotated[Path, typer.Argument(help="The file to write, such as model.pt2.")],
    options: ModelOptions,
    format: Annotated[
        str,
        typer.Option(
            help="compiled: for this processor, read in C++ and Python, needs a C++ compiler now; "
            "program: read in Python on any machine."
        ),
    ] = "compiled",
    overwrite: OverwriteOption = False,
) -> None:
    """Write energy, forces and stress as one file for hosts with torch alone; one way only."""
    check_place(output, "model.pt2")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists already. Name another, or say --overwrite.")
    from ase_nnp.models.export import export_model

    potential = options.load(model)
    said = export_model(potential, output, format=format)
    if potential is not potential.unwrapped:
        warn("error bars stay behind: the file gives energy and derivatives alone")

    said = {"file": str(output), "size_mb": round(output.stat().st_size / 1e6, 2), **said}
    if options.as_json:
        print_json(said)
        return
    for direction in ("inputs", "outputs"):
        print_table(f"{direction}, in this order", ("", ""), list(said.pop(direction).items()))
    say(f"{output}: {said['size_mb']} MB, {said['dtype']}, neighbors within {said['cutoff']:g} Å")
    if said["max_neighbors"]:
        say(f"the nearest {said['max_neighbors']} neighbors of each atom only")
