"""Attention among the neighbors of each atom.

``math`` writes the product out; it can be differentiated twice, as training on gradient forces
needs, and uses the addition theorem, which spares the wide vectors of the frequency embedding:
``Y_l(a) . Y_l(b) = P_l(cos)``. ``fused`` expands queries and keys by the harmonics and calls
``scaled_dot_product_attention``, so that the device's own kernel runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from ase_nnp.errors import ConfigError
from ase_nnp_escaip.layers import legendre
from ase_nnp_escaip.slots import Slots

__all__ = ["Geometry", "attend", "kernel"]


@dataclass
class Geometry:
    """What attention must know of one block: bias of the slots, angles, harmonics."""

    slots: Slots
    bias: Tensor  # (n, 1, 1, M) additive, -inf in empty slots
    direction: Tensor  # (R, 3)
    repeats: tuple[int, ...] = ()  # channels of each degree
    harmonics: Tensor | None = None  # (R, D) columns by degree
    kernel: str = "math"
    dropout: float = 0.0
    pairs: Tensor | None = field(default=None)  # (L, n, 1, M, M) Legendre polynomials from 1 on
    cosine: Tensor | None = field(default=None)  # (n, M, M)

    def prepare(self, angles: bool) -> Geometry:
        """Work out what every layer will use."""
        # Once for all layers: angles and polynomials depend on the geometry alone.
        if angles or (self.kernel == "math" and self.repeats):
            padded = self.slots.pad(self.direction)

            # Empty slots hold some atom's row; without the mask they would have angles.
            padded = padded * self.slots.mask[..., None].to(padded.dtype)
            cosine = padded @ padded.transpose(1, 2)
            self.cosine = cosine
            if self.kernel == "math" and self.repeats:
                length = (padded.detach().square().sum(-1) > 0).to(padded.dtype)
                unit = length[:, :, None] * length[:, None, :]
                polynomials = legendre(cosine, len(self.repeats) - 1, unit)[1:]
                if polynomials:
                    self.pairs = torch.stack(polynomials)[:, :, None]
        return self


def kernel(wanted: str, *, device: torch.device, twice: bool, pairwise: bool) -> str:
    """Choose between ``"math"`` and ``"fused"``.

    Parameters
    ----------
    wanted
        ``"auto"`` or one of the two.
    twice
        Whether the result will be differentiated twice (training on gradient forces).
    pairwise
        Whether a term depends on the query and the key together (frequencies).
    device
        Where the tensors live.

    Raises
    ------
    ConfigError
        ``"fused"`` where a second derivative is needed: those kernels have none.
    """
    if wanted == "fused" and twice:
        raise ConfigError(
            "attention='fused' cannot train on gradient forces: those kernels have no second "
            "derivative. Use attention='math' or 'auto'."
        )
    if wanted != "auto":
        return wanted

    # Fused kernels have no second derivative.
    if twice:
        return "math"

    # On a CPU the expanded harmonics cost more than the table of pairs they save.
    return "fused" if device.type == "cuda" or not pairwise else "math"


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, at: Geometry, extra: Tensor | None, first: bool
) -> Tensor:
    """Return the attended values as rows (R, H), or (n, H) for the first slots only.

    Parameters
    ----------
    q, k, v
        Rows (R, H); ``q`` is (n, H) with ``first``.
    heads
        Number of attention heads.
    at
        The block.
    extra
        Further bias (n, heads, M, M), or None.
    first
        Whether only the first slot of each atom asks.
    """
    slots = at.slots

    def table(x: Tensor) -> Tensor:  # (n, heads, M, dh)
        split: Tensor = slots.pad(x).unflatten(-1, (heads, -1))
        return split.transpose(1, 2)

    size = v.shape[-1] // heads
    queries = q.unflatten(-1, (heads, 1, -1)) if first else table(q)
    bias = at.bias if extra is None else at.bias + (extra[:, :, :1] if first else extra)
    width = sum(f * (2 * l + 1) for l, f in enumerate(at.repeats))  # noqa: E741
    # The published width is filled up to a multiple of 8, and so counts in the scale.
    scale = 1.0 / math.sqrt(8 * math.ceil(width / 8) if at.repeats else size)
    if at.kernel == "fused":
        # By the addition theorem q.k P_l(cos) is a plain product of vectors times harmonics, which
        # a fused kernel can take.
        keys = table(k)
        if at.repeats:
            assert at.harmonics is not None
            harmonics = slots.pad(at.harmonics)[:, None]
            own = harmonics[:, :, :1] if first else harmonics
            queries = _expand(queries, own, at.repeats)
            keys = _expand(keys, harmonics, at.repeats)
        mask = bias.expand(-1, -1, queries.shape[2], -1)
        out = functional.scaled_dot_product_attention(
            queries, keys, table(v), attn_mask=mask, dropout_p=at.dropout, scale=scale
        )
    else:
        logits = _products(queries, table(k), at, first).mul(scale) + bias
        weights = torch.softmax(logits, dim=-1)
        if at.dropout:
            weights = functional.dropout(weights, at.dropout)
        out = weights @ table(v)
    out = out.transpose(1, 2).flatten(2)
    return out[:, 0] if first else slots.unpad(out)


def _products(q: Tensor, k: Tensor, at: Geometry, first: bool) -> Tensor:
    """Sum over the degrees of ``q_l . k_l P_l(cos)``, (n, heads, queries, M)."""
    if not at.repeats:
        return q @ k.transpose(-1, -2)

    # The first slot is the atom itself: no direction, so only degree 0 remains.
    total: Tensor | None = None
    start = 0
    for degree, channels in enumerate(at.repeats):
        here = slice(start, start + channels)
        start += channels
        if channels == 0 or (first and degree):
            continue
        term = q[..., here] @ k[..., here].transpose(-1, -2)
        if degree:
            assert at.pairs is not None
            term = term * at.pairs[degree - 1]
        total = term if total is None else total + term

    return torch.zeros_like(at.bias) if total is None else total


def _expand(x: Tensor, harmonics: Tensor, repeats: tuple[int, ...]) -> Tensor:
    """Multiply the channels (n, heads, M, dh) of each degree with its harmonics (n, 1, M, D)."""
    parts, channel, column = [], 0, 0
    for degree, channels in enumerate(repeats):
        size = 2 * degree + 1
        values = x[..., channel : channel + channels, None]
        parts.append((values * harmonics[..., None, column : column + size]).flatten(-2))
        channel, column = channel + channels, column + size
    expanded = torch.cat(parts, dim=-1)

    # Kernels for GPUs want widths that are multiples of 8.
    return functional.pad(expanded, (0, -expanded.shape[-1] % 8))
