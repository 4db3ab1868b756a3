"""What lower precision costs in accuracy: measured, for one's own model and structures."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor, as_atoms

__all__ = ["precision_error"]


def precision_error(
    model: Potential,
    structures: Iterable[Any],
    precision: str,
    properties: Collection[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Compare a model at lower precision with itself at its own.

    Parameters
    ----------
    model
        Evaluated twice on every structure.
    structures
        Such as it is to be used for.
    precision
        ``"tf32"`` or ``"bf16"``, as in :class:`ase_nnp.Predictor`. TF32 exists on GPUs since
        Ampere only; elsewhere the figures are those of rounding.
    properties
        As in :func:`ase_nnp.predict`.

    Returns
    -------
    dict
        For each property ``max`` and ``rms`` of the difference and ``spread``, the standard
        deviation of the property itself, in the property's unit; the energy as
        ``energy_per_atom``.
    """
    atoms = [as_atoms(one) for one in structures]
    if not atoms:
        raise ConfigError("There are no structures to measure the precision on.")

    full = Predictor(model)(atoms, properties, progress=False)
    low = Predictor(model, precision=precision)(atoms, properties, progress=False)
    errors: dict[str, dict[str, float]] = {}

    for name in full[0]:
        scale = [len(a) if name == "energy" else 1 for a in atoms]
        pairs = [
            (np.ravel(f[name]) / n, np.ravel(p[name]) / n)
            for f, p, n in zip(full, low, scale, strict=True)
            if name in f and np.ravel(f[name]).dtype.kind == "f"
        ]
        if not pairs:
            continue

        one, two = (np.concatenate(column) for column in zip(*pairs, strict=True))

        # The spread of the property stands beside the error: 1 meV is much for a set that spans 10
        # meV.
        difference = np.abs(two - one)
        errors["energy_per_atom" if name == "energy" else name] = {
            "max": float(difference.max()),
            "rms": float(np.sqrt(np.mean(difference**2))),
            "spread": float(one.std()),
        }
    return errors
