"""Error bars of computed properties: over an ensemble's members, or none and the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ase_nnp.models.potential import Potential
from ase_nnp.workflows.propagation import PropagatedValue, propagate

__all__ = ["spread_over_members", "what_a_bar_covers"]


def spread_over_members(
    observable: Callable[[Any], Any], potential: Potential
) -> PropagatedValue | None:
    """Evaluate ``observable(calculator)`` once for each member; None if there are fewer than two.

    The standard deviation of single energies that other uncertainties give is not propagated:
    errors of neighboring structures are alike, and a difference of two energies has a far smaller
    error than either.
    """
    members = list(getattr(potential, "potentials", ()))
    return propagate(observable, members) if len(members) > 1 else None


def what_a_bar_covers(potential: Potential, spread: PropagatedValue | None) -> str:
    """Return a sentence on what the ± is, or why there is none."""
    if spread is not None:
        return (
            f"± is the standard deviation over {len(spread.members)} members of the ensemble, "
            f"each computed anew. {spread.note}"
        )
    if "energy_std" in potential.outputs:
        return (
            "No ±: this model's energy_std holds for single energies, whose errors are alike in "
            "neighboring structures, and is not propagated. An ensemble's members give one."
        )
    return "No ±: this model has no uncertainty. An ensemble's members give one."
