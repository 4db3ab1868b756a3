"""``ase-nnp vibrations``: normal modes of a molecule, an adsorbate or a crystal at rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.crystal import IndexOption, one_structure, title_of
from ase_nnp.cli.commands.exit_codes import EPILOG
from ase_nnp.cli.commands.output import print_json, print_table, say, warn
from ase_nnp.cli.commands.shared_options import PropertyOptions, takes
from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import whole_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["RelaxedStructure", "add_to", "free_of"]

#: eV/Angstrom; more than a usual relaxation leaves.
AT_REST = 0.06

RelaxedStructure = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] STRUCTURE",
        help="A model (the default one without it), and a file with a relaxed structure.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("vibrations", epilog=EPILOG)(vibrations)


@takes(PropertyOptions, dtype="float64")
def vibrations(
    inputs: RelaxedStructure,
    options: PropertyOptions,
    free: Annotated[
        str, typer.Option(help="Atoms that move: 'auto' (none that is held), or 12,13,14.")
    ] = "auto",
    displacement: Annotated[
        float, typer.Option(help="Angstrom, where the model is not differentiated.")
    ] = 0.01,
    rigid: Annotated[
        str, typer.Option(help="Motions taken out: auto, all, translations, none.")
    ] = "auto",
    animate: Annotated[
        Path | None, typer.Option(help="Write the modes as a Jmol .xyz file to look at.")
    ] = None,
    index: IndexOption = -1,
) -> None:
    """Compute frequencies and zero-point energy; relax first (ase-nnp relax --fmax 0.005)."""
    options.check_plot()
    model, atoms = one_structure(inputs, "vibrations", index)
    from ase.units import invcm

    from ase_nnp.workflows.vibrations import vibrations as compute

    potential = options.load(model)
    settings: dict[str, Any] = {"displacement": displacement, "rigid": rigid}
    moving = free_of(free, atoms)
    result = compute(atoms, potential, free=moving, **settings)
    members = list(getattr(potential, "potentials", ()))
    std = _std(atoms, members, moving, settings) if len(members) > 1 else None

    energies = result.get_internal_energies()
    waves = ((energies.real - abs(energies.imag)) / invcm).tolist()
    cautions: list[str] = []
    imaginary = [wave for wave in waves if wave < 0]
    warn_of_unknown(result.unknown, "this structure", cautions)
    if result.fmax > AT_REST:
        warn(
            f"forces of up to {result.fmax:.2f} eV/Å are left: modes are of a structure at rest; "
            "relax it first with ase-nnp relax --fmax 0.005",
            cautions,
        )
    if imaginary:
        warn(f"{len(imaginary)} imaginary modes (negative below): this is no minimum", cautions)
    if animate is not None:
        with whole_file(animate) as beside:
            result.write_jmol(filename=str(beside))
    if options.plot is not None:
        _draw(waves, std, options.plot)
    if options.as_json:
        print_json(
            {
                "frequencies": waves,
                "frequencies_std": std,
                "zero_point_energy": result.get_zero_point_energy(),
                "free_atoms": result.get_indices().tolist(),
                "rigid_modes": result.rigid_modes,
                "imaginary": len(imaginary),
                "fmax": result.fmax,
                "unknown": result.unknown,
                "warnings": cautions,
                "plot": options.plot,
                "animation": animate,
            }
        )
        return
    bars = [""] * len(waves) if std is None else [f"{s:.1f}" for s in std]
    rows = [
        (str(k), f"{wave:.1f}", bar) for k, (wave, bar) in enumerate(zip(waves, bars, strict=True))
    ]
    print_table(title_of("Modes", atoms, potential), ("mode", "1/cm", "±"), rows)
    say(
        f"zero-point energy {result.get_zero_point_energy():.4f} eV; {result.rigid_modes} rigid "
        f"motions taken out; {len(result.get_indices())} of {len(atoms)} atoms move"
    )


def free_of(text: str, atoms: Atoms) -> list[int] | None:
    """Return the atoms that an option names; None where it says ``auto``."""
    if text == "auto":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--free {text}: 'auto', or indices with commas, as 12,13.") from None


def _std(atoms: Atoms, members: list[Any], moving: Any, settings: dict[str, Any]) -> list[float]:
    """Standard deviation of each mode's wave number over the members, at this one geometry."""
    import numpy as np
    from ase.units import invcm

    from ase_nnp.workflows.vibrations import vibrations as compute

    rows = []
    for member in members:
        own = compute(atoms, member, free=moving, **settings).get_internal_energies()
        rows.append((own.real - abs(own.imag)) / invcm)
    return [float(s) for s in np.std(rows, axis=0, ddof=1)]


def _draw(waves: list[float], std: list[float] | None, path: Path) -> None:
    from matplotlib.figure import Figure

    from ase_nnp.workflows.picture import save_figure

    figure = Figure(figsize=(6.5, 2.5), layout="constrained")
    axes = figure.add_subplot()
    axes.vlines(waves, 0, 1, color=["tab:red" if wave < 0 else "tab:blue" for wave in waves])
    for wave, bar in zip(waves, std or [0.0] * len(waves), strict=True):
        axes.axvspan(wave - bar, wave + bar, color="tab:blue", alpha=0.15, linewidth=0)
    axes.set(xlabel="wave number (1/cm), imaginary ones negative", yticks=[], ylim=(0, 1.1))
    save_figure(figure, path)
