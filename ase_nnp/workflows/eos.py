"""Equation of state of a crystal: energies of strained cells, volume and bulk modulus."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.doubts import flagged

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "FORMS",
    "EquationOfState",
    "draw_eos",
    "equation_of_state",
    "fit_energies",
    "require_crystal",
]

#: Of ASE's forms those with a pressure derivative of the bulk modulus.
FORMS = ("birchmurnaghan", "vinet", "murnaghan", "birch", "pouriertarantola")


@dataclass(frozen=True)
class EquationOfState:
    """A fitted equation of state.

    Attributes
    ----------
    form
        One of :data:`FORMS`.
    volumes, energies
        Angstrom^3 and eV of the cell, as computed.
    volume, energy
        At the minimum.
    bulk_modulus
        GPa, at the minimum.
    derivative
        Pressure derivative of the bulk modulus.
    residual
        Root mean square of the fit, eV.
    unknown_volumes
        Places in ``volumes`` where the model's own flag says that it does not know the crystal.
    """

    form: str
    volumes: NDArray[np.float64]
    energies: NDArray[np.float64]
    volume: float
    energy: float
    bulk_modulus: float
    derivative: float
    residual: float
    unknown_volumes: tuple[int, ...] = ()

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Volume, energy, bulk modulus and its derivative in one array, for error bars."""
        return np.array([self.volume, self.energy, self.bulk_modulus, self.derivative])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def equation_of_state(
    atoms: Atoms,
    calculator: Any,
    *,
    span: float = 0.06,
    points: int = 9,
    form: str = "birchmurnaghan",
    relax: bool = False,
    fmax: float = 0.01,
) -> EquationOfState:
    """Compute energies of cells scaled evenly in volume and fit an equation of state to them.

    Parameters
    ----------
    atoms
        A crystal near its equilibrium, periodic in three directions; left as it is.
    calculator
        Any ASE calculator.
    span
        Largest change of the volume, as a part of it.
    points
        Volumes, five or more.
    form
        One of :data:`FORMS`.
    relax
        Relax the atoms in each cell of fixed shape, to ``fmax`` eV/Angstrom.
    fmax
        Where relaxations end, eV/Angstrom.

    Raises
    ------
    ConfigError
        Settings that cannot be.
    StructureError
        No crystal, or energies without a minimum among the volumes.
    """
    if form not in FORMS:
        raise ConfigError(f"No equation of state '{form}'. There are: {', '.join(FORMS)}.")
    if points < 5 or not 0 < span < 0.5:
        raise ConfigError(f"points = {points}, span = {span}: five or more, between 0 and 0.5.")
    require_crystal(atoms, "An equation of state")

    volumes, energies, unknown = [], [], []
    for scale in np.linspace(1 - span, 1 + span, points) ** (1 / 3):
        strained = atoms.copy()
        strained.set_constraint(atoms.constraints if relax else None)
        strained.set_cell(scale * atoms.cell[:], scale_atoms=True)
        strained.calc = calculator
        if relax:
            relax_atoms(strained, fmax)
        volumes.append(strained.get_volume())
        energies.append(strained.get_potential_energy())
        if flagged(calculator):
            unknown.append(len(volumes) - 1)
    fitted = fit_energies(np.array(volumes), np.array(energies), form)
    return replace(fitted, unknown_volumes=tuple(unknown))


def require_crystal(atoms: Atoms, what: str) -> None:
    """Refuse a structure that is not periodic in three directions, or has a vacuum in it."""
    from ase_nnp.workflows.surfaces import vacuum_gaps

    gap = max(vacuum_gaps(atoms))
    if atoms.cell.rank < 3 or not atoms.pbc.all() or gap > 6.0:
        obstacle = f"a vacuum of {gap:.1f} Å" if gap > 6.0 else f"pbc = {atoms.pbc.tolist()}"
        raise StructureError(
            f"{what} needs a crystal, periodic in three directions; "
            f"{atoms.get_chemical_formula()} has {obstacle}."
        )


def relax_atoms(atoms: Atoms, fmax: float, steps: int = 300) -> None:
    """Relax positions in the cell as it is.

    Raises
    ------
    StructureError
        They do not converge.
    """
    from ase.optimize import BFGS

    with BFGS(atoms, logfile=None) as optimizer:
        if not optimizer.run(fmax=fmax, steps=steps):
            raise StructureError(
                f"The atoms of a strained cell did not relax to {fmax} eV/Å in {steps} steps."
            )


def fit_energies(
    volumes: NDArray[np.float64], energies: NDArray[np.float64], form: str
) -> EquationOfState:
    """Fit an equation of state to volumes (Angstrom^3) and energies (eV) that are known.

    Raises
    ------
    StructureError
        The energies have no minimum among the volumes.
    """
    import ase.eos
    from ase.units import GPa

    # The fit is of differences: next to a total energy of 1e5 eV they would drown.
    lowest = float(energies.min())
    fit = ase.eos.EquationOfState(volumes, energies - lowest, form)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scipy warns where a fit has no covariance
            volume, energy, bulk_modulus = fit.fit(warn=False)
    except Exception as error:  # ASE raises ValueError, scipy RuntimeError and warnings
        raise _no_minimum(volumes, energies) from error
    if not volumes.min() <= volume <= volumes.max() or not bulk_modulus > 0:
        raise _no_minimum(volumes, energies)

    # For each of FORMS the parameters are E0, B0, B', V0 in this order.
    residual = fit.func(volumes, *fit.eos_parameters) + lowest - energies
    return EquationOfState(
        form,
        volumes,
        energies,
        float(volume),
        float(energy) + lowest,
        float(bulk_modulus / GPa),
        float(fit.eos_parameters[2]),
        float(np.sqrt(np.mean(residual**2))),
    )


def _no_minimum(volumes: NDArray[np.float64], energies: NDArray[np.float64]) -> StructureError:
    lowest = volumes[int(np.argmin(energies))]
    return StructureError(
        f"The energies have no minimum inside {volumes.min():.2f} to {volumes.max():.2f} Å³ "
        f"(lowest at {lowest:.2f}). Relax the cell first, or take a larger span."
    )


def draw_eos(result: EquationOfState, path: str | os.PathLike[str], energy_std: Any = None) -> None:
    """Draw energies against volume with the fit.

    Parameters
    ----------
    result
        What to draw.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    energy_std
        Standard deviations of the single energies, eV, where the model gives them.
    """
    import ase.eos
    from ase.units import GPa

    from ase_nnp.files.pictures import new_figure
    from ase_nnp.workflows.picture import save_figure

    form = getattr(ase.eos, result.form)
    parameters = (result.energy, result.bulk_modulus * GPa, result.derivative, result.volume)
    smooth = np.linspace(result.volumes.min(), result.volumes.max(), 200)

    figure = new_figure(6, 4.5)
    axes = figure.add_subplot()
    axes.plot(smooth, form(smooth, *parameters), label=result.form)
    axes.errorbar(result.volumes, result.energies, yerr=energy_std, fmt="o", capsize=3)
    unknown = list(result.unknown_volumes)
    if unknown:
        places = result.volumes[unknown], result.energies[unknown]
        axes.plot(*places, "x", color="tab:red", zorder=3, label="unknown to the model")
    axes.axvline(result.volume, color="0.6", linewidth=1)
    axes.set(
        xlabel="volume (Å³)",
        ylabel="energy (eV)",
        title=f"V = {result.volume:.3f} Å³, B = {result.bulk_modulus:.1f} GPa",
    )
    axes.ticklabel_format(useOffset=False)
    axes.legend()
    save_figure(figure, path)
