r"""Surface phases against chemical potentials: phase and Pourbaix diagrams, Wulff shapes.

The surface free energy of a phase that took up :math:`n_i` particles of chemical potential
:math:`\mu_i` is :math:`\gamma = (G - G_0 - \sum_i n_i \mu_i) / A`; the lowest one is stable.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.units import kB
from numpy.typing import NDArray

from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.uncertainty.observables import Observable
from ase_nnp.workflows.thermo.gibbs import FreeEnergyLike, free_energy_of, warn_of_lost_doubts

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "SurfacePhase",
    "SurfacePhaseDiagram",
    "draw_surface_phases",
    "surface_energy",
    "surface_phase_diagram",
    "surface_pourbaix",
    "wulff_shape",
]


@dataclass(frozen=True)
class SurfacePhase:
    """A surface with what it took up.

    Attributes
    ----------
    name
        For legends.
    energy
        Free energy relative to the clean surface of the same area, eV.
    gained
        Particles taken up by name; negative ones were given off.
    area
        Angstrom^2.
    """

    name: str
    energy: FreeEnergyLike
    gained: Mapping[str, float]
    area: float

    def at(self, potentials: Mapping[str, float]) -> Observable:
        """Return the surface free energy at chemical potentials (eV), eV/Angstrom^2."""
        missing = sorted(set(self.gained) - set(potentials))
        if missing:
            raise ConfigError(
                f"'{self.name}' needs the chemical potential of {', '.join(missing)}."
            )
        taken = sum(count * potentials[name] for name, count in self.gained.items())
        return (free_energy_of(self.energy) - taken) / self.area


@dataclass(frozen=True)
class SurfacePhaseDiagram:
    """Surface free energies of phases along one chemical potential.

    Attributes
    ----------
    phases
        As they were given.
    variable
        The name whose chemical potential is varied.
    values
        (K,) its values, eV; of a Pourbaix diagram volts.
    gamma
        (phases, K) surface free energies, eV/Angstrom^2.
    std
        (phases, K) their standard deviations; NaN where there are none.
    """

    phases: list[SurfacePhase]
    variable: str
    values: NDArray[np.float64]
    gamma: NDArray[np.float64]
    std: NDArray[np.float64]
    slopes: NDArray[np.float64]

    @property
    def stable(self) -> NDArray[np.int64]:
        """(K,) which phase is the lowest."""
        return np.asarray(np.argmin(self.gamma, axis=0))

    @property
    def unknown(self) -> list[int]:
        """Phases in whose energy the model's own flag is raised for a structure."""
        return [k for k, one in enumerate(self.phases) if free_energy_of(one.energy).unknown]

    def transitions(self) -> list[tuple[int, int, Observable]]:
        """Return pairs of phases that give way to each other, and where, with the error bar."""
        stable, points = self.stable, []
        for k in np.flatnonzero(stable[1:] != stable[:-1]):
            one, two = int(stable[k]), int(stable[k + 1])
            points.append((one, two, self.crossing(one, two)))
        return points

    def crossing(self, one: int, two: int) -> Observable:
        """Return where two phases have the same surface free energy.

        Raises
        ------
        ConfigError
            They run in parallel.
        """
        lines = (self._line(one), self._line(two))
        apart = lines[1][1] - lines[0][1]
        if abs(apart) < 1e-12:
            names = f"{self.phases[one].name} and {self.phases[two].name}"
            raise ConfigError(f"{names} depend on {self.variable} alike: they never cross.")
        return (lines[0][0] - lines[1][0]) / apart

    def _line(self, index: int) -> tuple[Observable, float]:
        """Return the free energy where the variable is zero, and the slope, per area."""
        phase, slope = self.phases[index], float(self.slopes[index])
        known = free_energy_of(phase.energy) / phase.area
        return known + (self.gamma[index, 0] - slope * self.values[0] - known.value), slope


def surface_phase_diagram(
    phases: Sequence[SurfacePhase],
    variable: str,
    values: Sequence[float] | NDArray[np.float64],
    others: Mapping[str, float] | None = None,
) -> SurfacePhaseDiagram:
    """Return surface free energies along one chemical potential.

    Parameters
    ----------
    phases
        The clean surface is one of them, with nothing gained.
    variable
        Name of the particle whose chemical potential is varied.
    values
        Its chemical potentials, eV, on the scale of the phases' energies.
    others
        Chemical potentials of other particles, eV.
    """
    grid = np.asarray(values, dtype=np.float64)
    if not len(phases) or grid.ndim != 1 or len(grid) < 2:
        raise ConfigError("A phase diagram needs phases, and two or more values of the variable.")
    rows = [[phase.at({**(others or {}), variable: mu}) for mu in grid] for phase in phases]
    slopes = np.array([-phase.gained.get(variable, 0.0) / phase.area for phase in phases])
    return _diagram(phases, variable, grid, rows, slopes)


def surface_pourbaix(
    phases: Sequence[SurfacePhase],
    water: FreeEnergyLike,
    hydrogen: FreeEnergyLike,
    potentials: Sequence[float] | NDArray[np.float64],
    *,
    ph: float = 0.0,
    temperature: float = 298.15,
) -> SurfacePhaseDiagram:
    """Return surface free energies against the potential of the standard hydrogen electrode.

    Oxygen is taken from water and hydrogen goes into protons and electrons, so that the phases'
    ``gained`` counts atoms of ``O`` and ``H``.

    Parameters
    ----------
    phases
        With ``gained`` of O and H.
    water, hydrogen
        Free energies of H2O (at its vapor pressure) and H2, eV.
    potentials
        V against the standard hydrogen electrode.
    ph, temperature
        Of the electrolyte; K.
    """
    grid = np.asarray(potentials, dtype=np.float64)
    strange = sorted({name for phase in phases for name in phase.gained} - {"O", "H"})
    if strange or not len(phases) or len(grid) < 2:
        raise ConfigError(
            f"A Pourbaix diagram needs phases of O and H (not {', '.join(strange) or 'none'}), and "
            "two or more potentials."
        )

    of_water, of_hydrogen = free_energy_of(water), free_energy_of(hydrogen)
    shift = kB * temperature * math.log(10) * ph
    rows, slopes = [], []

    for phase in phases:
        oxygen, protons = phase.gained.get("O", 0.0), phase.gained.get("H", 0.0)
        electrons = 2 * oxygen - protons
        base = free_energy_of(phase.energy) - oxygen * of_water + 0.5 * electrons * of_hydrogen
        rows.append([(base - electrons * (u + shift)) / phase.area for u in grid])
        slopes.append(-electrons / phase.area)

    # What each phase costs at zero potential is its energy now: it carries the gases' error too.
    moved = [
        SurfacePhase(phase.name, row[0] * phase.area, phase.gained, phase.area)
        for phase, row in zip(phases, rows, strict=True)
    ]

    return _diagram(moved, "potential", grid, rows, np.array(slopes))


def _diagram(
    phases: Sequence[SurfacePhase],
    variable: str,
    grid: NDArray[np.float64],
    rows: Sequence[Sequence[Observable]],
    slopes: NDArray[np.float64],
) -> SurfacePhaseDiagram:
    gamma = np.array([[one.value for one in row] for row in rows])
    std = np.array([[np.nan if one.std is None else one.std for one in row] for row in rows])
    return SurfacePhaseDiagram(list(phases), variable, grid, gamma, std, slopes)


def surface_energy(
    slab: FreeEnergyLike, bulk_per_atom: FreeEnergyLike, count: int, area: float, sides: int = 2
) -> Observable:
    """Return the surface energy of a slab of ``count`` atoms, eV/Angstrom^2.

    Parameters
    ----------
    slab, bulk_per_atom
        Energies, eV; as observables of one model their common error cancels.
    count
        Atoms of the slab.
    area
        Of one side, Angstrom^2.
    sides
        Equal surfaces that the slab has.
    """
    if count < 1 or not area > 0 or sides not in (1, 2):
        raise ConfigError(f"count = {count}, area = {area}, sides = {sides}.")
    return (free_energy_of(slab) - count * free_energy_of(bulk_per_atom)) / (sides * area)


def wulff_shape(
    bulk: Atoms, surface_energies: Mapping[tuple[int, int, int], FreeEnergyLike]
) -> Any:
    """Return pymatgen's Wulff shape of a crystal: areas of facets, anisotropy, a picture.

    Parameters
    ----------
    bulk
        The conventional cell.
    surface_energies
        By Miller indices of that cell, in any unit.

    Raises
    ------
    AseNnpError
        pymatgen is not installed.

    Warns
    -----
    UncertaintyWarning
        An energy rests on a structure that is unknown to its model, which the shape cannot say.
    """
    try:
        from pymatgen.analysis.wulff import WulffShape
        from pymatgen.io.ase import AseAtomsAdaptor
    except ImportError as error:
        raise AseNnpError(
            "Wulff shapes need pymatgen; install it with: pip install ase_nnp[pymatgen]"
        ) from error
    lattice = AseAtomsAdaptor.get_structure(bulk).lattice
    energies = [float(value) for value in surface_energies.values()]
    warn_of_lost_doubts("the Wulff shape", surface_energies.values())
    with warnings.catch_warnings():
        # spglib speaks of its own settings whenever pymatgen asks it for a symmetry.
        warnings.simplefilter("ignore", DeprecationWarning)
        return WulffShape(lattice, list(surface_energies), energies)


def draw_surface_phases(
    diagram: SurfacePhaseDiagram, path: str | os.PathLike[str], coverage: float = 0.9
) -> None:
    """Draw surface free energies with bands, the stable phase in bold, and where it changes.

    Parameters
    ----------
    diagram
        What to draw.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    coverage
        Of the bands, of normal distributions.
    """
    from matplotlib.figure import Figure
    from scipy import stats

    from ase_nnp.workflows.picture import save_figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    half, stable = stats.norm.ppf(0.5 + coverage / 2), diagram.stable
    for k, phase in enumerate(diagram.phases):
        # One meV/A^2 is 0.016 J/m^2.
        gamma, std = 1000 * diagram.gamma[k], 1000 * np.nan_to_num(diagram.std[k])
        name = phase.name + ", unknown to the model" * (k in diagram.unknown)
        axes.plot(diagram.values, gamma, color=f"C{k}", linewidth=1, label=name)
        lowest = np.where(stable == k, gamma, np.nan)
        axes.plot(diagram.values, lowest, color=f"C{k}", linewidth=3)
        low, high = gamma - half * std, gamma + half * std
        axes.fill_between(diagram.values, low, high, color=f"C{k}", alpha=0.2, linewidth=0)
    for _, _, where in diagram.transitions():
        axes.axvline(where.value, color="0.6", linewidth=0.8, linestyle="--")
    electrode = diagram.variable == "potential"
    axes.set(
        xlabel="U (V, standard hydrogen electrode)" if electrode
        else f"chemical potential of {diagram.variable} (eV)",
        ylabel="surface free energy (meV/Å²)",
        xlim=(diagram.values[0], diagram.values[-1]),
    )  # fmt: skip
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    save_figure(figure, path)
