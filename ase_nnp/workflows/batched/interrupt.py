"""Interrupts (Ctrl-C, a scheduler's notice) that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["uninterrupted"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold interrupts back until the block has ended; they are delivered then.

    Signals that would end the process without Python's help are left alone.
    """
    # Python runs signal handlers in the main thread only, and may set them there only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    arrived: list[tuple[int, Any]] = []
    handlers: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):
            handlers[number] = handler
            signal.signal(number, lambda *signaled: arrived.append(signaled))

    try:
        yield
    finally:
        for caught, handler in handlers.items():
            signal.signal(caught, handler)
    if arrived:
        first, frame = arrived[0]
        handlers[first](first, frame)
