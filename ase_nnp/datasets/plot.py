"""Pictures of a dataset: which elements, which energies, which forces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.stats import DatasetStats, dataset_stats
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_dataset", "plot_stats"]

# One blue, light to dark; gray where there is nothing.
_LIGHT, _DARK, _NONE = "#dbe7f3", "#0b3c6f", "#f1f1f1"
_BAR, _INK = "#3a78b5", "#333333"


def _place(z: int) -> tuple[int, int]:
    """Return row and column of an element in the periodic table; f block below."""
    if 57 <= z <= 71 or 89 <= z <= 103:
        start, row = (57, 8) if z <= 71 else (89, 9)
        return row, z - start + 3

    for row, (first, last) in enumerate(
        ((1, 2), (3, 10), (11, 18), (19, 36), (37, 54), (55, 86), (87, 118))
    ):
        if first <= z <= last:
            at, width = z - first, last - first + 1
            if width == 2:
                return row, 0 if at == 0 else 17
            if width == 8:
                return row, at if at < 2 else at + 10
            if width == 18:
                return row, at
            return row, at if at < 2 else at - 14
    raise ValueError(f"no element {z}")


def plot_stats(stats: DatasetStats, title: str = "") -> Figure:
    """Draw a periodic table colored by abundance and histograms of energies and forces.

    Returns
    -------
    matplotlib.figure.Figure
        Drawn without a display; ``figure.savefig(path)`` writes it.
    """
    stats.flush()
    figure = new_figure(11, 8.6)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    upper, lower = parts
    _elements(upper, stats)
    left, middle, right = lower.subplots(1, 3)
    _sizes(left, stats)
    _energies(middle, stats)
    _forces(right, stats)
    if title:
        figure.suptitle(title, color=_INK)
    return figure


def _elements(figure: Any, stats: DatasetStats) -> None:
    from ase.data import chemical_symbols
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.patches import Rectangle

    axes = figure.subplots()
    colors = LinearSegmentedColormap.from_list("blues", [_LIGHT, _DARK])
    structures_with = stats.structures_with
    most = max(structures_with.values(), default=1)
    norm = LogNorm(vmin=1, vmax=max(most, 10))
    for z in range(1, 119):
        row, column = _place(z)
        count = structures_with.get(z, 0)
        face = colors(norm(count)) if count else _NONE
        axes.add_patch(Rectangle((column, -row), 0.94, 0.94, facecolor=face, linewidth=0))
        dark = count and norm(count) > 0.5
        ink = "white" if dark else (_INK if count else "#b0b0b0")
        style = {"ha": "center", "va": "center", "color": ink}
        axes.text(column + 0.47, -row + (0.62 if count else 0.47), chemical_symbols[z],
                  fontsize=9, fontweight="bold" if count else "normal", **style)  # fmt: skip
        if count:
            axes.text(column + 0.47, -row + 0.25, _short(count), fontsize=6, **style)
    axes.set(xlim=(-0.2, 18.2), ylim=(-9.3, 1.1), aspect="equal")
    axes.axis("off")
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("structures with the element")
    axes.set_title(
        f"{stats.count:,} structures, {stats.atoms:,} atoms, {len(structures_with)} elements",
        fontsize=11,
        color=_INK,
    )


def _short(count: int) -> str:
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}{unit}"
    return str(count)


def _clean(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _rebin(edges: Any, counts: Any, wanted: int) -> tuple[Any, Any]:
    """Join neighboring bins until there are about ``wanted``."""
    step = max(1, round(len(counts) / wanted))
    padded = np.concatenate([counts, np.zeros(-len(counts) % step, dtype=counts.dtype)])
    width = edges[1] - edges[0]
    joined = padded.reshape(-1, step).sum(axis=1)
    return edges[0] + width * step * np.arange(len(joined) + 1), joined


def _bars(axes: Axes, edges: Any, counts: Any) -> None:
    axes.stairs(counts, edges, fill=True, color=_BAR)
    axes.set_ylim(bottom=0)


def _nothing(axes: Axes, what: str) -> None:
    axes.text(0.5, 0.5, f"no {what}", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _sizes(axes: Axes, stats: DatasetStats) -> None:
    sizes = np.array(sorted(stats.sizes))
    if not len(sizes):
        return _nothing(axes, "structures")
    step = max(1, -(-(int(sizes[-1] - sizes[0]) + 1) // 40))
    edges = np.arange(sizes[0] - 0.5, sizes[-1] + step + 0.5, step)
    counts, _ = np.histogram(sizes, edges, weights=[stats.sizes[n] for n in sizes.tolist()])
    _bars(axes, edges, counts)
    middle = (edges[0] + edges[-1]) / 2
    reach = max(edges[-1] - middle, 5.0) * 1.05  # a few sizes only do not fill the width
    axes.set_xlim(middle - reach, middle + reach)
    axes.locator_params(axis="x", integer=True)
    return _clean(axes, "atoms a structure", "structures")


def _energies(axes: Axes, stats: DatasetStats) -> None:
    edges, counts = stats.energy_histogram.table()
    if not len(counts):
        return _nothing(axes, "energies")
    _bars(axes, *_rebin(edges, counts, 50))
    kinds = "/".join(stats.energy_kinds)
    axes.set_title(f"{stats.energy.mean:.4g} ± {stats.energy.std:.3g} eV", fontsize=9)
    return _clean(axes, f"{kinds} energy (eV)", "structures")


def _forces(axes: Axes, stats: DatasetStats) -> None:
    edges, counts = stats.force_histogram.table()
    if not len(counts):
        return _nothing(axes, "forces")
    edges, counts = _rebin(edges, counts, 50)
    _bars(axes, 10.0**edges, counts)
    axes.set_xscale("log")
    axes.set_title(f"components: rms {stats.forces.rms:.3g} eV/Å", fontsize=9)
    return _clean(axes, "force on an atom (eV/Å)", "atoms")


def plot_dataset(
    dataset: Any, path: str | os.PathLike[str], *, title: str = "", **options: Any
) -> DatasetStats:
    """Read a dataset once and write its picture; returns the statistics.

    Parameters
    ----------
    dataset
        An AtomsDataset or any iterable of Atoms.
    path
        ``.png``, or another ending that matplotlib writes.
    title
        Above the picture.
    **options
        For :func:`~ase_nnp.datasets.stats.dataset_stats`.
    """
    target = Path(path)
    kinds = (".png", ".pdf", ".svg", ".jpg")
    if target.suffix.lower() not in kinds:
        raise DatasetError(f"a picture ends in one of {', '.join(kinds)}", path=path)
    stats = dataset_stats(dataset, **options)
    figure = plot_stats(stats, title)
    with whole_file(target) as beside:
        figure.savefig(beside, dpi=150)
    return stats
