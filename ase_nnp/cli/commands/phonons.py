"""``ase-nnp phonons``: harmonic phonons of a crystal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.crystal import (
    CrystalArguments,
    IndexOption,
    one_structure,
    title_of,
)
from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.output import print_json, print_table, say, warn
from ase_nnp.cli.commands.shared_options import PropertyOptions, takes
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("phonons", epilog=EPILOG)(phonons)


@takes(PropertyOptions, dtype="float64")
def phonons(
    inputs: CrystalArguments,
    options: PropertyOptions,
    supercell: Annotated[str, typer.Option(help="Repetitions, such as 3,3,3.")] = "3,3,3",
    displacement: Annotated[float, typer.Option(help="Angstrom.")] = 0.01,
    engine: Annotated[
        str, typer.Option(help="phonopy, ase, or auto: phonopy where it is installed.")
    ] = "auto",
    temperature: Annotated[
        float, typer.Option(help="Kelvin, of free energy, entropy and heat capacity.")
    ] = 300.0,
    points: Annotated[int, typer.Option(help="q-points of the band path.")] = 101,
    index: IndexOption = -1,
) -> None:
    """Compute bands, density of states and thermal functions from displaced supercells.

    Takes the primitive cell, relaxed (ase-nnp relax --cell --fmax 0.001).
    """
    options.check_plot()
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"--temperature {temperature}: zero or more, in Kelvin.")
    model, atoms = one_structure(inputs, "phonons", index)
    from ase_nnp.workflows.crystals import phonons as compute
    from ase_nnp.workflows.phonons import draw_phonons

    settings: dict[str, Any] = {
        "supercell": _three(supercell),
        "displacement": displacement,
        "engine": engine,
        "points": points,
    }
    potential = options.load(model)
    found = compute(atoms, potential, **settings)
    result, std, covers = found.result, found.std, found.covers
    if options.plot is not None:
        draw_phonons(result, options.plot, std)

    thermal = result.thermal(temperature)
    cautions: list[str] = []
    warn_of_unknown(result.unknown_cells, "displaced supercells", cautions)
    if not result.smooth:
        warn(
            f"frequencies change by {result.nonlinearity:.2f} THz when the displacement is "
            "doubled: this model's energy has no clean curvature here (symmetric sites that its "
            "normalization blows up, or float32); do not trust them",
            cautions,
        )
    if options.as_json:
        report = {**result.as_dict(), "thermal": {"temperature": temperature, **thermal}}
        bars = {"bands_std": std, "error_bar": covers}
        print_json({**report, **bars, "warnings": cautions, "plot": options.plot})
        return
    facts = result.as_dict()
    rows = [
        ("computed by", result.engine, ""),
        ("highest frequency", f"{facts['highest']:.4f}", "THz"),
        ("lowest frequency", f"{result.lowest:.4f}", "THz"),
        ("change at twice the displacement", f"{result.nonlinearity:.4f}", "THz"),
        ("stable", "yes" if result.stable else "NO: imaginary frequencies", ""),
        (f"free energy at {temperature:g} K", f"{thermal['free_energy']:.5f}", "eV/cell"),
        ("entropy", f"{1000 * thermal['entropy']:.5f}", "meV/K/cell"),
        ("heat capacity", f"{1000 * thermal['heat_capacity']:.5f}", "meV/K/cell"),
    ]
    if std is not None:
        rows.append(("mean ± of the bands", f"{std.mean():.4f}", "THz"))
    print_table(title_of("Phonons", atoms, potential), ("", "", ""), rows)
    say(covers)


def _three(text: str) -> tuple[int, int, int]:
    try:
        first, second, third = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--supercell {text}: three whole numbers with commas, such as 3,3,3."
        ) from None
    return first, second, third
