"""What ``ase-nnp data verify --model`` does: labels that are probably wrong, in a table or page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ase_nnp.cli.commands.output import print_table, say
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.uncertainty.suspicious import SuspiciousLabels

__all__ = ["look", "show"]

SHOWN = 20


def look(
    source: Path,
    format: str | None,
    model: str | None,
    uncertainty: Path | None,
    page: Path | None,
    threshold: float,
) -> SuspiciousLabels:
    """Rank suspicious labels of a dataset, and write their page."""
    from ase_nnp.cli.commands.model_argument import model_from
    from ase_nnp.datasets import open_dataset
    from ase_nnp.uncertainty.fitting import attach
    from ase_nnp.uncertainty.suspicion_page import write_suspicion_page
    from ase_nnp.uncertainty.suspicious import suspicious_labels

    dataset = open_dataset(source, format)
    potential = None if model is None else model_from(model, None, "auto", "float32")
    if uncertainty is not None:
        if potential is None:
            raise ConfigError("--uncertainty goes with --model: error bars belong to a model.")
        potential = attach(potential, uncertainty)
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
