"""Mean and spread of a committee. Members are always the first axis."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_members

__all__ = [
    "NOT_COVERED",
    "biased_forces",
    "committee_mean",
    "committee_std",
    "committee_variance",
    "energy_std_gradient",
    "force_deviation",
    "force_deviation_summary",
    "forces_cov",
    "forces_std",
    "forces_std_norm",
    "relative_force_deviation",
    "scale_variance",
    "standard_error",
    "stress_mean",
    "stress_std",
    "to_voigt",
]

#: What no spread of models can tell.
NOT_COVERED = "Errors of the reference method and of the model's form are not covered."

ForceStdMode = Literal["isotropic", "component"]


def committee_mean(members: ArrayLike) -> Array:
    """Mean over the members, shape ``members.shape[1:]``."""
    return np.asarray(as_members("members", members, ddof=0).mean(axis=0))


def committee_variance(members: ArrayLike, ddof: int = 1) -> Array:
    """Variance over the members; ``ddof=1`` is the sample variance, 0 the population one."""
    return np.asarray(as_members("members", members, ddof).var(axis=0, ddof=ddof))


def committee_std(members: ArrayLike, ddof: int = 1) -> Array:
    """Standard deviation over the members, of energies, atomic energies or anything else."""
    return np.asarray(np.sqrt(committee_variance(members, ddof)))


def standard_error(members: ArrayLike, ddof: int = 1) -> Array:
    """Standard error of the mean over M members, ``std / sqrt(M)``."""
    return np.asarray(committee_std(members, ddof) / np.sqrt(len(np.asarray(members))))


def scale_variance(variance: ArrayLike, factor: float) -> Array:
    """Convert a variance to other units: it takes the square of the unit factor."""
    return np.asarray(factor**2 * np.asarray(variance, dtype=np.float64))


def _as_vectors(members: ArrayLike, ddof: int) -> Array:
    array = as_members("member_forces", members, ddof)
    if array.ndim < 2 or array.shape[-1] != 3:
        raise UncertaintyError(
            f"Forces of members need the shape (members, ..., 3); found {array.shape}."
        )
    return array


def forces_std(members: ArrayLike, mode: ForceStdMode = "isotropic", ddof: int = 1) -> Array:
    """Standard deviation of forces, in the units of the forces.

    Parameters
    ----------
    members
        (M, ..., 3), the members along the first axis.
    mode
        ``"isotropic"``: the root of the mean of the three component variances, the same in all
        three columns. It does not change when the structure is rotated, and rests on three
        times as many degrees of freedom. ``"component"``: each Cartesian component by itself.
    ddof
        1 for the sample spread, 0 for the population's.

    Returns
    -------
    ndarray
        (..., 3).
    """
    variance = _as_vectors(members, ddof).var(axis=0, ddof=ddof)
    if mode == "isotropic":
        pooled = variance.mean(axis=-1, keepdims=True)
        return np.asarray(np.sqrt(np.broadcast_to(pooled, variance.shape)))
    if mode == "component":
        return np.asarray(np.sqrt(variance))
    raise UncertaintyError(f"mode must be 'isotropic' or 'component'; found {mode!r}.")


def forces_std_norm(members: ArrayLike, ddof: int = 1) -> Array:
    """Per-atom deviation ``|std of F_i|``, sqrt(3) times the isotropic one; shape (...,)."""
    return np.asarray(np.sqrt(_as_vectors(members, ddof).var(axis=0, ddof=ddof).sum(axis=-1)))


def forces_cov(members: ArrayLike, ddof: int = 1) -> Array:
    """3x3 covariance of each atom's force; it rotates with the structure. Shape (..., 3, 3)."""
    array = _as_vectors(members, ddof)
    delta = array - array.mean(axis=0)
    return np.asarray(np.einsum("m...i,m...j->...ij", delta, delta) / (len(array) - ddof))


def force_deviation(members: ArrayLike, ddof: int = 0) -> Array:
    """Per-atom force deviation as DeePMD-kit and GPUMD print it (population spread), (N,)."""
    return forces_std_norm(members, ddof)


def relative_force_deviation(members: ArrayLike, level: float = 0.0, ddof: int = 0) -> Array:
    """Deviation over ``|mean F_i| + level``; ``level`` (eV/Angstrom) guards small forces."""
    size = np.linalg.norm(committee_mean(members), axis=-1) + level
    if not (size > 0).all():
        raise UncertaintyError("A mean force is zero; give level > 0 for a relative deviation.")
    return np.asarray(force_deviation(members, ddof) / size)


def force_deviation_summary(
    members: ArrayLike, level: float | None = None, ddof: int = 0
) -> dict[str, float]:
    """Largest, smallest and mean deviation over atoms (the ``model_devi`` columns).

    Returns
    -------
    dict
        ``max_devi_f``, ``min_devi_f``, ``avg_devi_f`` and, with ``level``, ``max_relative``.
    """
    devi = force_deviation(members, ddof)
    summary = {
        "max_devi_f": float(devi.max()),
        "min_devi_f": float(devi.min()),
        "avg_devi_f": float(devi.mean()),
    }
    if level is not None:
        summary["max_relative"] = float(relative_force_deviation(members, level, ddof).max())
    return summary


def to_voigt(tensor: ArrayLike) -> Array:
    """Symmetric (..., 3, 3) to (..., 6) in the order xx yy zz yz xz xy, pairs averaged."""
    array = as_finite("tensor", tensor)
    if array.shape[-2:] != (3, 3):
        raise UncertaintyError(f"A tensor must end in (3, 3); found shape {array.shape}.")
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    return np.asarray((array[..., rows, columns] + array[..., columns, rows]) / 2)


def _stress_members(members: ArrayLike, ddof: int) -> Array:
    array = as_members("member_stress", members, ddof)
    if array.ndim >= 3 and array.shape[-2:] == (3, 3):
        return to_voigt(array)
    if array.ndim >= 2 and array.shape[-1] == 6:
        return array
    raise UncertaintyError(
        f"Stresses of members need the shape (members, ..., 3, 3) or (members, ..., 6); "
        f"found {array.shape}."
    )


def stress_mean(members: ArrayLike) -> Array:
    """Mean stress in Voigt order, (..., 6), from (M, ..., 3, 3) or (M, ..., 6)."""
    return np.asarray(_stress_members(members, 0).mean(axis=0))


def stress_std(members: ArrayLike, ddof: int = 1) -> Array:
    """Standard deviation of the stress in Voigt order, (..., 6), as the mean is laid out."""
    return np.asarray(_stress_members(members, ddof).std(axis=0, ddof=ddof))


def energy_std_gradient(energies: ArrayLike, gradients: ArrayLike, ddof: int = 0) -> Array:
    r"""Gradient of the committee's energy std, for uncertainty-biased dynamics.

    .. math:: \nabla\sigma = \frac{1}{(M - d)\,\sigma}
              \sum_m (E_m - \bar E)(g_m - \bar g)

    This is not the std of the forces.

    Parameters
    ----------
    energies
        (M,) of the members, eV.
    gradients
        (M, ...) gradients of these energies: **minus** the forces.
    ddof
        As in the std whose gradient is wanted.
    """
    energy = as_members("energies", energies, ddof, ndim=1)
    gradient = as_finite("gradients", gradients)
    if gradient.shape[:1] != energy.shape:
        raise UncertaintyError(
            f"{len(energy)} energies and gradients of shape {gradient.shape} do not match."
        )
    std = energy.std(ddof=ddof)
    if std == 0:
        raise UncertaintyError("The members agree exactly; their std has no gradient there.")
    delta = gradient - gradient.mean(axis=0)
    total = np.tensordot(energy - energy.mean(), delta, axes=(0, 0))
    return np.asarray(total / ((len(energy) - ddof) * std))


def biased_forces(energies: ArrayLike, forces: ArrayLike, tau: float, ddof: int = 0) -> Array:
    """Forces of the biased energy ``mean(E) - tau * std(E)``: ``mean F + tau * grad std``.

    Parameters
    ----------
    energies, forces
        (M,) eV and (M, N, 3) eV/Angstrom of the members.
    tau
        Strength; positive drives towards uncertain structures.
    ddof
        Degrees of freedom that the spread subtracts.
    """
    array = as_finite("forces", forces)
    return np.asarray(array.mean(axis=0) + tau * energy_std_gradient(energies, -array, ddof))
