"""``ase-nnp predict``: energies and forces of a file of structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.model_argument import (
    InputsArgument,
    model_and_structures,
    model_name,
)
from ase_nnp.cli.commands.output import print_json, print_table, read_structures, say
from ase_nnp.cli.commands.shared_options import ModelOptions, takes
from ase_nnp.cli.commands.targets import OverwriteOption, open_target
from ase_nnp.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["add_to"]

#: Columns that are made of what is no number by itself.
SHOWN = ("forces", "stress", "ood_flag")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("predict", epilog=EPILOG)(predict)


@takes(ModelOptions)
def predict(
    inputs: InputsArgument,
    options: ModelOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the structures with results here, in any ASE format."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    properties: Annotated[
        str | None, typer.Option(help="Comma-separated, such as energy,forces,stress.")
    ] = None,
) -> None:
    """Predict energies, forces and whatever else the model gives."""
    model, files = model_and_structures(inputs, "predict")
    data = read_structures(files[0])
    target = (
        None
        if output is None
        else open_target(output, data, default="predicted.extxyz", overwrite=overwrite)
    )
    wanted = None if properties is None else _names(properties)
    _check_stress(wanted, data)
    potential = options.load(model)

    from ase_nnp.models.predictor import Predictor

    results = Predictor(potential)(data, wanted, progress=None if not options.as_json else False)
    if target is not None:
        target.write([_labeled(a, r) for a, r in zip(data, results, strict=True)])
    if options.as_json:
        rows = zip(data, results, strict=True)
        print_json([{"formula": a.get_chemical_formula(), **r} for a, r in rows])
    else:
        _show(potential, data, results, wanted or (), target is None)


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"--properties {text!r}: names with commas, such as energy,forces.")
    return names


def _check_stress(wanted: Sequence[str] | None, data: Sequence[Atoms]) -> None:
    """Refuse a stress that cannot be meant, which a model would leave out without a word."""
    from ase_nnp.models.structures import has_volume

    if wanted is None or not any(name.startswith("stress") for name in wanted):
        return
    without = [k for k, atoms in enumerate(data) if not has_volume(atoms)]
    if without:
        some = ", ".join(map(str, without[:5])) + (", ..." if len(without) > 5 else "")
        raise StructureError(
            f"--properties stress: {len(without)} of {len(data)} structures have no stress, for "
            f"want of a cell with a volume: {some}. Leave stress out, or them."
        )


def _show(
    potential: Potential,
    data: Sequence[Atoms],
    results: Sequence[dict[str, Any]],
    wanted: Sequence[str],
    only_here: bool,
) -> None:
    """Print numbers as columns, forces by their largest, stress in GPa."""
    scalars = sorted({k for r in results for k, v in r.items() if isinstance(v, float)})
    forces = any("forces" in r for r in results)
    stress = any("stress" in r for r in results)
    flag = any("ood_flag" in r for r in results)
    rows = []
    for number, (atoms, values) in enumerate(zip(data, results, strict=True)):
        row: list[Any] = [number, atoms.get_chemical_formula()]
        row += [f"{values[k]:.6f}" if k in values else "" for k in scalars]
        if flag:
            row.append("NO" if values.get("ood_flag") else "yes")
        if forces:
            row.append(f"{(values['forces'] ** 2).sum(axis=1).max() ** 0.5:.4f}")
        row += _voigt_gpa(values.get("stress")) if stress else []
        rows.append(row)

    kind = potential.energy_kind
    names = [_with_unit(potential, k) for k in scalars] + ["in domain"] * flag
    names += ["largest force (eV/Å)"] * forces
    names += [f"{k} (GPa)" for k in ("xx", "yy", "zz", "yz", "xz", "xy")] * stress
    name = model_name(potential)
    title = f"{name}: {kind} energies" if "energy" in scalars else name
    if potential.energy_reference:
        title += f", {potential.energy_reference}"
    print_table(title, ("", "formula", *names), rows)

    hidden = [name for name in wanted if name not in (*scalars, *SHOWN)]
    if hidden and only_here:
        say(f"{', '.join(hidden)}: more than a table holds; --output FILE or --json has them.")


def _with_unit(potential: Potential, name: str) -> str:
    unit = potential.units.get(name, "eV" if name.startswith("energy") else "")
    return f"{name} ({unit})" if unit else name


def _voigt_gpa(stress: Any) -> list[str]:
    if stress is None:
        return [""] * 6
    from ase.stress import full_3x3_to_voigt_6_stress
    from ase.units import GPa

    return [f"{value / GPa:.4f}" for value in full_3x3_to_voigt_6_stress(stress)]


def _labeled(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    """Return a structure that carries its predictions: labels, arrays of atoms, the rest in info.

    ASE's calculators hold the standard properties alone; what else was asked for must not get
    lost on the way to the file.
    """
    import numpy as np

    from ase_nnp.models.structures import with_labels
    from ase_nnp.workflows.doubts import noted

    twin: Atoms = noted(atoms.copy(), {})
    for name in results.keys() - {"energy", "forces", "stress"}:
        value = np.asarray(results[name])
        if value.ndim and len(value) == len(twin):
            twin.arrays[name] = value
        else:
            twin.info[name] = value.item() if value.ndim == 0 else value

    twin.info.pop("energy", None)
    return with_labels(twin, results)
