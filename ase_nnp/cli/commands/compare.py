"""``ase-nnp compare``: several models on the same structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ase_nnp.cli.commands.model_argument import CorrectionOption, model_from
from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, read_structures, say
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.workflows.compare import Comparison

__all__ = ["add_to"]

#: Rows of the table for people; --json has all.
MOST_ROWS = 30


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODELS... STRUCTURES",
            help="Two or more models, then a dataset or any file that ASE reads. A model is a "
            "file, FAMILY, FAMILY:CHECKPOINT, or ase:MODULE:NAME for an ASE calculator's class "
            "or a function that makes one.",
        ),
    ],
    align: Annotated[
        bool, typer.Option(help="Fit one energy shift per element to the first model.")
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="Write a picture here (PNG, PDF, SVG).")] = None,
    correction: CorrectionOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Compare energies and forces of several models, and how far they are apart."""
    from ase_nnp.workflows.picture import check_picture, save_figure

    *specs, last = arguments
    if len(specs) < 2:
        raise ConfigError("Say: ase-nnp compare MODEL MODEL [MODEL ...] STRUCTURES.")
    repeated = sorted({s for s in specs if specs.count(s) > 1})
    if repeated:
        raise ConfigError(f"{', '.join(repeated)} is there twice.")
    if plot is not None:
        check_picture(plot)
    data = read_structures(Path(last))
    models = {spec: model_from(spec, None, device, dtype, correction) for spec in specs}
    from ase_nnp.workflows.compare import compare as run
    from ase_nnp.workflows.compare import plot_comparison

    result = run(models, data, align=align, progress=False if as_json else None)
    if plot is not None:
        save_figure(plot_comparison(result), plot)
    if as_json:
        print_json(result.as_dict())
    else:
        show(result)


def show(result: Comparison) -> None:
    """Print the tables for people."""
    forces = result.force_std
    rows = []
    for k, formula in enumerate(result.formulas[:MOST_ROWS]):
        row: list[object] = [k, formula]
        row += [f"{e:.4f}" for e in result.aligned[:, k]]
        row.append(f"{1000 * result.energy_std[k]:.2f}")
        row += [] if forces is None else [f"{forces[k]:.4f}"]
        rows.append(row)

    left = len(result.formulas) - len(rows)
    title = "Energies (eV) with one shift per element removed" if result.shifts.any() else (
        "Energies (eV) as they are"
    )  # fmt: skip
    spread = ["spread (meV/atom)"] + ([] if forces is None else ["force spread (eV/Å)"])
    print_table(title, ("", "formula", *result.names, *spread), rows)
    if left:
        say(f"... and {left} more; --json prints all.")

    matrix, pairs = result.energy_mae(), result.force_mae()
    table = []
    for i, name in enumerate(result.names):
        cells = [f"{1000 * matrix[i, j]:.2f}" for j in range(len(result.names))]
        if pairs is not None:
            cells = [f"{c} | {pairs[i, j]:.4f}" for j, c in enumerate(cells)]
        table.append([name, *cells])

    unit = "meV/atom" if pairs is None else "meV/atom | eV/Å"
    print_table(f"Mean absolute difference ({unit})", ("", *result.names), table)
    if result.spare < 1:
        say(
            "The shifts explain all energies: there are no more structures than elements to tell "
            "apart, so aligned energies say nothing. Compare more structures, or use --no-align."
        )
