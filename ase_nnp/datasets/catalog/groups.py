"""Statistics of a dataset's records by group: counts, energies, forces for each adsorbate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ase_nnp.datasets.catalog.index import DatasetIndex
from ase_nnp.datasets.catalog.schema import BY_NAME
from ase_nnp.errors import QueryError

__all__ = ["group_statistics"]

Array = np.ndarray[Any, Any]


def group_statistics(
    index: DatasetIndex,
    by: str,
    *,
    column: str = "adsorption_energy",
    positions: Array | None = None,
) -> list[dict[str, Any]]:
    """Return count, mean, spread and range of a column for each value of another.

    Parameters
    ----------
    index
        The index.
    by
        Column that makes the groups, or ``"element"``: a record counts for each of its elements.
    column
        A column of numbers.
    positions
        Records that count; None for all that can be read.

    Returns
    -------
    list of dict
        ``group``, ``records``, ``count`` (with a value), ``mean``, ``std`` (sample), ``min``,
        ``max``; largest group first.

    Raises
    ------
    QueryError
        No such column, or one without numbers.
    """
    if column not in BY_NAME or BY_NAME[column].kind == "text":
        numeric = [name for name, one in BY_NAME.items() if one.kind != "text"]
        raise QueryError(f"{column!r} is no column of numbers; there are {', '.join(numeric)}")
    if by == "element":
        text = (
            f"SELECT composition.z, records.id, records.{column} FROM composition "
            "JOIN records ON records.id = composition.id"
        )
    elif by in BY_NAME:
        text = f"SELECT {by}, id, {column} FROM records WHERE error IS NULL"
    else:
        raise QueryError(f"no column {by!r}; there are element, {', '.join(BY_NAME)}")

    allowed = None if positions is None else set(np.asarray(positions).tolist())
    groups: dict[Any, list[float]] = {}
    for group, number, value in index.execute(text):
        if allowed is None or number in allowed:
            groups.setdefault(group, []).append(math.nan if value is None else float(value))
    rows = [_summary(_named(by, group), values) for group, values in groups.items()]
    return sorted(rows, key=lambda row: (-row["records"], str(row["group"])))


def _named(by: str, group: Any) -> Any:
    if by != "element":
        return group
    from ase.data import chemical_symbols

    return chemical_symbols[group]


def _summary(group: Any, listed: list[float]) -> dict[str, Any]:
    values = np.array(listed)
    known = values[np.isfinite(values)]
    row: dict[str, Any] = {"group": group, "records": len(values), "count": len(known)}
    names = ("mean", "std", "min", "max")
    if not len(known):
        return row | dict.fromkeys(names)
    spread = float(known.std(ddof=1)) if len(known) > 1 else None
    return row | dict(
        zip(
            names,
            (float(known.mean()), spread, float(known.min()), float(known.max())),
            strict=True,
        )
    )
