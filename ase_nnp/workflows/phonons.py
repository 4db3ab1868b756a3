"""Phonons of a crystal from displaced supercells, with phonopy where it is installed, else ASE."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.units import _e, _hplanck, kB
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.doubts import Watched
from ase_nnp.workflows.phonon_engines import frequencies_by_ase, frequencies_by_phonopy

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ENGINES", "Phonons", "draw_phonons", "phonons"]

ENGINES = ("auto", "phonopy", "ase")


@dataclass(frozen=True)
class Phonons:
    """Harmonic phonons.

    Attributes
    ----------
    engine
        ``"phonopy"`` or ``"ase"``.
    path
        (Q, 3) q-points along the band path, in reciprocal lattice vectors.
    distances, ticks, labels
        Of the path, for a plot.
    bands
        (Q, 3 N) THz along it, ascending; imaginary ones are negative.
    mesh
        (M, 3 N) THz on an even mesh that contains Gamma.
    nonlinearity
        Largest change of a band's frequency when the displacement is doubled, THz. That of a
        smooth energy hardly changes; where a model normalizes what vanishes at symmetric sites,
        it does.
    unknown_cells
        How many of the displaced supercells the model's own flag calls outside of what it knows.
    """

    engine: str
    path: NDArray[np.float64]
    distances: NDArray[np.float64]
    ticks: NDArray[np.float64]
    labels: list[str]
    bands: NDArray[np.float64]
    mesh: NDArray[np.float64]
    nonlinearity: float = 0.0
    unknown_cells: int = 0

    @property
    def lowest(self) -> float:
        """Lowest frequency on path and mesh, THz; negative says imaginary."""
        return float(min(self.bands.min(), self.mesh.min()))

    @property
    def stable(self) -> bool:
        """Whether no frequency is imaginary, but for the noise of the acoustic ones at Gamma."""
        return self.lowest > -0.1

    @property
    def smooth(self) -> bool:
        """Whether twice the displacement gives the same bands, to a tenth of the highest."""
        return self.nonlinearity < 0.1 * float(np.abs(self.bands).max())

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Frequencies of the path in one array, for error bars."""
        return self.bands

    def thermal(self, kelvin: float) -> dict[str, float]:
        """Return harmonic free energy (eV), entropy and heat capacity (eV/K) of a cell.

        Imaginary frequencies and those below 0.01 THz are left out.

        Raises
        ------
        ConfigError
            A temperature below zero, or none.
        """
        if not 0 <= kelvin < np.inf:
            raise ConfigError(f"temperature = {kelvin} K: zero or more.")
        omega = self.mesh[self.mesh > 0.01] * 1e12 * _hplanck / _e  # eV
        points = len(self.mesh)
        zero_point = omega.sum() / 2 / points
        if kelvin == 0:
            return {"free_energy": float(zero_point), "entropy": 0.0, "heat_capacity": 0.0}

        x = omega / (kB * kelvin)
        occupied = 1 / np.expm1(x)
        entropy = kB * (x * occupied - np.log1p(-np.exp(-x))).sum() / points
        energy = zero_point + (omega * occupied).sum() / points
        heat = kB * (x**2 * occupied * (occupied + 1)).sum() / points
        free = energy - kelvin * entropy
        return {
            "free_energy": float(free),
            "entropy": float(entropy),
            "heat_capacity": float(heat),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; the mesh is summed up."""
        return {
            "engine": self.engine,
            "lowest": self.lowest,
            "highest": float(max(self.bands.max(), self.mesh.max())),
            "stable": self.stable,
            "nonlinearity": self.nonlinearity,
            "smooth": self.smooth,
            "unknown_cells": self.unknown_cells,
            "thermal_300K": self.thermal(300.0),
            "path": self.path.tolist(),
            "distances": self.distances.tolist(),
            "ticks": self.ticks.tolist(),
            "labels": self.labels,
            "bands": self.bands.tolist(),
        }


def phonons(
    atoms: Atoms,
    calculator: Any,
    *,
    supercell: tuple[int, int, int] = (2, 2, 2),
    displacement: float = 0.01,
    engine: str = "auto",
    points: int = 101,
    mesh: tuple[int, int, int] | None = None,
) -> Phonons:
    """Compute harmonic phonons from the forces of displaced atoms.

    Parameters
    ----------
    atoms
        A crystal's primitive cell at its equilibrium, periodic where its supercell is repeated;
        left as it is.
    calculator
        Any ASE calculator.
    supercell
        Repetitions; each side should be about twice the range of the forces.
    displacement
        Angstrom; a second run with twice as much tells whether the energy is smooth.
    engine
        One of :data:`ENGINES`: phonopy displaces what symmetry leaves, ASE every atom six times.
    points
        q-points of the band path, as :meth:`ase.cell.Cell.bandpath` draws it.
    mesh
        Points of the mesh; ten along each repeated direction by default.

    Raises
    ------
    ConfigError
        Settings that cannot be, or an engine that is not installed.
    StructureError
        No periodic cell.
    """
    if engine not in ENGINES:
        raise ConfigError(f"No engine '{engine}'. There are: {', '.join(ENGINES)}.")
    if min(supercell) < 1 or not displacement > 0 or points < 2:
        raise ConfigError(
            f"supercell = {supercell}, displacement = {displacement}, points = {points}: at least "
            "1, a positive length, and 2."
        )
    if atoms.cell.rank < 3 or not atoms.pbc.any():
        raise StructureError("Phonons need a periodic cell.")
    there = find_spec("phonopy") is not None
    if engine == "phonopy" and not there:
        raise ConfigError("phonopy is not installed: pip install ase_nnp[phonons].")

    still: Atoms = atoms.copy()
    still.set_constraint()
    chosen = engine if engine != "auto" else "phonopy" if there else "ase"
    compute = frequencies_by_phonopy if chosen == "phonopy" else frequencies_by_ase
    watched = Watched(calculator)
    frequencies = compute(still, watched, supercell, displacement)
    doubled = compute(still, watched, supercell, 2 * displacement)

    path = atoms.cell.bandpath(npoints=points, pbc=atoms.pbc)
    distances, ticks, labels = path.get_linear_kpoint_axis()
    if mesh is None:
        mesh = tuple(10 if periodic else 1 for periodic in atoms.pbc)  # type: ignore[assignment]
    grid = np.stack(np.meshgrid(*(np.arange(n) / n for n in mesh or ()), indexing="ij"), -1)
    bands = np.sort(frequencies(path.kpts), axis=1)
    return Phonons(
        chosen,
        path.kpts,
        distances,
        ticks,
        list(labels),
        bands,
        np.sort(frequencies(grid.reshape(-1, 3)), axis=1),
        float(np.abs(np.sort(doubled(path.kpts), axis=1) - bands).max()),
        watched.unknown,
    )


def draw_phonons(
    result: Phonons, path: str | os.PathLike[str], std: NDArray[np.float64] | None = None
) -> None:
    """Draw bands and density of states.

    Parameters
    ----------
    result
        What to draw.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    std
        (Q, 3 N) THz, standard deviation of the bands, drawn as a shade.
    """
    from ase_nnp.files.pictures import new_figure
    from ase_nnp.workflows.picture import save_figure

    figure = new_figure(8, 4.5)
    bands, density = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for k, branch in enumerate(result.bands.T):
        bands.plot(result.distances, branch, color="tab:blue", linewidth=1)
        if std is not None:
            low, high = branch - std[:, k], branch + std[:, k]
            bands.fill_between(result.distances, low, high, color="tab:blue", alpha=0.2)
    for tick in result.ticks:
        bands.axvline(tick, color="0.8", linewidth=0.8)
    bands.axhline(0, color="0.5", linewidth=0.8)
    bands.set_xticks(result.ticks, [label.replace("G", "Γ") for label in result.labels])
    if result.unknown_cells:
        bands.set_title("unknown to the model", fontsize=10)
    bands.set(ylabel="frequency (THz)", xlim=(result.distances[0], result.distances[-1]))
    density.hist(result.mesh.ravel(), bins=80, orientation="horizontal", density=True)
    density.set_xlabel("density of states")
    save_figure(figure, path)
