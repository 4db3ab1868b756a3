"""What is suspicious about a label, and all of it of a dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Suspicion", "SuspiciousLabels", "labels_of_record"]


@dataclass(frozen=True)
class Suspicion:
    """One reason to look at a record.

    Attributes
    ----------
    index
        Position in the dataset.
    kind
        ``"energy"``, ``"forces"``, ``"contradiction"`` or ``"drift"``.
    score
        How far out, in error bars or, of a model without them, in usual errors; for the last two
        kinds in multiples of what is allowed.
    reason
        A sentence.
    other
        The record it contradicts.
    """

    index: int
    kind: str
    score: float
    reason: str
    other: int | None = None


@dataclass
class SuspiciousLabels:
    """Suspicions, the worst first, and what was looked at."""

    records: int
    suspicions: list[Suspicion] = field(default_factory=list)
    unread: list[tuple[int, str]] = field(default_factory=list)

    def indices(self) -> list[int]:
        """Return suspicious records without repetition, the worst first."""
        return list(dict.fromkeys(one.index for one in self.suspicions))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "records": self.records,
            "suspicions": [asdict(one) for one in self.suspicions],
            "unread": [{"index": k, "reason": reason} for k, reason in self.unread],
        }


def labels_of_record(atoms: Atoms) -> dict[str, Any]:
    """Return the results of a structure's calculator, {} without one."""
    return dict(atoms.calc.results) if atoms.calc is not None else {}
