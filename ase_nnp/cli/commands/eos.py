"""``ase-nnp eos``: the equation of state of a crystal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.batched import with_uncertainty
from ase_nnp.cli.commands.crystal import (
    CrystalArguments,
    FittedOption,
    IndexOption,
    PlotOption,
    check_plot,
    number_with_bar,
    one_structure,
    title_of,
)
from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.model_argument import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    model_from,
)
from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, say

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eos", epilog=EPILOG)(eos)


def eos(
    inputs: CrystalArguments,
    span: Annotated[float, typer.Option(help="Largest change of the volume, as a part.")] = 0.06,
    points: Annotated[int, typer.Option(help="Volumes.")] = 9,
    form: Annotated[
        str,
        typer.Option(help="birchmurnaghan, vinet, murnaghan, birch or pouriertarantola."),
    ] = "birchmurnaghan",
    relax: Annotated[bool, typer.Option("--relax", help="Relax the atoms at each volume.")] = False,
    index: IndexOption = -1,
    plot: PlotOption = None,
    uncertainty: FittedOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Fit energies of scaled cells: equilibrium volume, energy, bulk modulus and its derivative.

    The cell keeps its shape; relax it first with `ase-nnp relax --cell` where it is not cubic.
    """
    check_plot(plot)
    model, atoms = one_structure(inputs, "eos", index)
    from ase_nnp.calculator.calculator import NNPCalculator
    from ase_nnp.workflows.eos import draw_eos, equation_of_state
    from ase_nnp.workflows.error_bars import spread_over_members, what_a_bar_covers

    settings: dict[str, Any] = {"span": span, "points": points, "form": form, "relax": relax}
    potential = with_uncertainty(model_from(model, checkpoint, device, dtype), uncertainty)
    result = equation_of_state(atoms, NNPCalculator(potential), **settings)
    spread = spread_over_members(
        lambda calculator: equation_of_state(atoms, calculator, **settings).numbers, potential
    )
    covers = what_a_bar_covers(potential, spread)
    if plot is not None:
        draw_eos(result, plot)

    names = ("volume", "energy", "bulk_modulus", "derivative")
    std = None if spread is None else dict(zip(names, spread.std.tolist(), strict=True))
    if as_json:
        print_json({**result.as_dict(), "std": std, "error_bar": covers, "plot": plot})
        return
    units = {"volume": "Å³", "energy": "eV", "bulk_modulus": "GPa", "derivative": ""}
    rows = [
        (name.replace("_", " "), number_with_bar(value, std and std[name], 4), units[name])
        for name, value in zip(names, result.numbers, strict=True)
    ]
    rows.append(("volume of an atom", f"{result.volume / len(atoms):.4f}", "Å³"))
    rows.append(("misfit", f"{1000 * result.residual:.4f}", "meV"))
    print_table(f"{title_of('Equation of state', atoms, potential)} ({form})", ("",) * 3, rows)
    say(covers)
