"""Splinify: the radial networks of a model as cubic splines of the distance.

All radial networks of a model, side by side, are one curve in as many dimensions as they have
outputs. A few directions hold it to any precision wanted: the curve's parts along them become
splines, which all networks share, and each network becomes a matrix that acts on them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.build import bulk
from ase.data import covalent_radii
from numpy.typing import NDArray
from torch import Tensor

from ase_nnp.errors import ConfigError, PredictionError
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential
from ase_nnp.models.radial import HasRadialNetworks, RadialNetworks, spline_pieces, tabulate
from ase_nnp.registry.installed import installed

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["splinify"]

#: Numbers of intervals that are tried, and parts of the largest singular value that are dropped.
INTERVALS = (128, 256, 512, 1024, 2048, 4096, 8192)
DROPPED = tuple(10 ** (-k / 3) for k in range(9, 37))
#: Distances that the directions are found with: more change them by nothing.
SAMPLED = 384


@usual_default_dtype()
def splinify(
    model: Any = None,
    *,
    tolerance: float = 1e-5,
    structures: Sequence[Atoms] | None = None,
) -> Potential:
    """Return a model whose radial networks are cubic splines on a uniform grid up to the cutoff.

    Number of splines and grid are the smallest tried whose forces stay within ``tolerance`` of the
    original's. The result is saved and loaded like any model; what is trained of it are its
    matrices and all else, not the splines. Error bars of the original do not fit its hash.

    Parameters
    ----------
    model
        Anything that :func:`~ase_nnp.load_model` takes, without error bars; None for the default.
    tolerance
        Largest difference of a force, eV/Angstrom.
    structures
        What forces are compared on; None for rattled crystals of the model's elements.

    Raises
    ------
    ConfigError
        A family that declares no radial networks, error bars or other layers around the model, or
        a tolerance that is not positive.
    PredictionError
        No grid reaches the tolerance; the error that was reached is named.
    """
    if not tolerance > 0:
        raise ConfigError(f"tolerance must be positive, not {tolerance} eV/Angstrom.")
    original = load_model(model, uncertainty=False)
    if original.unwrapped is not original:
        raise ConfigError(
            "Error bars around a model belong to its weights: splinify the model within "
            "(model.unwrapped), then fit them again."
        )

    exact = deepcopy(original).to("cpu").to(torch.float64).freeze()
    networks = _declared(exact)
    sample = list(structures) if structures is not None else _crystals(exact)
    wanted = _forces(exact, sample)

    @cache
    def table(intervals: int) -> NDArray[np.float64]:
        return tabulate(networks, exact.cutoff, intervals)

    sizes, axes = _directions(table(SAMPLED))

    def candidate(part: float, intervals: int) -> Potential:
        count = int((sizes > part * sizes[0]).sum())
        return _with_splines(exact, networks, axes[: max(count, 1)], table(intervals))

    def error(made: Potential) -> float:
        return float((_forces(made, sample) - wanted).abs().max())

    # A quarter of the tolerance for what is cut and for the grid: other structures feel larger
    # forces, and single precision needs its share. Lists are halved: a candidate takes seconds.
    finest = INTERVALS[-1]
    place = bisect_left(DROPPED, 1, key=lambda p: error(candidate(p, finest)) <= tolerance / 8)
    part = DROPPED[min(place, len(DROPPED) - 1)]
    place = bisect_left(INTERVALS, 1, key=lambda n: error(candidate(part, n)) <= tolerance / 4)
    intervals = INTERVALS[min(place, len(INTERVALS) - 1)]

    # What counts is the error in the model's own precision.
    made = candidate(part, intervals).to(original.dtype)
    wanted = _forces(deepcopy(original).to("cpu").freeze(), sample)
    reached = error(made)
    if not reached <= tolerance:
        raise PredictionError(
            f"Splines on {intervals} intervals change forces of '{original.family}' by "
            f"{reached:.1e} eV/Angstrom, more than {tolerance:.1e}. Give a larger tolerance, a "
            "model in float64, or structures= nearer to those you use."
        )

    made.provenance = {
        "source": "splinify",
        "splinified_from": model_hash(original),
        "original": dict(original.provenance),
        "forces_within": reached,
    }
    return made.to(original.device).freeze()


def _declared(model: Potential) -> RadialNetworks:
    networks = model.radial_networks() if isinstance(model, HasRadialNetworks) else None
    if networks is None:
        able = [f.name for f in installed().families.values() if "radial_splines" in f.defaults]
        said = ", ".join(sorted(able)) or "none"
        raise ConfigError(
            f"'{model.family or type(model).__name__}' declares no radial networks that splines "
            f"could stand for (or has them already). Families that can: {said}."
        )
    return networks


def _crystals(model: Potential) -> list[Atoms]:
    """Return rattled crystals of 8 atoms, each of two elements of the model of similar size."""
    numbers = sorted(model.elements or {1, 6, 8, 29}, key=lambda z: float(covalent_radii[z]))
    made = []

    # From small atoms to large, near the distances of bonds; small ones no denser than metals,
    # where hundreds of neighbors would measure the rounding of their sum.
    for seed, place in enumerate(np.linspace(0, max(len(numbers) - 2, 0), 5).astype(int)):
        own = np.resize(numbers[place : place + 2], 8)
        length = float(np.sqrt(2.0) * max(2.2 * covalent_radii[own].max(), 2.5))
        atoms = bulk("Cu", a=length, cubic=True) * (1, 1, 2)
        atoms.numbers = own
        atoms.rattle(0.05, seed=seed)
        made.append(atoms)
    return made


def _forces(model: Potential, sample: Sequence[Atoms]) -> Tensor:
    results = model.compute(model.make_graph(sample), ("energy", "forces"))
    return results["forces"].detach().double()


def _directions(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return singular values and directions (rank, columns) of values and slopes together."""
    # Slopes count too, as forces are made of them; a usual cutoff of 6 Angstrom is the unit.
    slopes = np.diff(table, axis=0) * (len(table) / 6.0)
    _, sizes, axes = np.linalg.svd(np.vstack([table, slopes]), full_matrices=False)
    return sizes, axes


def _with_splines(
    model: Potential,
    networks: RadialNetworks,
    axes: NDArray[np.float64],
    table: NDArray[np.float64],
) -> Potential:
    pieces = spline_pieces(table @ axes.T)

    # Columns of the table in their order belong to one network after the other.
    one = networks.basis(torch.ones(1, 1, dtype=torch.float64))
    widths = [network(one).shape[1] for network in networks.networks.values()]
    parts = torch.from_numpy(np.ascontiguousarray(axes)).split(widths, dim=1)
    assert isinstance(model, HasRadialNetworks)
    made = model.with_radial_splines(pieces, dict(zip(networks.networks, parts, strict=True)))
    made.family = model.family
    return made.freeze()
