"""``ase-nnp relax``: relax the structures of a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.batched import BatchedOptions, doubt_columns, number, run_batched
from ase_nnp.cli.commands.cautions import warn_of_vacuum
from ase_nnp.cli.commands.example import example
from ase_nnp.cli.commands.exit_codes import EPILOG, INTERRUPTED, leave
from ase_nnp.cli.commands.model_argument import model_and_structures, model_name
from ase_nnp.cli.commands.output import print_json, print_table, read_structures, say, select
from ase_nnp.cli.commands.relaxation_picture import adsorption_words, draw_first
from ase_nnp.cli.commands.shared_options import takes
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("relax", epilog=EPILOG)(relax)


@takes(BatchedOptions)
def relax(
    options: BatchedOptions,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [STRUCTURES]",
            help="A model file or family (the default model without it), and any dataset or file "
            "that ASE reads (CO on a copper slab without it).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the relaxed structures go, in any ASE format; relaxed.extxyz or the next "
            "free name without it.",
        ),
    ] = None,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many steps each.")] = 300,
    optimizer: Annotated[str, typer.Option(help="FIRE, BFGS or LBFGS.")] = "FIRE",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the first structure before and after to this PNG (redrawn)."),
    ] = None,
) -> None:
    """Relax structures, many at a time, in the steps of ASE's own optimizers.

    What does not converge is written all the same, and the exit code is 3.
    """
    from ase_nnp.workflows.batched import iter_relax
    from ase_nnp.workflows.batched.relaxation import Relaxation
    from ase_nnp.workflows.picture import check_picture

    Relaxation(optimizer, fmax, cell)  # refuses what cannot be meant before anything is read
    if steps < 0:
        raise ConfigError(f"--steps {steps}: 0 steps or more.")
    if plot is not None:
        check_picture(plot)
    model, files = model_and_structures(inputs or [], "relax")
    data: Sequence[Atoms] = read_structures(files[0]) if files else [example()]
    data = select(data, options.index, files[0] if files else "the example")
    target = options.target(output, data, "relaxed.extxyz")

    cautions: list[str] = []
    potential = options.load(model)
    if cell:
        warn_of_vacuum(data, "--cell", cautions)

    settings: dict[str, Any] = {"fmax": fmax, "steps": steps, "optimizer": optimizer, "cell": cell}
    # A picture shows the energy's course, which a batched run has in its trajectory alone.
    borrowed = plot is not None and options.folder is None
    with TemporaryDirectory() if borrowed else nullcontext(options.folder) as place:
        rows, relaxed = run_batched(
            lambda **run: iter_relax(potential, data, **settings, **run),
            len(data),
            options,
            None if place is None else Path(place),
        )
        written = target.write(relaxed)
        for row in rows:
            del row["unknown"]  # a way to a minimum is not looked at
        alive = [row for row in rows if row.get("status") != "failed"]
        if plot is not None:
            start = data[alive[0].get("index", 0)]
            draw_first(plot, potential, start, relaxed[0], alive[0], place, cautions)

    report = {"output": str(written), "model": model_name(potential), "warnings": cautions}
    if options.as_json:
        print_json({**report, "structures": rows})
    else:
        picture = "" if plot is None else f", drawn in {plot}"
        _show(rows, f"Relaxed with {report['model']}, written to {written}{picture}")
        for row in rows:
            if "adsorption_energy" in row:
                energy = adsorption_words(row, 3)
                say(f"{row['formula']}, adsorbate at: {row['adsorption_site']}; {energy}")
    if len(rows) < len(data):
        raise typer.Exit(INTERRUPTED)
    leave(rows, "Give more --steps, or a larger --fmax; what was reached is written.")


def _show(rows: Sequence[dict[str, Any]], title: str) -> None:
    columns = ("formula", "converged", "steps", "start (eV)", "end (eV)", "fmax (eV/Å)")
    headings, doubts = doubt_columns(rows)

    table = [
        [
            r["formula"],
            "yes" if r["converged"] else r.get("reason") or "NO",
            r["steps"],
            number(r["energy_before"]),
            number(r["energy"]),
            number(r["fmax"]),
            *said,
        ]
        for r, said in zip(rows, doubts, strict=True)
    ]
    print_table(title, columns + headings, table)
