"""Putting the energies of different models on one scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_members

__all__ = ["align_pool", "composition_matrix", "fit_element_shifts", "pool_std"]


def composition_matrix(
    numbers: list[ArrayLike], elements: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Count the elements of structures.

    Parameters
    ----------
    numbers
        Atomic numbers of each structure.
    elements
        Columns wanted; all that occur, ascending, when left out.

    Returns
    -------
    counts, elements
        (n, K) and (K,).
    """

    arrays = [np.asarray(z, dtype=np.int64) for z in numbers]
    present = np.unique(np.concatenate(arrays)) if arrays else np.zeros(0, np.int64)
    columns = present if elements is None else np.asarray(elements, dtype=np.int64)
    missing = sorted(set(present.tolist()) - set(columns.tolist()))
    if missing:
        raise UncertaintyError(f"Atomic numbers {missing} have no column among {columns.tolist()}.")
    counts = np.stack([(z[:, None] == columns).sum(axis=0) for z in arrays]).astype(np.float64)
    return counts, columns.astype(np.float64)


def fit_element_shifts(
    member_energy: ArrayLike, reference_energy: ArrayLike, composition: ArrayLike
) -> Array:
    """Energy per element by which each member differs from the reference.

    Minimizes ``|(E_m - E_ref) - C d|^2`` for each member. Where the structures do not tell
    elements apart, the solution of least norm is taken; it shifts the same energies.

    Parameters
    ----------
    member_energy
        (M, n) total energies, eV.
    reference_energy
        (n,), eV; labels, or one member's own energies.
    composition
        (n, K) atoms of each element.

    Returns
    -------
    ndarray
        (M, K) eV per atom.
    """
    energy = as_members("member_energy", member_energy, ddof=0, ndim=2)
    reference = as_finite("reference_energy", reference_energy)
    counts = as_finite("composition", composition)
    if reference.shape != energy.shape[1:] or counts.shape[:-1] != energy.shape[1:]:
        raise UncertaintyError(
            f"Energies {energy.shape}, reference {reference.shape} and composition "
            f"{counts.shape} must be (M, n), (n,) and (n, K)."
        )
    return np.asarray(np.linalg.lstsq(counts, (energy - reference).T, rcond=None)[0].T)


def align_pool(
    member_energy: ArrayLike,
    composition: ArrayLike,
    reference_energy: ArrayLike | None = None,
    shifts: ArrayLike | None = None,
) -> Array:
    """Energies of a pool of different models with their element offsets removed, (M, n).

    Without ``shifts`` they are fitted to ``reference_energy``, or to the mean of the members.
    """
    energy = as_members("member_energy", member_energy, ddof=0, ndim=2)
    counts = as_finite("composition", composition)
    if shifts is None:
        target = energy.mean(axis=0) if reference_energy is None else reference_energy
        shifts = fit_element_shifts(energy, target, counts)
    return np.asarray(energy - np.asarray(shifts, dtype=np.float64) @ counts.T)


def pool_std(
    member_energy: ArrayLike,
    composition: ArrayLike,
    reference_energy: ArrayLike | None = None,
    ddof: int = 1,
) -> Array:
    """Spread of the aligned energies of a pool of different models, (n,)."""
    aligned = align_pool(member_energy, composition, reference_energy)
    return np.asarray(as_members("member_energy", aligned, ddof).std(axis=0, ddof=ddof))
