"""``ase-nnp eos``: the equation of state of a crystal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.crystal import (
    CrystalArguments,
    IndexOption,
    number_with_bar,
    one_structure,
    title_of,
)
from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.output import print_json, print_table, say
from ase_nnp.cli.commands.shared_options import PropertyOptions, takes

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eos", epilog=EPILOG)(eos)


@takes(PropertyOptions)
def eos(
    inputs: CrystalArguments,
    options: PropertyOptions,
    span: Annotated[float, typer.Option(help="Largest change of the volume, as a part.")] = 0.06,
    points: Annotated[int, typer.Option(help="Volumes.")] = 9,
    form: Annotated[
        str,
        typer.Option(help="birchmurnaghan, vinet, murnaghan, birch or pouriertarantola."),
    ] = "birchmurnaghan",
    relax: Annotated[bool, typer.Option("--relax", help="Relax the atoms at each volume.")] = False,
    index: IndexOption = -1,
) -> None:
    """Fit energies of scaled cells: equilibrium volume, energy, bulk modulus and its derivative.

    The cell keeps its shape; relax it first with `ase-nnp relax --cell` where it is not cubic.
    """
    options.check_plot()
    model, atoms = one_structure(inputs, "eos", index)
    from ase_nnp.workflows.crystals import eos as compute
    from ase_nnp.workflows.eos import draw_eos

    settings: dict[str, Any] = {"span": span, "points": points, "form": form, "relax": relax}
    potential = options.load(model)
    found = compute(atoms, potential, **settings)
    result, std, covers = found.result, found.std, found.covers
    cautions: list[str] = []
    warn_of_unknown(result.unknown_volumes, "volumes number", cautions)
    if options.plot is not None:
        draw_eos(result, options.plot)

    names = ("volume", "energy", "bulk_modulus", "derivative")
    bars = None if std is None else dict(zip(names, std.tolist(), strict=True))
    if options.as_json:
        others = {"warnings": cautions, "plot": options.plot}
        print_json({**result.as_dict(), "std": bars, "error_bar": covers, **others})
        return
    units = {"volume": "Å³", "energy": "eV", "bulk_modulus": "GPa", "derivative": ""}
    rows = [
        (name.replace("_", " "), number_with_bar(value, bars and bars[name], 4), units[name])
        for name, value in zip(names, result.numbers, strict=True)
    ]
    rows.append(("volume of an atom", f"{result.volume / len(atoms):.4f}", "Å³"))
    rows.append(("misfit", f"{1000 * result.residual:.4f}", "meV"))
    print_table(f"{title_of('Equation of state', atoms, potential)} ({form})", ("",) * 3, rows)
    say(covers)
