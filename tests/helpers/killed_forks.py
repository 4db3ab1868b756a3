"""Work that is done again and again in forks, and killed at random steps."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable


def fork_repeatedly(work: Callable[[], object], count: int) -> None:
    """Do ``work`` ``count`` times, each in a fork whose number is printed, for others to kill.

    Work prints a line at every step.
    """
    for _ in range(count):
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
        print(f"child {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"end {os.waitstatus_to_exitcode(status)}", flush=True)


def kill_at_random(script: str, arguments: list[str], steps: tuple[int, int]) -> list[int]:
    """Run a script of forks, kill each at a random step of this range; return the exit codes."""
    ends: list[int] = []
    child, left = 0, 0
    command = [sys.executable, script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, number = line.partition(" ")
            if word == "child":
                child, left = int(number), random.randint(*steps)
            elif word == "end":
                ends.append(int(number))
            else:
                left -= 1
                if left == 0:
                    os.kill(child, signal.SIGKILL)
    return ends
