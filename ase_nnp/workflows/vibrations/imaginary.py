"""What is done with small imaginary and soft modes before thermochemistry, and a record of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import invcm
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError

__all__ = ["POLICIES", "ModeTreatment", "treat_modes"]

POLICIES = ("invert", "raise", "drop", "error")


@dataclass(frozen=True)
class ModeTreatment:
    """Mode energies as they are used, and what was changed to get them.

    Attributes
    ----------
    energies
        eV, real and positive.
    policy
        One of :data:`POLICIES`.
    changes
        A phrase for each mode that was changed or left out, in cm^-1; imaginary ones with an i.
    reaction_coordinate
        The imaginary mode that a saddle point may have, cm^-1; 0 where there is none.
    """

    energies: NDArray[np.float64]
    policy: str
    changes: tuple[str, ...] = ()
    reaction_coordinate: float = 0.0

    def __str__(self) -> str:
        return "; ".join(self.changes) if self.changes else "no mode was changed"


def treat_modes(
    energies: Sequence[Any] | NDArray[Any],
    policy: str = "invert",
    *,
    small: float = 50.0,
    floor: float | None = None,
    saddle: bool = False,
) -> ModeTreatment:
    """Turn mode energies, imaginary ones among them, into those of thermochemistry.

    Parameters
    ----------
    energies
        Complex, eV, as ASE gives them: imaginary modes have an imaginary energy.
    policy
        For imaginary modes of less than ``small``: ``"invert"`` takes their size (Grimme 2012,
        doi:10.1002/chem.201200497), ``"raise"`` lifts them to ``floor``, ``"drop"`` leaves them
        out, ``"error"`` refuses them. Larger ones are refused always: the structure is no minimum.
    small
        cm^-1; the noise of a numerical minimum.
    floor
        cm^-1; softer real modes are raised to it too (Ribeiro et al. 2011, doi:10.1021/jp205508z).
        None leaves them; ``"raise"`` takes 100 then.
    saddle
        The structure is a saddle point: its largest imaginary mode is the reaction coordinate.

    Raises
    ------
    ConfigError
        A policy that does not exist, or lengths that cannot be meant.
    StructureError
        An imaginary mode that the policy does not cover, or a saddle point without one.
    """
    if policy not in POLICIES or small < 0 or (floor is not None and not floor > 0):
        raise ConfigError(
            f"policy = {policy!r}, small = {small}, floor = {floor}: one of {', '.join(POLICIES)}, "
            "and wave numbers that are not negative."
        )
    waves = np.asarray(energies, dtype=complex) / invcm
    imaginary = np.sort(np.abs(waves.imag[np.abs(waves.imag) > np.abs(waves.real)]))[::-1]
    real = np.sort(waves.real[np.abs(waves.imag) <= np.abs(waves.real)])

    coordinate = 0.0
    if saddle:
        if not len(imaginary):
            raise StructureError("A saddle point has an imaginary mode; this structure has none.")
        coordinate, imaginary = float(imaginary[0]), imaginary[1:]
    limit = small if policy != "error" else 0.0
    if len(imaginary) and imaginary[0] > limit:
        listed = ", ".join(f"{wave:.0f}i" for wave in imaginary)
        raise StructureError(
            f"Imaginary modes at {listed} cm^-1; the policy '{policy}' takes those below "
            f"{limit:.0f}. Relax the structure further, or name it a saddle point."
        )
    return _apply(real, imaginary, policy, floor, coordinate)


def _apply(
    real: NDArray[np.float64],
    imaginary: NDArray[np.float64],
    policy: str,
    floor: float | None,
    coordinate: float,
) -> ModeTreatment:
    kept, changes = list(real), []
    raised_to = 100.0 if floor is None else floor
    for wave in imaginary:
        if policy == "drop":
            changes.append(f"{wave:.1f}i left out")
            continue
        new = raised_to if policy == "raise" else wave
        kept.append(new)
        changes.append(f"{wave:.1f}i taken as {new:.1f}")

    soft = floor if floor is not None or policy != "raise" else raised_to
    if soft is not None:
        changes += [f"{wave:.1f} raised to {soft:.1f}" for wave in real if wave < soft]
        kept = [max(wave, soft) for wave in kept]
    # A mode without curvature has no harmonic free energy at all.
    flat = sum(wave <= 0 for wave in kept)
    if flat:
        raise StructureError(f"{flat} modes have no curvature; give a floor to raise them to.")
    modes = np.sort(np.array(kept)) * invcm
    return ModeTreatment(modes, policy, tuple(changes), coordinate)
