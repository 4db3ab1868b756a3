"""What a run learns from and is judged by, as digests; and the validation set before training."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.stats import samples
from ase_nnp.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "HeldBack",
    "check_sequence",
    "geometry_digest",
    "learned_digest",
    "look_at",
    "scalar_label",
]

GEOMETRY = ("atomic_numbers", "positions", "cell", "pbc")
#: Also what is left out of the loss, and what a model may read beside the geometry.
LEARNED = ("energy", "forces", "stress", "fixed", "tags")
READ = ("charge", "spin")


def geometry_digest(sample: Sample) -> bytes:
    """Return 16 bytes that tell a structure from others, whatever its labels."""
    return _digest(sample, GEOMETRY)


def learned_digest(sample: Sample, scalars: Iterable[str] = ()) -> bytes:
    """Return 16 bytes of all that training reads of a structure: geometry, labels, fixed atoms."""
    read = [(name, sample["info"].get(name)) for name in READ]
    named = [(name, scalar_label(sample, name)) for name in scalars]
    return _digest(sample, (*GEOMETRY, *LEARNED), repr((read, named)).encode())


def scalar_label(sample: Sample, name: str) -> float | None:
    """Return a named property of a structure; None where it is not there or NaN, as in tables.

    Raises
    ------
    ConfigError
        It is no number.
    """
    value = sample.get("results", {}).get(name, sample["info"].get(name))
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"the label {name!r} is {value!r}; a number was expected") from None
    if math.isinf(number):
        raise ConfigError(f"the label {name!r} is {number}; a finite number was expected")
    return None if math.isnan(number) else number


def _digest(sample: Sample, names: Iterable[str], more: bytes = b"") -> bytes:
    digest = hashlib.blake2b(more, digest_size=16)
    for name in names:
        if name in sample:
            # With names: of two labels of one shape each must stay what it is.
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(sample[name]).tobytes())
    return digest.digest()


def check_sequence(structures: Any, name: str) -> None:
    """Raise ConfigError for what has no length or order: training reads structures many times."""
    if hasattr(structures, "get_atomic_numbers"):
        raise ConfigError(f"{name} is one structure; a list of them was wanted: [atoms].")
    if not hasattr(structures, "__len__") or not hasattr(structures, "__getitem__"):
        raise ConfigError(
            f"{name} is a {type(structures).__name__}, which can be read once; give list(...)."
        )


@dataclass
class HeldBack:
    """What a validation set holds: structures, labels by name, elements, and digests."""

    structures: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    elements: set[int] = field(default_factory=set)
    sha256: str = ""
    geometries: set[bytes] = field(default_factory=set)

    def notes(self, wanted: Collection[str], shared: int) -> list[str]:
        """Return what a reader of its errors must know."""
        few = "; so few choose the weights by chance" if self.structures < FEW else ""
        text = [f"{self.structures} structures to validate on{few}"]
        lacking = [f"{self.structures - self.labels[n]} have no {n}" for n in wanted
                   if self.labels[n] < self.structures]  # fmt: skip
        if lacking:
            text.append(f"of the validation set {', '.join(lacking)}")
        if shared:
            text.append(
                f"{shared} structures are in the training set and in the validation set: errors "
                "of these say nothing about new ones"
            )
        return text


#: Fewer structures than this make the choice of an epoch a matter of luck.
FEW = 5


def look_at(
    valid: Sequence[Atoms],
    wanted: Collection[str],
    scalars: Collection[str],
    progress: Callable[[int, int], None] | None = None,
) -> HeldBack:
    """Read the validation set once, before anything is trained.

    Raises
    ------
    DatasetError
        It is empty, a label is no number, or no structure has a label that the loss reads: every
        epoch would look as good as any other.
    """
    if not len(valid):
        raise DatasetError("the validation set is empty; say None for none")
    held, digest = HeldBack(len(valid)), hashlib.sha256()
    for sample in samples(valid, progress):
        digest.update(learned_digest(sample, scalars))
        held.geometries.add(geometry_digest(sample))
        held.elements.update(np.unique(sample["atomic_numbers"]).tolist())

        for name in wanted:
            value = scalar_label(sample, name) if name in scalars else sample.get(name)
            held.labels[name] += value is not None
    held.sha256 = digest.hexdigest()
    if not any(held.labels[name] for name in wanted):
        raise DatasetError(
            f"no structure of the validation set has a label of {', '.join(wanted)}, so it cannot "
            "tell a good epoch from a bad one"
        )
    return held
