"""Pictures of structures: from the side and from above, before and after a relaxation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.pictures import new_figure

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["KINDS", "check_picture", "draw", "draw_relaxation", "save_figure"]

KINDS = (".png", ".pdf", ".svg", ".jpg")
VIEWS = (("from the side", "-90x"), ("from above", "0x"))


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse, before long work, a picture that could not be written.

    Raises
    ------
    ConfigError
        An ending that is none of :data:`KINDS`, a folder that is not there, or no matplotlib.
    """
    target = Path(path)
    if target.suffix.lower() not in KINDS:
        raise ConfigError(f"{target}: a picture ends in one of {', '.join(KINDS)}.")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {target.parent} for the picture.")
    new_figure(1, 1)  # refuses where matplotlib is missing


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a matplotlib figure; the file appears whole or not at all."""
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=150)


def draw(atoms: Atoms, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw a structure from the side and from above, with the outline of its cell.

    Parameters
    ----------
    atoms
        What to draw: one cell. Atoms that constraints hold are crossed.
    path
        ``.png`` or another of :data:`KINDS`; it appears whole or not at all.
    title
        Above the picture.
    """
    check_picture(path)
    figure = new_figure(9, 4.8)
    for axes, (name, turn) in zip(figure.subplots(1, 2), VIEWS, strict=True):
        _view(axes, atoms, turn)
        axes.set_title(name, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    save_figure(figure, path)


def draw_relaxation(
    start: Atoms,
    end: Atoms,
    path: str | os.PathLike[str],
    *,
    energies: Sequence[float],
    energy_std: float | None = None,
    title: str = "",
) -> None:
    """Draw a relaxation: start and end from the side and from above, and the energy's course.

    Parameters
    ----------
    start, end
        The structure before and after; one cell each. Atoms that constraints hold are crossed.
    path
        ``.png`` or another of :data:`KINDS`; it appears whole or not at all.
    energies
        eV, one a step, the first before the first step.
    energy_std
        Standard deviation that the model gives the last energy, eV.
    title
        Above the picture.
    """
    check_picture(path)
    figure = new_figure(11, 8)
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.3), height_ratios=(1.5, 1))
    for column, (stage, atoms) in enumerate((("start", start), ("end", end))):
        for row, (name, turn) in enumerate(VIEWS):
            axes = figure.add_subplot(grid[row, column])
            _view(axes, atoms, turn)
            axes.set_title(f"{stage}, {name}", fontsize=10)

    axes = figure.add_subplot(grid[:, 2])
    _course(axes, energies, energy_std)
    held = len(_held(end))
    if held:
        figure.supxlabel(f"crossed: {held} of {len(end)} atoms are held", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    save_figure(figure, path)


def _course(axes: Any, energies: Sequence[float], energy_std: float | None) -> None:
    """Energy against step, with the error bar of the last one where there is one."""
    steps = np.arange(len(energies))
    axes.plot(steps, energies, ".-", color="tab:blue")
    label = f"{energies[-1]:.3f} eV"
    if energy_std is not None:
        axes.errorbar(steps[-1:], energies[-1:], yerr=energy_std, color="tab:red", capsize=4)
        label = f"{energies[-1]:.3f} ± {energy_std:.3f} eV"
    axes.set(xlabel="step", ylabel="energy (eV)", title=f"energy, at the end {label}")
    axes.ticklabel_format(useOffset=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _view(axes: Any, atoms: Atoms, turn: str) -> None:
    """One structure from one side, its cell dashed, held atoms crossed."""
    from ase.visualize.plot import Matplotlib

    shown = atoms.copy()
    shown.calc = None
    shown.info = {}  # an "occupancy" in there would be drawn too
    painter = Matplotlib(
        shown, axes, rotation=turn, show_unit_cell=2 if shown.cell.rank == 3 else 0, radii=0.85
    )
    painter.write()
    # Atoms beyond the cell's outline would be cut by ASE's limits.
    axes.autoscale_view()
    axes.set_axis_off()

    # A cross on an atom that another one covers would seem to be on that one.
    x, radii = painter.positions[: len(atoms)], painter.d / 2  # the rest are dashes of the cell
    for k in _held(atoms):
        lateral = np.linalg.norm(x[:, :2] - x[k, :2], axis=1)
        if not ((x[:, 2] > x[k, 2] + 0.1) & (lateral < radii)).any():
            axes.plot(x[k, 0], x[k, 1], "x", color="black", markersize=7)


def _held(atoms: Atoms) -> NDArray[np.int64]:
    """Indices of atoms that constraints fix entirely."""
    from ase.constraints import FixAtoms

    fixed = [c.index for c in atoms.constraints if isinstance(c, FixAtoms)]
    return np.unique(np.concatenate(fixed)).astype(int) if fixed else np.zeros(0, dtype=int)
