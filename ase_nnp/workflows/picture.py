"""A picture of a structure: from above and from the side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.files.atomic import whole_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["KINDS", "check_picture", "draw"]

KINDS = (".png", ".pdf", ".svg", ".jpg")


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse, before long work, a picture that could not be written.

    Raises
    ------
    ConfigError
        An ending that is none of :data:`KINDS`, or a folder that is not there.
    AseNnpError
        matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in KINDS:
        raise ConfigError(f"{target}: a picture ends in one of {', '.join(KINDS)}.")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {target.parent} for the picture.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise AseNnpError(
            "Pictures need matplotlib; install it with: pip install ase_nnp[plot]"
        ) from error


def draw(atoms: Atoms, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw a structure from the side and from above; the file appears whole or not at all.

    Parameters
    ----------
    atoms
        What to draw; a small periodic cell is repeated along its periodic in-plane vectors.
    path
        ``.png`` or another of :data:`KINDS`.
    title
        Above the picture.
    """
    check_picture(path)
    from ase.visualize.plot import plot_atoms
    from matplotlib.figure import Figure

    shown = atoms.copy()
    shown.calc = None
    if len(atoms) < 40 and atoms.pbc[:2].all() and atoms.cell.rank == 3:
        shown = shown.repeat((2, 2, 1))
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for axes, turn, name in zip(
        figure.subplots(1, 2), ("-90x", "0x"), ("from the side", "from above"), strict=True
    ):
        plot_atoms(shown, axes, rotation=turn, show_unit_cell=0)
        axes.set_title(name, fontsize=10)
        axes.axis("off")
    if title:
        figure.suptitle(title, fontsize=11)
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=150)
