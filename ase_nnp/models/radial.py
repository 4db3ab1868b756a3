"""Radial functions as cubic splines: the module, and what a family says of its radial networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["HasRadialNetworks", "RadialNetworks", "RadialSplines", "spline_pieces", "tabulate"]

#: A sine over its distance is no number at zero.
SHORTEST = 1e-6


@dataclass(frozen=True)
class RadialNetworks:
    """What of a model depends on one distance alone.

    Attributes
    ----------
    basis
        Distances (E, 1) in Angstrom to the functions (E, K) that all networks get, with the
        envelope that ends them at the cutoff.
    networks
        By name: a function of the basis (E, K) that gives (E, C).
    """

    basis: Callable[[Tensor], Tensor]
    networks: Mapping[str, Callable[[Tensor], Tensor]]


@runtime_checkable
class HasRadialNetworks(Protocol):
    """A potential that :func:`~ase_nnp.models.splines.splinify` can change.

    Its family takes ``radial_splines`` (numbers of splines and of intervals; None for networks) in
    its configuration.
    """

    def radial_networks(self) -> RadialNetworks | None:
        """Return what depends on one distance alone; None where splines stand for it already."""

    def with_radial_splines(self, pieces: Tensor, matrices: Mapping[str, Tensor]) -> Potential:
        """Return this model with splines instead.

        Parameters
        ----------
        pieces
            (N, 4, K) for :class:`RadialSplines`.
        matrices
            (K, C) by the names of :meth:`radial_networks`: what each network now is.
        """


class RadialSplines(nn.Module):
    """K cubic splines on N equal intervals of [0, cutoff], a cubic polynomial each.

    The coefficients are held and not trained: trained one by one they would tear the pieces apart.

    Parameters
    ----------
    count
        K.
    intervals
        N.
    """

    pieces: Tensor

    def __init__(self, count: int, intervals: int) -> None:
        super().__init__()
        if count < 1 or intervals < 1:
            raise ConfigError(f"{count} splines on {intervals} intervals: at least 1 was wanted.")
        self.intervals = intervals

        # Powers of the place in an interval, not values at its ends: in single precision the
        # difference of two values has lost the digits that forces need.
        self.register_buffer("pieces", torch.zeros(intervals, 4, count))

    def forward(self, d: Tensor, cutoff: Tensor | float) -> Tensor:
        """Return (E, K) for distances (E, 1); constant beyond the cutoff."""
        x = d[:, 0] * (self.intervals / cutoff)
        number = x.detach().long().clamp(0, self.intervals - 1)
        t = (x - number).clamp(max=1.0)
        powers = torch.stack((torch.ones_like(t), t, t * t, t * t * t), dim=1)
        own = self.pieces.index_select(0, number)
        return torch.bmm(powers[:, None], own)[:, 0]


def spline_pieces(values: NDArray[np.float64]) -> Tensor:
    """Return the coefficients (N, 4, K) of splines through values (N + 1, K) at equal steps.

    Twice continuously differentiable, with the not-a-knot condition at both ends: the error of a
    smooth function falls as the fourth power of the step, that of its derivative as the third
    (de Boor, A Practical Guide to Splines, chapter IV).
    """
    from scipy.interpolate import CubicSpline

    # In units of the step; scipy gives the highest power first.
    made = CubicSpline(np.arange(len(values), dtype=np.float64), values, bc_type="not-a-knot")
    return torch.from_numpy(np.ascontiguousarray(made.c[::-1].transpose(1, 0, 2)))


@torch.no_grad()
def tabulate(networks: RadialNetworks, cutoff: float, intervals: int) -> NDArray[np.float64]:
    """Return all networks side by side (N + 1, columns) at the ends of equal intervals."""
    d = torch.linspace(0.0, cutoff, intervals + 1, dtype=torch.float64).clamp_min(SHORTEST)
    basis = networks.basis(d[:, None])
    columns = torch.cat([network(basis) for network in networks.networks.values()], dim=1)
    return np.asarray(columns.double().numpy())
