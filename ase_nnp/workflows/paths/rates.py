r"""Rates by harmonic transition-state theory.

.. math:: k = \frac{k_B T}{h} \frac{Q^{\ddagger}}{Q} e^{-\Delta E / k_B T}

With classical oscillators this is Vineyard's product of frequencies (1957,
doi:10.1016/0022-3697(57)90059-8); with quantum oscillators zero-point energies enter too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import _e, _hplanck, kB

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.uncertainty.observables import Observable, as_observable
from ase_nnp.workflows.vibrations import treat_modes

__all__ = ["Rate", "transition_rate"]


@dataclass(frozen=True)
class Rate:
    """A rate constant.

    Attributes
    ----------
    value
        1/s.
    log10
        Its decimal logarithm with the error bar of the barrier.
    prefactor
        1/s, at this temperature.
    barrier
        eV.
    temperature
        K.
    tunneling
        Wigner's factor that is in the value; 1 without.
    """

    value: float
    log10: Observable
    prefactor: float
    barrier: Observable
    temperature: float
    tunneling: float = 1.0

    @property
    def unknown(self) -> tuple[str, ...]:
        """Structures of the barrier that the model calls outside of what it knows."""
        return self.barrier.unknown

    def interval(self, coverage: float = 0.9) -> tuple[float, float] | None:
        """Return the central interval of the rate, 1/s; None without an error bar."""
        ends = self.log10.interval(coverage)
        return None if ends is None else (_power_of_ten(ends[0]), _power_of_ten(ends[1]))


def transition_rate(
    barrier: Observable | float,
    initial_modes: Sequence[Any] | np.ndarray,
    saddle_modes: Sequence[Any] | np.ndarray,
    temperature: float = 298.15,
    *,
    quantum: bool = True,
    tunneling: bool = False,
    policy: str = "invert",
    small: float = 50.0,
) -> Rate:
    """Return the rate of going over a barrier.

    Parameters
    ----------
    barrier
        eV, without zero-point energies; with its error bar, if it has one.
    initial_modes, saddle_modes
        Complex eV, such as ``vibrations(...).get_internal_energies()``, of the same free atoms in
        the minimum and at the saddle point, which has one imaginary mode.
    temperature
        K.
    quantum
        Quantum oscillators; classical ones otherwise.
    tunneling
        Multiply by Wigner's 1 + (h nu / kT)^2 / 24.
    policy, small
        For small imaginary modes, as :func:`~ase_nnp.workflows.vibrations.treat_modes`.

    Raises
    ------
    ConfigError
        The temperature is not positive, or the barrier below zero; either is not finite.
    StructureError
        The saddle point has not one mode less than the minimum.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature = {temperature}: positive and finite, in K.")
    height = as_observable(barrier)
    if not 0 <= height.value < math.inf:
        raise ConfigError(
            f"barrier = {height.value} eV: not below zero, since a saddle point lies above the "
            "minimum."
        )
    bottom = treat_modes(initial_modes, policy, small=small)
    top = treat_modes(saddle_modes, policy, small=small, saddle=True)
    if len(top.energies) != len(bottom.energies) - 1:
        raise StructureError(
            f"{len(bottom.energies)} modes in the minimum and {len(top.energies)} real ones at the "
            "saddle point: one less was expected, of the same free atoms."
        )
    heat = kB * temperature
    parts = math.fsum(_log_partition(top.energies / heat, quantum)) - math.fsum(
        _log_partition(bottom.energies / heat, quantum)
    )
    # As logarithms: at a few K zero-point energies alone are beyond the largest float.
    attempts = (math.log(heat * _e / _hplanck) + parts) / math.log(10)

    # The unit of wave numbers in eV, from ASE's conversion of mode energies.
    from ase.units import invcm

    factor = 1 + (top.reaction_coordinate * invcm / heat) ** 2 / 24 if tunneling else 1.0
    log10 = attempts + math.log10(factor) - height / (heat * math.log(10))
    value = _power_of_ten(log10.value)
    return Rate(value, log10, _power_of_ten(attempts), height, temperature, factor)


def _power_of_ten(exponent: float) -> float:
    """Return 10^x, infinite where no float is as large."""
    return float(10.0**exponent) if not exponent > 308 else math.inf


def _log_partition(x: np.ndarray, quantum: bool) -> np.ndarray:
    """Logarithms of the partition functions of oscillators of h nu / kT = x, from the bottom."""
    return np.asarray(-x / 2 - np.log1p(-np.exp(-x)) if quantum else -np.log(x))
