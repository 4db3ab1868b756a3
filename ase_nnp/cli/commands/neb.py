"""``ase-nnp neb``: the path between two minima and its barrier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.crystal import number_with_bar
from ase_nnp.cli.commands.exit_codes import EPILOG, leave
from ase_nnp.cli.commands.model_argument import model_and_structures
from ase_nnp.cli.commands.output import print_json, print_table, read_structures, say
from ase_nnp.cli.commands.shared_options import PropertyOptions, takes
from ase_nnp.cli.commands.targets import OverwriteOption, open_target
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential
    from ase_nnp.workflows.neb import MinimumEnergyPath

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("neb", epilog=EPILOG)(neb)


@takes(PropertyOptions)
def neb(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INITIAL FINAL",
            help="A model (the default one without it), and the two minima: the last structure "
            "of each file, the same atoms in the same order.",
        ),
    ],
    options: PropertyOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the images go, in any ASE format; path.extxyz or the "
            "next free name without it.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    images: Annotated[int, typer.Option(help="Between the ends.")] = 5,
    fmax: Annotated[float, typer.Option(help="Largest force of ends and band, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many, of ends and band.")] = 300,
    climb: Annotated[bool, typer.Option(help="The highest image climbs to the saddle.")] = True,
    relax_ends: Annotated[bool, typer.Option(help="Relax the ends first.")] = True,
    method: Annotated[str, typer.Option(help="ASE's name for the tangents.")] = "improvedtangent",
) -> None:
    """Find the minimum-energy path between two structures by a nudged elastic band."""
    options.check_plot()
    model, files = model_and_structures(inputs, "neb", most=2)
    if len(files) != 2:
        raise ConfigError("Which two structures? neb [MODEL] INITIAL FINAL.")
    initial, final = (read_structures(path)[-1] for path in files)
    target = open_target(output, [initial, final], default="path.extxyz", overwrite=overwrite)
    potential = options.load(model)
    settings = {"images": images, "fmax": fmax, "steps": steps, "climb": climb, "method": method}
    result = _run(initial, final, potential, options.as_json, relax_ends=relax_ends, **settings)
    written = target.write(result.images)

    std, image_std, covers = _error_bars(result, potential)
    if options.plot is not None:
        from ase_nnp.workflows.neb import draw_neb

        draw_neb(result, options.plot, image_std)
    names = ("barrier", "reverse_barrier", "reaction_energy")
    if options.as_json:
        bars = None if std is None else dict(zip(names, std.tolist(), strict=True))
        files_written = {"output": str(written), "plot": options.plot}
        print_json({**result.as_dict(), "std": bars, "error_bar": covers, **files_written})
    else:
        rows = [
            (
                n.replace("_", " "),
                number_with_bar(getattr(result, n), None if std is None else s, 4),
                "eV",
            )
            for n, s in zip(names, [0.0] * 3 if std is None else std, strict=True)
        ]
        rows.append(("steps", str(result.steps), ""))
        rows.append(("largest force", f"{result.fmax:.4f}", "eV/Å"))
        rows.append(("converged", "yes" if result.converged else "NO", ""))
        title = f"Path of {initial.get_chemical_formula()} with {potential.unwrapped.family}"
        print_table(f"{title}, written to {written}", ("", "", ""), rows)
        say(covers)
    leave([{"converged": result.converged}], "Give more --steps; the band so far is written.")


def _run(
    initial: Atoms, final: Atoms, potential: Potential, as_json: bool, **settings: Any
) -> MinimumEnergyPath:
    """Run the band with a line on stderr that shows barrier and force."""
    from rich.console import Console

    from ase_nnp.calculator.calculator import NNPCalculator
    from ase_nnp.workflows.neb import minimum_energy_path

    console = Console(stderr=True, quiet=as_json)
    with console.status("relaxing the ends", spinner="dots") as shown:

        def show(step: int, barrier: float, force: float) -> None:
            shown.update(f"step {step}  barrier {barrier:.3f} eV  {force:.3f} eV/Å")

        return minimum_energy_path(
            initial, final, NNPCalculator(potential), callback=show, **settings
        )


def _error_bars(result: MinimumEnergyPath, potential: Potential) -> tuple[Any, Any, str]:
    """Spread of barrier and image energies over an ensemble's members, on the path as it is."""
    from ase_nnp.workflows.error_bars import what_a_bar_covers
    from ase_nnp.workflows.neb import energies_of_members, heights
    from ase_nnp.workflows.propagation import summarize_members

    members = list(getattr(potential, "potentials", ()))
    if len(members) < 2:
        return None, None, what_a_bar_covers(potential, None)
    energies = energies_of_members(result, members)
    spread = summarize_members([heights(row) for row in energies])
    relative = energies - energies[:, :1]
    covers = (
        f"± is the standard deviation over {len(members)} members on this one path, which none of "
        f"them has relaxed for itself. {spread.note}"
    )
    return spread.std, relative.std(axis=0, ddof=1), covers
