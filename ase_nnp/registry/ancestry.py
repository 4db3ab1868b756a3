"""What weights come from: the pretrained ones behind a provenance, and whether they were trained.

A provenance is a mapping: ``pretrained`` names published weights, ``started_from`` holds the
provenance of those that a training began with, ``original`` that of a model put into another form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["STARTED_FROM", "fine_tuned_from"]

STARTED_FROM = "started_from"


def fine_tuned_from(provenance: Mapping[str, Any]) -> str:
    """Return the name of the pretrained weights that training began with; "" if it did not."""
    tuned = False
    for said, by_training in _ancestors(provenance):
        tuned = tuned or by_training
        if said.get("pretrained"):
            return str(said["pretrained"]) if tuned else ""
    return ""


def _ancestors(provenance: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield a provenance and those that it comes from, with whether training lies between."""
    said: Any = provenance
    trained = False
    while isinstance(said, Mapping):
        yield said, trained
        # What was put on splines computes the same; what was trained does not.
        start = said.get(STARTED_FROM)
        trained = start is not None
        said = start.get("provenance") if isinstance(start, Mapping) else said.get("original")
