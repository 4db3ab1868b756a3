"""Parameters of functionals, read from the table that tad-dftd3 ships, without importing it."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["functionals", "parameters_of"]


@lru_cache(maxsize=1)
def _tables() -> tuple[dict[str, Any], dict[str, str]]:
    spec = find_spec("tad_dftd3")  # importing it takes seconds
    if spec is None or spec.origin is None:
        return {}, {}
    folder = Path(spec.origin).parent / "param"
    table = tomllib.loads((folder / "parameters.toml").read_text(encoding="utf-8"))
    names = tomllib.loads((folder / "aliases.toml").read_text(encoding="utf-8"))
    return table, names["alias"]


def functionals(damping: str) -> list[str]:
    """Return the functionals with parameters for ``"bj"`` or ``"zero"`` damping, aliases too."""
    table, aliases = _tables()
    if not table:
        return []
    fitted = {name for name, entry in table["parameter"].items() if damping in entry.get("d3", {})}
    return sorted(fitted | {alias for alias, name in aliases.items() if name in fitted})


def parameters_of(functional: str, damping: str) -> dict[str, float]:
    """Return the damping parameters of a functional: s6, s8, s9, alp and a1, a2 or rs6, rs8."""
    table, aliases = _tables()
    entry = table["parameter"][aliases.get(functional, functional)]["d3"][damping]
    merged = {**table["default"]["parameter"]["d3"][damping], **entry}
    return {name: float(v) for name, v in merged.items() if isinstance(v, (int, float))}
