"""OC20NEB: transition states of a model against density-functional bands.

Wander et al. (2024), CatTSunami, arXiv:2405.02078: a transition state counts as found where its
energy lies within 0.1 eV of the reference; desorptions, dissociations and transfers are scored
apart. Energies are eV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import PredictionError

__all__ = ["NEB_THRESHOLD", "oc20neb_metrics"]

#: eV.
NEB_THRESHOLD = 0.1


def oc20neb_metrics(
    predicted: ArrayLike,
    reference: ArrayLike,
    converged: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    *,
    threshold: float = NEB_THRESHOLD,
    one_sided: bool = False,
) -> dict[str, Any]:
    """Score transition-state energies.

    Parameters
    ----------
    predicted, reference
        (n,) energies of the transition states, both relative to the same initial states; NaN in
        ``predicted`` where the model gave none.
    converged
        (n,) whether the model's search converged; where it did not, nothing is found.
    classes
        (n,) names of reaction classes, scored apart too.
    threshold
        eV.
    one_sided
        Count lower transition states as found too: a lower path is a better one, where the
        predicted energies are those of a reference calculation of the model's structures.

    Returns
    -------
    dict
        ``success`` and ``converged`` (parts of n), ``barrier_mae`` (eV, of converged ones; None
        without any), ``n``; with classes, ``by_class`` of the same.

    Raises
    ------
    PredictionError
        Lengths that differ, nothing to score, or a reference that is not finite.
    """
    ours, theirs = np.asarray(predicted, dtype=float), np.asarray(reference, dtype=float)
    done = np.isfinite(ours) if converged is None else np.asarray(converged, dtype=bool)
    if ours.ndim != 1 or not len(ours) == len(theirs) == len(done):
        raise PredictionError(
            f"Energies of {ours.shape} predictions, {theirs.shape} references and {done.shape} "
            "flags do not belong together."
        )
    if not len(ours) or not np.isfinite(theirs).all():
        raise PredictionError("No transition states, or a reference energy that is not finite.")
    if classes is not None and len(classes) != len(ours):
        raise PredictionError(f"{len(classes)} classes for {len(ours)} transition states.")

    done = done & np.isfinite(ours)
    error = np.where(done, ours - theirs, np.inf)
    near = error if one_sided else np.abs(error)
    # Half an ulp of room: a barrier that differs by 0.1 as printed counts.
    success = done & (near <= threshold + 1e-12)
    scores = _scores(success, done, error)
    if classes is not None:
        names = np.asarray(classes)
        scores["by_class"] = {
            str(name): _scores(*(x[names == name] for x in (success, done, error)))
            for name in np.unique(names)
        }
    return scores


def _scores(success: Any, done: Any, error: Any) -> dict[str, Any]:
    return {
        "success": float(success.mean()),
        "converged": float(done.mean()),
        "barrier_mae": float(np.abs(error[done]).mean()) if done.any() else None,
        "n": len(success),
    }
