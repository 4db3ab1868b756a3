"""A page of labels that are probably wrong, the worst with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.uncertainty.suspicious import SuspiciousLabels

__all__ = ["write_suspicion_page"]


def write_suspicion_page(
    result: SuspiciousLabels,
    dataset: Sequence[Atoms],
    path: str | Path,
    *,
    title: str,
    most: int = 100,
) -> Path:
    """Write a page of the worst records: why, what they are, and a picture of each of the first.

    Raises
    ------
    DatasetError
        matplotlib is not installed.
    """
    from ase_nnp.files.atomic import write_whole
    from ase_nnp.files.report_page import figure, heading, page, paragraph, table

    shown = result.suspicions[:most]
    kinds = {kind: sum(one.kind == kind for one in result.suspicions) for kind in
             ("energy", "forces", "contradiction", "drift")}  # fmt: skip
    rows = [
        [one.index, dataset[one.index].get_chemical_formula(), one.kind, one.score, one.reason]
        for one in shown
    ]
    pictures = [
        figure(f"record {k}", _picture(dataset[k])) for k in result.indices()[: min(12, most)]
    ]
    text = page(
        title,
        paragraph(f"{result.records} records; {len(result.suspicions)} suspicions, worst first."),
        table(["kind", "count"], [[kind, count] for kind, count in kinds.items()]),
        heading("Records"),
        table(["record", "formula", "kind", "score", "reason"], rows),
        heading("Structures"),
        *pictures,
    )
    write_whole(path, text)
    return Path(path)


def _picture(atoms: Atoms) -> bytes:
    import io

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DatasetError("the page draws with matplotlib: pip install ase_nnp[plot]") from error
    from ase.visualize.plot import plot_atoms

    drawn = Figure(figsize=(3.0, 3.0), layout="constrained")
    axes = drawn.add_subplot()
    bare = atoms.copy()
    bare.set_constraint()
    plot_atoms(bare, axes, rotation="-80x,10y,0z")
    axes.set_axis_off()
    memory = io.BytesIO()
    drawn.savefig(memory, format="png", dpi=80, metadata={"Software": None})
    return memory.getvalue()
