"""What ``ase-nnp data verify --model`` does: labels that are probably wrong, in a table or page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ase_nnp.cli.commands.output import print_table, say

if TYPE_CHECKING:
    from ase_nnp.uncertainty.suspicious import SuspiciousLabels

__all__ = ["look", "show"]

SHOWN = 20


def look(
    source: Path, format: str | None, model: str | None, page: Path | None, threshold: float
) -> SuspiciousLabels:
    """Rank suspicious labels of a dataset, and write their page."""
    from ase_nnp.cli.commands.model_argument import model_from
    from ase_nnp.datasets import open_dataset
    from ase_nnp.uncertainty.suspicious import suspicious_labels, write_suspicion_page

    dataset = open_dataset(source, format)
    potential = None if model is None else model_from(model, None, "auto", "float32")
    labels = suspicious_labels(dataset, potential, threshold=threshold)
    if page is not None:
        write_suspicion_page(labels, dataset, page, title=f"Labels of {source.name}")
    return labels


def show(labels: SuspiciousLabels, page: Path | None) -> None:
    """Print the worst of them."""
    rows = [
        (one.index, one.kind, f"{one.score:.1f}", one.reason) for one in labels.suspicions[:SHOWN]
    ]
    if rows:
        print_table("Suspicious labels", ("record", "kind", "score", "reason"), rows)
    say(f"{len(labels.suspicions):,} suspicious labels, {len(rows)} listed")
    if labels.unread:
        say(f"{len(labels.unread):,} records were not judged, first: {labels.unread[0][1]}")
    if page is not None:
        say(page)
