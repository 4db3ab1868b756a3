"""``ase-nnp elastic``: the elastic tensor of a crystal."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
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
from ase_nnp.cli.commands.output import print_json, print_table, say, warn
from ase_nnp.cli.commands.shared_options import PropertyOptions, takes

__all__ = ["add_to"]

#: GPa; a cell under more is not at rest, and its stress mixes into the constants.
STRESSED = 0.5


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("elastic", epilog=EPILOG)(elastic)


@takes(PropertyOptions, dtype="float64")
def elastic(
    inputs: CrystalArguments,
    options: PropertyOptions,
    strain: Annotated[float, typer.Option(help="Engineering strain, both ways.")] = 0.003,
    clamped: Annotated[
        bool, typer.Option("--clamped", help="Leave the atoms where the strain takes them.")
    ] = False,
    fmax: Annotated[float, typer.Option(help="Of the atoms in a strained cell, eV/Å.")] = 0.001,
    index: IndexOption = -1,
) -> None:
    """Compute all elastic constants from stresses at small strains, and polycrystal moduli.

    Constants belong to a cell without stress: relax it first, ase-nnp relax --cell --fmax 0.001.
    """
    options.check_plot()
    model, atoms = one_structure(inputs, "elastic", index)
    from ase_nnp.workflows.crystals import elastic as compute
    from ase_nnp.workflows.elastic import draw_elastic

    settings: dict[str, Any] = {"strain": strain, "relax": not clamped, "fmax": fmax}
    potential = options.load(model)
    found = compute(atoms, potential, **settings)
    result, std, covers = found.result, found.std, found.covers
    cautions: list[str] = []
    warn_of_unknown(result.unknown_cells, "strained cells", cautions)
    if np.abs(result.stress).max() > STRESSED:
        worst = float(np.abs(result.stress).max())
        warn(
            f"the cell is under a stress of {worst:.2f} GPa; relax it first with "
            "ase-nnp relax --cell --fmax 0.001",
            cautions,
        )
    if not result.smooth:
        warn(
            f"constants change by {result.nonlinearity:.1f} GPa when the strain is doubled: this "
            "model's energy has no clean curvature here (symmetric sites that its normalization "
            "blows up, float32, or too large a strain); do not trust them",
            cautions,
        )
    if options.plot is not None:
        draw_elastic(result, options.plot)

    tensor_std = None if std is None else std[:36].reshape(6, 6)
    moduli_std = None if std is None else dict(zip(result.moduli, std[36:], strict=True))
    if options.as_json:
        report = {**result.as_dict(), "tensor_std": tensor_std, "moduli_std": moduli_std}
        print_json({**report, "error_bar": covers, "warnings": cautions, "plot": options.plot})
        return
    axes = ("xx", "yy", "zz", "yz", "xz", "xy")
    rows = [
        (a, *(f"{round(v, 2) + 0.0:.2f}" for v in line))
        for a, line in zip(axes, result.tensor, strict=True)
    ]
    print_table(f"{title_of('Elastic constants (GPa)', atoms, potential)}", ("", *axes), rows)
    say()
    _show_moduli(result, tensor_std, moduli_std)
    stable = "stable" if result.stable else "NOT STABLE"
    changes = f"changes by {result.nonlinearity:.2f} GPa at twice the strain"
    say(f"asymmetry {result.asymmetry:.2f} GPa; {changes}; {stable}")
    say(covers)


def _show_moduli(result: Any, tensor_std: Any, moduli_std: Any) -> None:
    """Print C11, C12 and C44 of a cubic crystal, then the averages."""
    rows = []
    places = {"C11": (0, 0), "C12": (0, 1), "C44": (3, 3)}
    for name, value in (result.cubic or {}).items():
        std = None if tensor_std is None else tensor_std[places[name]]
        rows.append((name, number_with_bar(value, std), "GPa"))

    labels = {
        "bulk": "bulk modulus (Hill)",
        "bulk_voigt": "bulk modulus (Voigt)",
        "bulk_reuss": "bulk modulus (Reuss)",
        "shear": "shear modulus (Hill)",
        "shear_voigt": "shear modulus (Voigt)",
        "shear_reuss": "shear modulus (Reuss)",
        "young": "Young's modulus",
        "poisson": "Poisson's ratio",
    }
    for name, label in labels.items():
        std = None if moduli_std is None else moduli_std[name]
        unit, digits = ("", 4) if name == "poisson" else ("GPa", 2)
        rows.append((label, number_with_bar(result.moduli[name], std, digits), unit))
    print_table("", ("", "", ""), rows)
