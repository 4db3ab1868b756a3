"""Runs that are killed at random moments go on as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import batched_worker
import numpy as np
import pytest

KILLS = 10


def ends_of_killed_runs(kind: str, folder: Path) -> list[int]:
    """Start the run again and again, and kill it at a random step; returns the exit codes."""
    random.seed(kind)
    command = [sys.executable, batched_worker.__file__, kind, str(folder), "0.004", "0.02"]
    ends: list[int] = []
    child, left = 0, 0
    with subprocess.Popen([*command, str(KILLS + 1)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, number = line.partition(" ")
            if word == "child":
                child, left = int(number), random.randint(5, 30)
            elif word == "end":
                ends.append(int(number))
            else:
                left -= 1
                if left == 0 and len(ends) < KILLS:
                    os.kill(child, signal.SIGKILL)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relax", "md"])
def test_ten_kills_lose_and_double_nothing(kind, tmp_path):
    whole = batched_worker.run(kind, tmp_path / "whole", 0.0, 1e9)
    ends = ends_of_killed_runs(kind, tmp_path / "killed")
    assert ends == [-signal.SIGKILL] * KILLS + [0]
    after = batched_worker.run(kind, tmp_path / "killed", 0.0, 1e9)
    expected = batched_worker.contents(tmp_path / "whole", whole)
    found = batched_worker.contents(tmp_path / "killed", after)
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[4] == theirs[4]
        np.testing.assert_array_equal(ours[5], theirs[5])
        np.testing.assert_array_equal(ours[6], theirs[6])
    assert not list((tmp_path / "killed" / "frames").glob("*.bin"))
    lines = (tmp_path / "killed" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(batched_worker.structures())
