"""Functions of distance: trainable bases and the envelope that ends them at the cutoff."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.radial import RadialSplines

from .layers import learn_or_keep

__all__ = ["BASES", "Bessel", "Gauss", "Spline", "envelope", "make_basis"]


class Bessel(nn.Module):
    r"""``K`` sine waves, :math:`b_k(d) = (2 / r_c) \sin(f_k d) / d`; at first ``f_k`` is 1 ... K.

    They do not vanish at the cutoff by themselves; the envelope ends them.
    """

    freq: Tensor

    def __init__(self, num_basis: int, trainable: bool) -> None:
        super().__init__()
        learn_or_keep(self, "freq", torch.arange(1.0, num_basis + 1.0), trainable)

    def forward(self, d: Tensor, cutoff: Tensor) -> Tensor:
        """Return (E, K) for distances (E, 1)."""
        return (2.0 / cutoff) * self.freq * torch.sinc(d * self.freq / math.pi)


class Gauss(nn.Module):
    r""":math:`\exp(-(d - \mu_k)^2 / 2 s^2)` with trainable centers and one trainable width."""

    mu: Tensor
    sd: Tensor

    def __init__(self, num_basis: int, mu_max: float, sd: float, trainable: bool) -> None:
        super().__init__()
        learn_or_keep(self, "mu", torch.linspace(0.0, mu_max, num_basis), trainable)
        learn_or_keep(self, "sd", torch.tensor([float(sd)]), trainable)

    def forward(self, d: Tensor, cutoff: Tensor) -> Tensor:
        """Return (E, K) for distances (E, 1)."""
        return torch.exp(-0.5 * ((d - self.mu) / self.sd) ** 2)


class Spline(nn.Module):
    """Cubic B-splines on ``K - 3`` equal intervals of [0, cutoff]: every function is a true spline.

    The weights of the linear map behind this basis are the spline's control points, so each radial
    function of the network is a piecewise cubic that is twice continuously differentiable.
    """

    centers: Tensor

    def __init__(self, num_basis: int) -> None:
        super().__init__()
        if num_basis < 4:
            raise ConfigError(f"A cubic spline needs num_basis >= 4, not {num_basis}.")
        centers = torch.arange(num_basis, dtype=torch.float64) - 1.0  # in intervals
        self.register_buffer("centers", centers, persistent=False)
        self.intervals = num_basis - 3

    def forward(self, d: Tensor, cutoff: Tensor) -> Tensor:
        """Return (E, K) for distances (E, 1)."""
        x = (d * (self.intervals / cutoff) - self.centers).abs()
        outer, inner = (2.0 - x).clamp_min(0.0), (1.0 - x).clamp_min(0.0)
        return outer**3 / 4.0 - inner**3  # 1.5 times the usual cardinal spline, 1 at its center


BASES = ("bessel", "gauss", "spline")


def make_basis(options: Mapping[str, Any], splines: Sequence[int] | None = None) -> nn.Module:
    """Return the basis that ``edge_embed.radial_basis`` asks for, or splines with the envelope."""
    if splines is not None:
        return RadialSplines(*splines)
    kind, count = options["kind"], int(options["num_basis"])
    if kind == "bessel":
        return Bessel(count, bool(options["freq_trainable"]))
    if kind == "gauss":
        return Gauss(
            count, float(options["mu_max"]), float(options["sd"]), bool(options["freq_trainable"])
        )
    if kind == "spline":
        return Spline(count)
    raise ConfigError(f"radial_basis.kind must be one of {', '.join(BASES)}, not {kind!r}.")


def _half(x: Tensor, c: float) -> Tensor:
    return torch.expm1(c * x) / math.expm1(c) * x**2 * torch.sin(0.5 * math.pi * x)


def envelope(d: Tensor, cutoff: Tensor, kind: str, start: float, c: float = 0.1) -> Tensor:
    """Return the factor that goes from 1 at ``start * cutoff`` to 0 at ``cutoff``, shape of ``d``.

    ``smooth`` is the polynomial ``1 - 35 t^4 + 84 t^5 - 70 t^6 + 20 t^7`` with three continuous
    derivatives everywhere. ``exp`` and ``xplor`` are the published ones; their second derivative
    jumps (at the middle; at both ends). ``polynomial`` is DimeNet's with p = 6, from d = 0.
    """
    if kind == "polynomial":
        x = (d / cutoff).clamp(max=1.0)
        return 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8

    on = start * cutoff
    if kind == "xplor":
        inside = torch.minimum(d, cutoff)
        value = (cutoff**2 - inside**2) ** 2 * (cutoff**2 + 2 * inside**2 - 3 * on**2)
        return torch.where(d < on, torch.ones_like(d), value / (cutoff**2 - on**2) ** 3)

    t = ((d - on) / (cutoff - on)).clamp(0.0, 1.0)
    if kind == "smooth":
        return 1.0 - t**4 * (35.0 - t * (84.0 - t * (70.0 - 20.0 * t)))
    if kind == "exp":
        low, high = (2.0 * t).clamp(max=1.0), (2.0 - 2.0 * t).clamp(max=1.0)
        return torch.where(t < 0.5, 1.0 - 0.5 * _half(low, c), 0.5 * _half(high, c))
    raise ConfigError(f"envelope.kind must be smooth, exp, xplor or polynomial, not {kind!r}.")
