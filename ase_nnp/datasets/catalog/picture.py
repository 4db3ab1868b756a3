"""A picture of groups of records: how many there are, and where their energies lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.catalog.groups import group_statistics
from ase_nnp.datasets.catalog.index import DatasetIndex
from ase_nnp.datasets.catalog.schema import BY_NAME
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import whole_file

__all__ = ["plot_groups"]

Array = np.ndarray[Any, Any]
MOST = 30


def plot_groups(
    index: DatasetIndex,
    path: str | os.PathLike[str],
    *,
    by: str = "adsorbate",
    column: str = "adsorption_energy",
    positions: Array | None = None,
    title: str = "",
) -> list[dict[str, Any]]:
    """Draw counts and ranges of a column by group, the 30 largest groups; return all of them.

    Parameters
    ----------
    index
        The index.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    by, column, positions
        As in :func:`~.groups.group_statistics`.
    title
        Above the picture.

    Raises
    ------
    DatasetError
        matplotlib is not installed, or it cannot write this kind of file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DatasetError("plots need matplotlib: pip install ase_nnp[plot]") from error
    rows = group_statistics(index, by, column=column, positions=positions)
    shown = rows[:MOST][::-1]
    places = np.arange(len(shown))

    figure = Figure(figsize=(8.0, 1.6 + 0.24 * max(len(shown), 4)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(places, [row["records"] for row in shown], color="#4c78a8")
    left.set_xlabel("records")
    left.set_yticks(places, ["(none)" if r["group"] is None else str(r["group"]) for r in shown])

    known = [(at, row) for at, row in zip(places, shown, strict=True) if row["count"]]
    for at, row in known:
        right.plot([row["min"], row["max"]], [at, at], color="#bbbbbb", linewidth=2)
        if row["std"] is not None:
            ends = [row["mean"] - row["std"], row["mean"] + row["std"]]
            right.plot(ends, [at, at], color="#4c78a8", linewidth=5)
        right.plot([row["mean"]], [at], "o", color="#333333", markersize=4)
    right.set_xlabel(f"{column}{_unit(column)}: range, mean ± std")
    more = f" ({len(rows) - MOST} more groups)" if len(rows) > MOST else ""
    figure.suptitle(f"{title or index.path.name}, by {by}{more}", fontsize=10)

    path = Path(path)
    try:
        with whole_file(path) as beside:
            figure.savefig(beside, dpi=140)
    except ValueError as error:
        raise DatasetError(str(error), path=path) from None
    return rows


def _unit(column: str) -> str:
    meaning = BY_NAME[column].meaning
    unit = meaning.split(":")[0] if ":" in meaning else ""
    return {"eV": " (eV)", "eV/A": " (eV/Å)"}.get(unit, "")
