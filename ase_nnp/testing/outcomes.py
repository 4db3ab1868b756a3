"""What one check of a suite found."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NotApplicable", "Outcome"]


class NotApplicable(Exception):
    """The check does not concern this subject; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    ``status`` is ``"passed"``, ``"declared"`` (within the violation that the family declares),
    ``"violated"``, ``"failed"`` (raised) or ``"not applicable"``.
    """

    check: str
    status: str
    figure: float | None
    tolerance: float
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether the subject keeps what it promises."""
        return self.status not in ("violated", "failed")
