"""A bar of progress on stderr, for commands that read whole datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on stderr; yields ``progress(done, total)``."""
    import time

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None, rate="")
        first: list[tuple[float, int]] = []
        shown = 0.0

        def update(done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if not first:
                first.append((now, done))

            # Drawing for each of 100,000 records a second would take longer than reading them.
            if now - shown > 0.1 or done == total:
                shown = now
                began, start = first[0]

                # Over the whole pass: opening files makes the rate of the last moment jump.
                speed = (done - start) / (now - began) if now > began else 0.0
                bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s")

        yield update
