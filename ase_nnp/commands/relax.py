"""``ase-nnp relax``: relax the structures of a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.commands.output import JsonOption, print_json, print_table, read_structures
from ase_nnp.commands.predict import (
    CheckpointOption,
    DeviceOption,
    DtypeOption,
    model_from,
)
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("relax")(relax)


def relax(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [STRUCTURES]",
            help="A model file or family (the default model without it), and any dataset or file "
            "that ASE reads (CO on a copper slab without it).",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the relaxed structures go.")
    ] = Path("relaxed.extxyz"),
    index: Annotated[int | None, typer.Option(help="Relax only this structure (0 first).")] = None,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many steps each.")] = 300,
    optimizer: Annotated[str, typer.Option(help="FIRE, BFGS, LBFGS, ...")] = "FIRE",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the (first) relaxed structure to this PNG.")
    ] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Relax structures with ASE's optimizers; a bar shows how far the forces have come down."""
    from rich.console import Console
    from rich.progress import Progress

    from ase_nnp.workflows.picture import check_picture, draw
    from ase_nnp.workflows.relax import check_optimizer

    check_optimizer(optimizer)
    if plot is not None:
        check_picture(plot)
    model, structures = split_inputs(inputs or [])
    data: Sequence[Atoms] = [example()] if structures is None else read_structures(structures)
    if index is not None:
        if not -len(data) <= index < len(data):
            raise ConfigError(f"--index {index}: the input holds {len(data)} structures.")
        data = [data[index]]
    potential = model_from(model, checkpoint, device, dtype)
    from ase_nnp.calculator import NNPCalculator
    from ase_nnp.workflows.relax import relax as run

    rows: list[dict[str, Any]] = []
    finished = []
    with Progress(console=Console(stderr=True), disable=as_json) as bar:
        for number, atoms in enumerate(data):
            formula = atoms.get_chemical_formula()
            task = bar.add_task(f"{number} {formula}", total=1.0)
            start: list[float] = []

            def show(
                step: int,
                energy: float,
                force: float,
                task: Any = task,
                start: list[float] = start,
                formula: str = formula,
            ) -> None:
                start.append(force)
                span = math.log(max(start[0], fmax * 1.001) / fmax)
                done = 1 - math.log(max(force, fmax) / fmax) / span
                text = f"{formula} step {step}  {energy:.3f} eV  {force:.3f} eV/Å"
                bar.update(task, completed=max(0.0, min(1.0, done)), description=text)

            found = run(
                atoms,
                NNPCalculator(potential),
                fmax=fmax,
                steps=steps,
                optimizer=optimizer,
                cell=cell,
                callback=show,
            )
            finished.append(found.atoms)
            rows.append(
                {
                    "formula": formula,
                    "converged": found.converged,
                    "steps": found.steps,
                    "energy_before": found.energy_before,
                    "energy": found.energy,
                    "fmax": found.fmax,
                    **doubts(found.atoms.calc.results),
                }
            )
    from ase_nnp.datasets.writers import write_dataset

    write_dataset(output, finished)
    if plot is not None:
        draw(finished[0], plot, f"{rows[0]['formula']}: {rows[0]['energy']:.3f} eV")
    if as_json:
        print_json({"output": str(output), "structures": rows})
        return
    picture = "" if plot is None else f", drawn in {plot}"
    std, flag = any("energy_std" in r for r in rows), any("out_of_domain" in r for r in rows)
    print_table(
        f"Relaxed with {named(potential)}, written to {output}{picture}",
        ("formula", "converged", "steps", "start (eV)", "end (eV)", "fmax (eV/Å)")
        + ("± (eV)",) * std
        + ("in domain",) * flag,
        [
            (
                r["formula"],
                "yes" if r["converged"] else "no",
                r["steps"],
                f"{r['energy_before']:.4f}",
                f"{r['energy']:.4f}",
                f"{r['fmax']:.4f}",
                *([f"{r['energy_std']:.3f}"] if std else []),
                *(["NO" if r["out_of_domain"] else "yes"] if flag else []),
            )
            for r in rows
        ],
    )


def split_inputs(inputs: list[str]) -> tuple[str | None, Path | None]:
    """Tell model and structures apart: one argument alone is the structures."""
    if len(inputs) > 2:
        raise ConfigError(f"relax takes a model and a file of structures, not {len(inputs)} names.")
    if len(inputs) == 2:
        return inputs[0], Path(inputs[1])
    if not inputs:
        return None, None
    from ase_nnp.registry import installed

    if inputs[0] in installed().families or inputs[0].endswith(".nnp"):
        raise ConfigError(f"'{inputs[0]}' is a model; which structures? relax MODEL STRUCTURES.")
    return None, Path(inputs[0])


def example() -> Atoms:
    """CO above a hollow of a small copper slab whose two lowest layers are fixed."""
    from ase.build import add_adsorbate, fcc111, molecule
    from ase.constraints import FixAtoms

    atoms: Atoms = fcc111("Cu", (2, 2, 4), a=3.63, vacuum=7.0)
    atoms.set_constraint(FixAtoms(mask=[atom.tag > 2 for atom in atoms]))
    carbon = molecule("CO").symbols.index("C")
    co = molecule("CO")
    co.rotate(co.positions[1 - carbon] - co.positions[carbon], "z")
    add_adsorbate(atoms, co, 1.6, "fcc", mol_index=carbon)
    return atoms


def doubts(results: dict[str, Any]) -> dict[str, Any]:
    """Return what an uncertainty says of a structure."""
    found: dict[str, Any] = {
        k: float(results[k]) for k in ("energy_std", "ood_score") if k in results
    }
    if "ood_flag" in results:
        return found | {"out_of_domain": bool(results["ood_flag"])}
    return found


def named(potential: Any) -> str:
    """Name of a model, also of one inside an uncertainty."""
    inner = getattr(potential, "base", potential)
    while hasattr(inner, "base"):
        inner = inner.base
    return str(inner.family)
