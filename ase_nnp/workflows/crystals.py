"""Equation of state, elastic constants and phonons of a model, each with its error bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.calculator.calculator import NNPCalculator
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.observables import Observable, combine
from ase_nnp.workflows.elastic import elastic_constants
from ase_nnp.workflows.eos import equation_of_state, fit_energies
from ase_nnp.workflows.error_bars import spread_over_members, what_a_bar_covers
from ase_nnp.workflows.phonons import phonons as phonon_bands

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CrystalProperty", "elastic", "eos", "phonons"]


@dataclass(frozen=True)
class CrystalProperty:
    """A property of a crystal and what the model doubts of it.

    Attributes
    ----------
    result
        What the function beneath gives: an EquationOfState, ElasticConstants or Phonons.
    std
        Standard deviations in the shape of ``result.numbers``; None where there are none.
    covers
        A sentence on what they are, or why there are none.
    """

    result: Any
    std: NDArray[np.float64] | None
    covers: str


def eos(atoms: Atoms, model: Any = None, **settings: Any) -> CrystalProperty:
    """Fit an equation of state; see :func:`~ase_nnp.workflows.eos.equation_of_state`.

    An ensemble's members are fitted one by one. A last layer's covariance of the energies goes
    through the fit in first order, so that what all volumes share cancels.
    """
    potential = load_model(model)
    result = equation_of_state(atoms, NNPCalculator(potential), **settings)
    if not settings.get("relax"):
        cells = [_scaled(atoms, volume) for volume in result.volumes]
        observed = [_of_last_layer(one) for one in energies(potential, cells)]
        if all(one.parts for one in observed):
            values = [_through_fit(observed, result.volumes, result.form, k) for k in range(4)]
            std = np.array([value.std for value in values], dtype=float)
            return CrystalProperty(result, std, values[0].covers)
    return _with_members(equation_of_state, result, atoms, potential, settings)


def _of_last_layer(one: Observable) -> Observable:
    """Return what the covariance of the last layer says alone.

    What unlike structures do not share in their errors would be noise on a curve whose cells
    differ in volume only, where errors are smooth.
    """
    parts = {source: row for source, row in one.parts.items() if source.kind == "linear"}
    return Observable(one.value, parts, one.flags)


def _through_fit(
    observed: list[Observable], volumes: NDArray[np.float64], form: str, number: int
) -> Observable:
    def one(*values: float) -> float:
        return float(fit_energies(volumes, np.array(values), form).numbers[number])

    # A fit is smooth over meV; smaller steps would differentiate where its iteration stops.
    return combine(one, *observed, step=1e-3)


def _scaled(atoms: Atoms, volume: float) -> Atoms:
    cell: Atoms = atoms.copy()
    cell.set_constraint()
    factor = (volume / atoms.get_volume()) ** (1 / 3)
    cell.set_cell(factor * atoms.cell[:], scale_atoms=True)
    return cell


def elastic(atoms: Atoms, model: Any = None, **settings: Any) -> CrystalProperty:
    """Compute elastic constants; see :func:`~ase_nnp.workflows.elastic.elastic_constants`."""
    return _of(elastic_constants, atoms, model, settings)


def phonons(atoms: Atoms, model: Any = None, **settings: Any) -> CrystalProperty:
    """Compute phonons; see :func:`~ase_nnp.workflows.phonons.phonons`."""
    return _of(phonon_bands, atoms, model, settings)


def _of(
    compute: Callable[..., Any], atoms: Atoms, model: Any, settings: dict[str, Any]
) -> CrystalProperty:
    potential = load_model(model)
    result = compute(atoms, NNPCalculator(potential), **settings)
    return _with_members(compute, result, atoms, potential, settings)


def _with_members(
    compute: Callable[..., Any],
    result: Any,
    atoms: Atoms,
    potential: Potential,
    settings: dict[str, Any],
) -> CrystalProperty:
    spread = spread_over_members(
        lambda calculator: compute(atoms, calculator, **settings).numbers, potential
    )
    std = None if spread is None else np.asarray(spread.std)
    return CrystalProperty(result, std, what_a_bar_covers(potential, spread))
