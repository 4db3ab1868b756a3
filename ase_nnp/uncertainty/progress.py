"""A progress bar for passes over training structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["tracked"]

T = TypeVar("T")


def tracked(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield ``items``, with a bar on a terminal's stderr where they are 50 or more."""
    if len(items) >= 50:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        if console.is_terminal:
            yield from track(items, description=what, console=console)
            return
    yield from items
