"""Irreps of a feature vector, and which products of two degrees the network keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError

from .settings import MAX_DEGREE

__all__ = ["Blocks", "Irreps", "Path", "paths"]

#: Features by degree, (N, 2 l + 1, channels): a linear map of the channels is one matrix product.
Blocks = dict[int, Tensor]


@dataclass(frozen=True)
class Irreps:
    """Channels by degree; a flat row holds the blocks in ascending degree, channel-major.

    ``mults[l]`` is the number of channels of degree ``l``; element ``(l, u, m)`` stands at
    ``start(l) + u (2 l + 1) + m``.
    """

    mults: tuple[int, ...]

    @property
    def lmax(self) -> int:
        """The highest degree that has channels."""
        return max(self.degrees)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees that have channels, ascending."""
        return tuple(degree for degree, mult in enumerate(self.mults) if mult)

    @property
    def channels(self) -> int:
        """Channels of all degrees together."""
        return sum(self.mults)

    @property
    def dim(self) -> int:
        """Length of a flat row."""
        return sum(mult * (2 * degree + 1) for degree, mult in enumerate(self.mults))

    def mult(self, degree: int) -> int:
        """Channels of one degree, 0 where there are none."""
        return self.mults[degree] if degree < len(self.mults) else 0

    def slice(self, degree: int) -> slice:
        """Where the block of ``degree`` stands in a flat row."""
        start = sum(self.mults[k] * (2 * k + 1) for k in range(degree))
        return slice(start, start + self.mults[degree] * (2 * degree + 1))

    def widths(self) -> list[int]:
        """Lengths of the blocks of :attr:`degrees` in a flat row."""
        return [self.mults[k] * (2 * k + 1) for k in self.degrees]

    def split(self, rows: Tensor) -> dict[int, Tensor]:
        """Cut flat rows (N, dim) into views (N, channels, 2 l + 1) by degree."""
        parts = rows.split(self.widths(), dim=1)
        return {
            k: p.unflatten(1, (-1, 2 * k + 1)) for k, p in zip(self.degrees, parts, strict=True)
        }

    def flat(self, blocks: Mapping[int, Tensor]) -> Tensor:
        """Join blocks (N, 2 l + 1, channels) into flat rows (N, dim)."""
        return torch.cat([blocks[k].transpose(1, 2).flatten(1) for k in self.degrees], dim=1)

    def blocks(self, rows: Tensor) -> Blocks:
        """Cut flat rows (N, dim) into blocks (N, 2 l + 1, channels)."""
        return {k: v.transpose(1, 2).contiguous() for k, v in self.split(rows).items()}

    def __str__(self) -> str:
        return "+".join(f"{self.mults[degree]}x{degree}e" for degree in self.degrees)

    @classmethod
    def parse(cls, text: str) -> tuple[Irreps, str]:
        """Read ``"128x0e + 64x1o + 32x2e"``; the second value is ``"SO(3)"`` or ``"O(3)"``.

        All degrees labeled even means that inversion is not looked at, as in the published
        configurations; the natural parities ``0e, 1o, 2e, 3o`` mean full O(3).
        """
        mults: dict[int, int] = {}
        labels: dict[int, str] = {}
        for term in text.split("+"):
            match = re.fullmatch(r"(?:(\d+)x)?(\d+)([eo])", term.strip())
            if match is None or int(match[2]) in mults:
                raise ConfigError(
                    f"hidden_irreps entry {text!r} is not of the form '128x0e + 64x1o + 32x2e' "
                    "with each degree once."
                )
            mults[int(match[2])] = int(match[1] or 1)
            labels[int(match[2])] = match[3]
        if max(mults) > MAX_DEGREE:
            raise ConfigError(f"hidden_irreps entry {text!r}: no degree may pass {MAX_DEGREE}.")
        if not mults.get(0):
            raise ConfigError(f"hidden_irreps entry {text!r} has no scalars (0e).")

        natural = {degree: "eo"[degree % 2] for degree in mults}
        if labels == natural and max(mults) > 0:
            symmetry = "O(3)"
        elif set(labels.values()) == {"e"}:
            symmetry = "SO(3)"
        else:
            raise ConfigError(
                f"hidden_irreps entry {text!r} mixes parities. Label all degrees even (0e, 1e, 2e, "
                "3e: SO(3), as published) or by nature (0e, 1o, 2e, 3o: O(3))."
            )

        return cls(tuple(mults.get(k, 0) for k in range(max(mults) + 1))), symmetry


@dataclass(frozen=True)
class Path:
    """One product ``l1 x l2 -> l3`` of the convolution."""

    l1: int
    l2: int
    l3: int


def paths(inputs: Irreps, lmax: int, outputs: Irreps, symmetry: str) -> list[Path]:
    """Return the products of features (l1) with edge harmonics (l2 <= lmax), nested l1, l2, l3.

    Only results of a degree in ``outputs`` are kept, and under O(3) only those whose natural
    parities agree, ``l1 + l2 + l3`` even.
    """
    kept: list[Path] = []
    for l1 in inputs.degrees:
        for l2 in range(lmax + 1):
            for l3 in range(abs(l1 - l2), l1 + l2 + 1):
                odd = (l1 + l2 + l3) % 2
                if outputs.mult(l3) and not (symmetry == "O(3)" and odd):
                    kept.append(Path(l1, l2, l3))
    return kept
