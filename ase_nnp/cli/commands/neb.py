"""``ase-nnp neb``: the path between two minima and its barrier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.crystal import number_with_bar
from ase_nnp.cli.commands.exit_codes import EPILOG, leave
from ase_nnp.cli.commands.model_argument import model_and_structures, model_name
from ase_nnp.cli.commands.output import print_json, print_table, read_structures, say
from ase_nnp.cli.commands.shared_options import PropertyOptions, takes
from ase_nnp.cli.commands.targets import OverwriteOption, open_target
from ase_nnp.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential
    from ase_nnp.uncertainty.observables import Observable
    from ase_nnp.workflows.paths import ReactionPath

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
    finish: Annotated[
        bool, typer.Option(help="Let the top image go on to the saddle point alone.")
    ] = True,
    folder: Annotated[
        Path | None, typer.Option(help="Keep checkpoints here; the same call goes on after a kill.")
    ] = None,
) -> None:
    """Find the minimum-energy path between two structures by a nudged elastic band."""
    options.check_plot()
    model, files = model_and_structures(inputs, "neb", most=2)
    if len(files) != 2:
        raise ConfigError("Which two structures? neb [MODEL] INITIAL FINAL.")
    initial, final = (read_structures(path)[-1] for path in files)
    target = open_target(output, [initial, final], default="path.extxyz", overwrite=overwrite)
    potential = options.load(model)
    settings: dict[str, Any] = {"images": images, "fmax": fmax, "steps": steps, "climb": climb}
    settings |= {"method": method, "relax_ends": relax_ends, "folder": folder}
    settings |= {} if finish else {"finish_at": 0.0}
    result = _run(initial, final, potential, options.as_json, **settings)
    written = target.write(result.images)
    if options.plot is not None:
        _draw(result, options.plot)

    names = ("barrier", "reverse_barrier", "reaction_energy")
    values: dict[str, Observable] = {name: getattr(result, name) for name in names}
    covers = _covers(result)
    cautions: list[str] = []
    warn_of_unknown(result.unknown_images, "images", cautions)
    if options.as_json:
        bars = {name: value.std for name, value in values.items()}
        std = None if bars["barrier"] is None else bars
        others = {"warnings": cautions, "output": str(written), "plot": options.plot}
        print_json({**result.as_dict(), "std": std, "error_bar": covers, **others})
    else:
        rows = [
            (name.replace("_", " "), number_with_bar(value.value, value.std, 4), "eV")
            for name, value in values.items()
        ]
        rows.append(("steps", str(result.steps), ""))
        rows.append(("evaluations", str(result.evaluations), ""))
        rows.append(("largest force", f"{result.fmax:.4f}", "eV/Å"))
        rows.append(("converged", "yes" if result.converged else "NO", ""))
        title = f"Path of {initial.get_chemical_formula()} with {model_name(potential)}"
        print_table(f"{title}, written to {written}", ("", "", ""), rows)
        say(covers)
    advice = result.reason or "Give more --steps; the band so far is written."
    leave([{"converged": result.converged}], advice)


def _run(
    initial: Atoms, final: Atoms, potential: Potential, as_json: bool, **settings: Any
) -> ReactionPath:
    """Run the band with a line on stderr that shows steps and force."""
    from rich.console import Console

    from ase_nnp.workflows.paths import reaction_paths

    console = Console(stderr=True, quiet=as_json)
    with console.status("relaxing the ends", spinner="dots") as shown:

        def show(step: int, bands: int, text: str) -> None:
            shown.update(f"step {step}  {text}")

        (path,) = reaction_paths([(initial, final)], potential, progress=show, **settings)
    if path.status == "failed":
        raise StructureError(path.reason)
    return path


def _covers(result: ReactionPath) -> str:
    """Say what the ± is: of this one path, which no member has relaxed for itself."""
    said = result.barrier.covers
    if result.barrier.std is None:
        return said
    return f"{said} All on this one path."


def _draw(result: ReactionPath, plot: Path) -> None:
    import numpy as np

    from ase_nnp.workflows.neb import MinimumEnergyPath, draw_neb
    from ase_nnp.workflows.paths.outcome import path_lengths

    bars = [(energy - result.energies[0]).std for energy in result.energies]
    std = None if None in bars else np.array(bars, dtype=float)
    values = np.array([energy.value for energy in result.energies])
    lengths = path_lengths(result.images)
    done = (result.converged, result.steps, result.fmax)
    band = MinimumEnergyPath(
        result.images, values, lengths, *done, unknown_images=tuple(result.unknown_images)
    )
    draw_neb(band, plot, std)
