"""``ase-nnp predict``: energies and forces of a file of structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, read_structures
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["add_to", "model_from"]

ModelArgument = Annotated[str, typer.Argument(help="A model file, or the name of a family.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="With a family's name: its checkpoint file.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DtypeOption = Annotated[str, typer.Option(help="float32 or float64.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("predict")(predict)


def model_from(model: str | None, checkpoint: Path | None, device: str, dtype: str) -> Potential:
    """Load what the command line names, or the default model."""
    from ase_nnp.models.files import load_model

    if model is None and checkpoint is not None:
        raise ConfigError("--checkpoint goes with a family's name: give MODEL too.")
    return load_model(model, checkpoint=checkpoint, device=device, dtype=dtype)


def predict(
    model: ModelArgument,
    structures: Annotated[Path, typer.Argument(help="Any dataset, or file that ASE reads.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the structures with results here.")
    ] = None,
    properties: Annotated[
        str | None, typer.Option(help="Comma-separated, such as energy,forces,stress.")
    ] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Predict energies, forces and whatever else the model gives."""
    data = read_structures(structures)
    potential = model_from(model, checkpoint, device, dtype)
    from ase_nnp.models.predictor import Predictor

    wanted = None if properties is None else [p.strip() for p in properties.split(",")]
    results = Predictor(potential)(data, wanted, progress=None if not as_json else False)
    if output is not None:
        write_results(output, data, results)
    if as_json:
        print_json([{"formula": a.get_chemical_formula(), **r} for a, r in zip(data, results)])  # noqa: B905
        return
    scalars = sorted({k for r in results for k, v in r.items() if isinstance(v, float)})
    has_forces = any("forces" in r for r in results)
    rows = []
    for number, (atoms, found) in enumerate(zip(data, results, strict=True)):
        row: list[Any] = [number, atoms.get_chemical_formula()]
        row += [f"{found[k]:.6f}" for k in scalars]
        if has_forces:
            row.append(f"{(found['forces'] ** 2).sum(axis=1).max() ** 0.5:.4f}")
        rows.append(row)
    kind = potential.energy_kind
    names = [f"{k} ({unit_of(potential, k)})" for k in scalars]
    title = f"{potential.family}: {kind} energies" if "energy" in scalars else potential.family
    if potential.energy_reference:
        title += f", {potential.energy_reference}"
    forces = ["largest force (eV/Å)"] if has_forces else []
    print_table(title, ("", "formula", *names, *forces), rows)


def unit_of(potential: Potential, name: str) -> str:
    """Return the unit of a scalar output."""
    return potential.units.get(name, "eV")


def write_results(path: Path, data: Any, results: list[dict[str, Any]]) -> None:
    """Write structures with their predictions; the file appears whole or not at all."""
    from ase.calculators.singlepoint import SinglePointCalculator

    from ase_nnp.datasets.writing.write import write_dataset

    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file, such as {path / 'out.extxyz'}.")

    def labelled() -> Any:
        for atoms, found in zip(data, results, strict=True):
            twin: Atoms = atoms.copy()
            standard = {k: v for k, v in found.items() if k in ("energy", "forces", "stress")}
            if "stress" in standard:
                from ase.stress import full_3x3_to_voigt_6_stress

                standard["stress"] = full_3x3_to_voigt_6_stress(standard["stress"])
            twin.info.update({k: v for k, v in found.items() if isinstance(v, float)})
            twin.info.pop("energy", None)
            twin.calc = SinglePointCalculator(twin, **standard)
            yield twin

    write_dataset(path, labelled())
