"""``ase-nnp gibbs``: free energy of a gas, an adsorbate or a transition state."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.crystal import IndexOption, number_with_bar, one_structure, title_of
from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.output import print_json, print_table, say, warn
from ase_nnp.cli.commands.shared_options import EnsembleOptions, takes
from ase_nnp.cli.commands.vibrations import RelaxedStructure, free_of
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gibbs", epilog=EPILOG)(gibbs)


@takes(EnsembleOptions, dtype="float64")
def gibbs(
    inputs: RelaxedStructure,
    options: EnsembleOptions,
    kind: Annotated[
        str, typer.Option(help="gas, adsorbate, or auto: a gas where nothing is periodic.")
    ] = "auto",
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="Kelvin.")] = 298.15,
    pressure: Annotated[float, typer.Option("--pressure", "-p", help="Pascal, of a gas.")] = 1e5,
    treatment: Annotated[
        str, typer.Option(help="Of adsorbates: harmonic or quasi-rrho.")
    ] = "harmonic",
    policy: Annotated[
        str, typer.Option(help="Small imaginary modes: invert, raise, drop, error.")
    ] = "invert",
    small: Annotated[float, typer.Option(help="Imaginary modes below this are small, 1/cm.")] = 50,
    floor: Annotated[float | None, typer.Option(help="Raise softer modes to this, 1/cm.")] = None,
    symmetry: Annotated[
        int | None, typer.Option(help="Rotational symmetry number of a gas; else from geometry.")
    ] = None,
    spin: Annotated[
        float | None, typer.Option(help="Total spin of a gas, such as 1 of O2.")
    ] = None,
    saddle: Annotated[bool, typer.Option(help="A transition state: one imaginary mode.")] = False,
    free: Annotated[str, typer.Option(help="Atoms that vibrate: 'auto', or 12,13.")] = "auto",
    relax: Annotated[bool, typer.Option(help="Relax it first.")] = True,
    index: IndexOption = -1,
) -> None:
    """Compute the Gibbs free energy with its parts and error bar."""
    if kind not in ("auto", "gas", "adsorbate"):
        raise ConfigError(f"--kind {kind}: auto, gas or adsorbate.")
    model, atoms = one_structure(inputs, "gibbs", index)
    from ase_nnp.workflows import thermo

    as_gas = kind == "gas" or (kind == "auto" and not atoms.pbc.any() and not atoms.constraints)
    others = {"--symmetry": symmetry is not None, "--spin": spin is not None}
    if as_gas:
        others = {"--saddle": saddle, "--free": free != "auto"}
        others["--treatment"] = treatment != "harmonic"
    _refuse([name for name, given in others.items() if given], as_gas)
    potential = options.load(model)
    if as_gas:
        state = thermo.gas(atoms, potential, relax=relax, symmetry=symmetry, spin=spin)
    else:
        chosen = free_of(free, atoms)
        state = thermo.adsorbate(atoms, potential, free=chosen, relax=relax, saddle=saddle)
    settings: dict[str, Any] = {"policy": policy, "small": small, "floor": floor}
    result = thermo.gibbs(state, temperature, pressure, treatment=treatment, **settings)

    cautions: list[str] = []
    warn_of_unknown(result.unknown, "this structure", cautions)
    if result.modes.changes:
        warn(f"modes were changed: {result.modes}", cautions)
    if options.as_json:
        facts = {"symmetry": state.symmetry, "spin": state.spin} if as_gas else {}
        print_json(
            {**result.as_dict(), **facts, "error_bar": result.value.covers, "warnings": cautions}
        )
        return
    rows = [
        ("energy", number_with_bar(result.energy.value, result.energy.std, 4), "eV"),
        ("zero-point energy", f"{result.zero_point:.4f}", "eV"),
        ("thermal energy" if not as_gas else "thermal enthalpy", f"{result.thermal:.4f}", "eV"),
        ("entropy", f"{1000 * result.entropy:.4f}", "meV/K"),
        ("-T S", f"{-temperature * result.entropy:.4f}", "eV"),
        ("G - E", f"{result.correction:.4f}", "eV"),
        ("Gibbs free energy", number_with_bar(result.value.value, result.value.std, 4), "eV"),
    ]
    title = title_of(f"{result.treatment} free energy at {temperature:g} K", atoms, potential)
    print_table(title, ("", "", ""), rows)
    if as_gas:
        say(f"{pressure:g} Pa, symmetry number {state.symmetry}, spin {state.spin:g}")
    say(result.value.covers)


def _refuse(names: list[str], as_gas: bool) -> None:
    """Refuse options that would count for nothing."""
    if names:
        here, there = ("a gas", "adsorbate") if as_gas else ("an adsorbate", "gas")
        raise ConfigError(
            f"{', '.join(names)}: not of {here}, which this structure is taken for; leave it out, "
            f"or say --kind {there}."
        )
