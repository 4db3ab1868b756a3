"""From the network's units to eV: normalizers and energies of elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase_nnp.errors import ConfigError

#: Names of a quantity in new and old checkpoints.
ALIASES = {"energy": ("energy", "target"), "forces": ("forces", "grad_target")}


def read_normalizers(stored: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return (mean, standard deviation) of energy and forces, (0, 1) where there is none.

    Both spellings are read: ``energy``/``forces`` with ``rmsd``, ``target``/``grad_target`` with
    ``std``.

    Raises
    ------
    ConfigError
        An entry that is no such mapping.
    """
    result = {}
    for name, names in ALIASES.items():
        entry = next((stored[n] for n in names if n in stored), None)
        if entry is None:
            result[name] = (0.0, 1.0)
            continue
        try:
            mean, spread = entry.get("mean", 0.0), entry.get("rmsd", entry.get("std", 1.0))
            result[name] = (float(mean), float(spread))
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(
                f"The normalizer of the {name} must be a mapping with the numbers 'mean' and "
                f"'std', not {entry!r}."
            ) from None
    return result
