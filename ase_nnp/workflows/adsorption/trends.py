"""Trends over surfaces and adsorbates: a table of energies, scaling relations, a volcano.

Adsorption energies of fragments that bind by one element grow in proportion over metals
(Abild-Pedersen et al. 2007, doi:10.1103/PhysRevLett.99.016105): a *scaling relation*. By Sabatier's
principle the best catalyst binds neither too strongly nor too weakly: a *volcano*.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.files.pictures import new_figure
from ase_nnp.workflows.adsorption.fingerprints import Array
from ase_nnp.workflows.picture import check_picture, save_figure

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "AdsorptionTable",
    "ScalingRelation",
    "adsorption_table",
    "draw_adsorption_table",
    "draw_scaling",
    "draw_volcano",
]

#: Under a picture: what its marks say.
UNKNOWN = "rests on a structure unknown to the model"


@dataclass(frozen=True)
class ScalingRelation:
    """A straight line through the energies of two adsorbates, by least squares.

    Attributes
    ----------
    x, y
        Names of the adsorbates: the energy of ``y`` is ``slope`` times that of ``x`` plus
        ``intercept`` (eV).
    slope, slope_std, intercept, intercept_std
        With standard errors of the fit, which know of the scatter around the line only.
    residual
        Standard deviation around the line (two parameters fitted), eV.
    count
        Surfaces with both energies.
    """

    x: str
    y: str
    slope: float
    slope_std: float
    intercept: float
    intercept_std: float
    residual: float
    count: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"E({self.y}) = ({self.slope:.2f} ± {self.slope_std:.2f}) E({self.x}) + "
            f"({self.intercept:.2f} ± {self.intercept_std:.2f}) eV, "
            f"scatter {self.residual:.2f} eV over {self.count} surfaces"
        )


@dataclass(frozen=True)
class AdsorptionTable:
    """The most stable adsorption energy of each adsorbate on each surface.

    Attributes
    ----------
    surfaces, adsorbates
        Names of rows and columns, in the order of the input.
    energies, stds
        (S, A) eV; NaN where there is none.
    sites
        (S, A) names; nothing where there is none.
    reactions
        Of each adsorbate: what its energies are of.
    unknown
        (S, A) what an energy is counted from that the model's own flag is raised for, in words;
        nothing where there is none.
    """

    surfaces: tuple[str, ...]
    adsorbates: tuple[str, ...]
    energies: Array
    stds: Array
    sites: tuple[tuple[str, ...], ...]
    reactions: dict[str, str]
    unknown: tuple[tuple[str, ...], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, None for what is missing."""

        def plain(values: Array) -> list[list[float | None]]:
            return [[None if np.isnan(v) else float(v) for v in row] for row in values]

        return {
            "surfaces": list(self.surfaces),
            "adsorbates": list(self.adsorbates),
            "energies": plain(self.energies),
            "stds": plain(self.stds),
            "sites": [list(row) for row in self.sites],
            "reactions": dict(self.reactions),
            "unknown": [list(row) for row in self.unknown],
        }

    def doubted(self, *adsorbates: str) -> list[bool]:
        """Return of each surface whether an energy of these adsorbates rests on the unknown."""
        if not self.unknown:
            return [False] * len(self.surfaces)
        columns = [self.column(name) for name in adsorbates]
        return [any(row[k] for k in columns) for row in self.unknown]

    def column(self, adsorbate: str) -> int:
        """Return the column of an adsorbate; ConfigError if there is none."""
        if adsorbate not in self.adsorbates:
            raise ConfigError(
                f"The table has no adsorbate '{adsorbate}'. It has: {', '.join(self.adsorbates)}."
            )
        return self.adsorbates.index(adsorbate)

    def scaling(self, x: str, y: str) -> ScalingRelation:
        """Fit the energies of one adsorbate as a line of those of another.

        Raises
        ------
        ConfigError
            An adsorbate that is not in the table, or fewer than three surfaces with both.
        """
        from scipy.stats import linregress

        both = self.energies[:, [self.column(x), self.column(y)]]
        both = both[~np.isnan(both).any(axis=1)]
        if len(both) < 3 or np.ptp(both[:, 0]) == 0:
            raise ConfigError(
                f"{len(both)} surfaces have energies of both {x} and {y}: a line with an error "
                "takes three or more that differ."
            )
        line = linregress(both[:, 0], both[:, 1])
        off = both[:, 1] - line.slope * both[:, 0] - line.intercept
        return ScalingRelation(
            x,
            y,
            float(line.slope),
            float(line.stderr),
            float(line.intercept),
            float(line.intercept_stderr),
            float(np.sqrt((off**2).sum() / (len(both) - 2))),
            len(both),
        )


def adsorption_table(structures: Iterable[Atoms]) -> AdsorptionTable:
    """Return the table of a merged ``screen --task adsorb`` run.

    Parameters
    ----------
    structures
        With ``surface``, ``adsorbate`` and ``adsorption_energy`` in ``info``, as the run leaves
        them. Of several for one pair the most stable counts.

    Raises
    ------
    DatasetError
        A structure that is no result of such a run, or none at all.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for atoms in structures:
        info = atoms.info
        missing = {"surface", "adsorbate", "adsorption_energy"} - set(info)
        if missing:
            raise DatasetError(
                f"{atoms.get_chemical_formula()} has no {', '.join(sorted(missing))} in info: it "
                "is no result of screen with task='adsorb'"
            )
        key = str(info["surface"]), str(info["adsorbate"])
        if key not in best or info["adsorption_energy"] < best[key]["adsorption_energy"]:
            best[key] = info
    if not best:
        raise DatasetError("there is no result of screen with task='adsorb'")

    surfaces = tuple(dict.fromkeys(surface for surface, _ in best))
    adsorbates = tuple(dict.fromkeys(name for _, name in best))

    def values(name: str) -> Array:
        cells = [[best.get((s, a), {}).get(name, np.nan) for a in adsorbates] for s in surfaces]
        return np.array(cells, dtype=float)

    def words(name: str) -> tuple[tuple[str, ...], ...]:
        return tuple(
            tuple(str(best.get((s, a), {}).get(name, "")) for a in adsorbates) for s in surfaces
        )

    return AdsorptionTable(
        surfaces,
        adsorbates,
        values("adsorption_energy"),
        values("adsorption_std"),
        words("site"),
        {name: str(info.get("reaction", "")) for (_, name), info in best.items()},
        words("unknown"),
    )


def draw_adsorption_table(table: AdsorptionTable, path: str | os.PathLike[str]) -> None:
    """Draw the table as a heatmap, the energy and its error bar in each cell."""
    check_picture(path)
    rows, columns = table.energies.shape
    figure = new_figure(2.8 + 1.1 * columns, 1.4 + 0.45 * rows)
    axes = figure.subplots()

    # White is the middle of what there is: most reactions have no meaningful zero.
    image = axes.imshow(table.energies, cmap="RdBu_r", aspect="auto")
    axes.set_xticks(range(columns), table.adsorbates)
    axes.set_yticks(range(rows), table.surfaces)
    low, high = np.nanmin(table.energies), np.nanmax(table.energies)
    marks = table.unknown or [[""] * columns] * rows
    for i, j in np.ndindex(rows, columns):
        energy, std = table.energies[i, j], table.stds[i, j]
        if np.isnan(energy):
            axes.text(j, i, "-", ha="center", va="center")
            continue
        said = (
            f"{energy:.2f}" + ("" if np.isnan(std) else f" ± {std:.2f}") + "?" * bool(marks[i][j])
        )
        dark = abs(energy - (low + high) / 2) > 0.35 * (high - low)
        axes.text(j, i, said, ha="center", va="center", fontsize=8, color="w" if dark else "k")
    figure.colorbar(image, label="adsorption energy (eV)")
    if any(table.doubted(*table.adsorbates)):
        axes.set_title(f"?: {UNKNOWN}", fontsize=9)
    save_figure(figure, path)


def draw_scaling(table: AdsorptionTable, x: str, y: str, path: str | os.PathLike[str]) -> None:
    """Draw the energies of two adsorbates against each other, with the line and its error."""
    check_picture(path)
    line = table.scaling(x, y)
    first, second = table.column(x), table.column(y)
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    heights = table.energies[:, second]
    _points(axes, table, first, heights, table.stds[:, second])
    _mark(axes, table.energies[:, first], heights, table.doubted(x, y))

    # The band of the line itself: slope and intercept are correlated through the mean.
    both = table.energies[:, [first, second]]
    known = both[~np.isnan(both).any(axis=1), 0]
    grid = np.linspace(known.min(), known.max(), 50)
    middle = line.slope * grid + line.intercept
    spread = ((known - known.mean()) ** 2).sum()
    width = line.residual * np.sqrt(1 / line.count + (grid - known.mean()) ** 2 / spread)
    axes.plot(grid, middle, color="0.4", lw=1)
    axes.fill_between(grid, middle - width, middle + width, color="0.4", alpha=0.2, lw=0)
    axes.set_xlabel(f"adsorption energy of {x} (eV)")
    axes.set_ylabel(f"adsorption energy of {y} (eV)")
    axes.set_title(
        f"slope {line.slope:.2f} ± {line.slope_std:.2f}, scatter {line.residual:.2f} eV",
        fontsize=10,
    )
    save_figure(figure, path)


def draw_volcano(
    table: AdsorptionTable, adsorbate: str, path: str | os.PathLike[str], *, optimum: float = 0.0
) -> None:
    """Draw Sabatier's volcano: how far each surface is from the binding that would be the best.

    Parameters
    ----------
    table
        The energies.
    adsorbate
        The descriptor.
    path
        The picture.
    optimum
        Adsorption energy of the best catalyst, eV; -0.24 for hydrogen evolution, where the free
        energy of H* is zero (Nørskov et al. 2005, doi:10.1149/1.1856988).
    """
    check_picture(path)
    column = table.column(adsorbate)
    energies = table.energies[:, column]
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    heights = -np.abs(energies - optimum)
    _points(axes, table, column, heights, np.full(len(energies), np.nan))
    _mark(axes, energies, heights, table.doubted(adsorbate))

    known = energies[~np.isnan(energies)]
    legs = np.array([min(known.min(), optimum), optimum, max(known.max(), optimum)])
    axes.plot(legs, -np.abs(legs - optimum), color="0.4", lw=1, zorder=0)
    axes.set_xlabel(f"adsorption energy of {adsorbate} (eV)")
    axes.set_ylabel(f"-|E - ({optimum:.2f})| (eV)")
    save_figure(figure, path)


def _mark(axes: Any, energies: Array, heights: Array, doubted: list[bool]) -> None:
    """Crosses on what the model does not know."""
    if any(doubted):
        places = np.flatnonzero(doubted)
        axes.plot(energies[places], heights[places], "x", color="tab:red", zorder=3, label=UNKNOWN)
        axes.legend(frameon=False, fontsize=8)


def _points(axes: Any, table: AdsorptionTable, column: int, heights: Array, bars: Array) -> None:
    """One labeled point a surface, with error bars where there are any."""
    energies = table.energies[:, column]
    widths = table.stds[:, column]
    axes.errorbar(
        energies,
        heights,
        xerr=np.nan_to_num(widths) if not np.isnan(widths).all() else None,
        yerr=np.nan_to_num(bars) if not np.isnan(bars).all() else None,
        fmt="o",
        ms=5,
        lw=0.8,
        capsize=2,
    )

    for name, energy, height in zip(table.surfaces, energies, heights, strict=True):
        if not (np.isnan(energy) or np.isnan(height)):
            axes.annotate(name, (energy, height), (4, 4), textcoords="offset points", fontsize=7)
