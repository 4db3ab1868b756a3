"""Two programs that take turns: what the scripts beside this one share.

Each program runs in a process of its own, with the interpreter of its own environment, on one
thread. Only numpy and ASE are imported here, which every environment has.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Worker:
    """A process that runs ``script --worker ARGUMENTS`` and answers by :func:`serve`."""

    def __init__(self, python: str, script: Path, *arguments: str) -> None:
        command = [python, str(script), "--worker", *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self._line("READY")

    def _line(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise SystemExit(f"A worker ended: {self.process.args}")

    def call(self, **request: Any) -> dict[str, Any]:
        """Return the answer of the worker."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return dict(json.loads(self._line("RESULT ")))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """Answer the questions of a :class:`Worker` until there are no more."""
    print("READY", flush=True)
    for line in sys.stdin:
        print("RESULT " + json.dumps(answer(**json.loads(line))), flush=True)


def peak_mib() -> float:
    """Largest memory this process has held, MiB."""
    # Not getrusage's figure where there is another: a child begins with its parent's largest.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def take_turns(
    workers: Mapping[str, Worker], repeat: int, warm: int = 1, **request: Any
) -> dict[str, list[dict[str, Any]]]:
    """Ask the workers in turn with ``seed`` 0, 1 ...; the first ``warm`` rounds are left out."""
    answers: dict[str, list[dict[str, Any]]] = {which: [] for which in workers}
    for seed in range(repeat + warm):
        for which, worker in workers.items():
            answer = worker.call(seed=seed, **request)
            if seed >= warm:
                answers[which].append(answer)
    return answers


def faster(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Median of the ratios of the rounds."""
    return statistics.median(r / o for o, r in zip(ours, reference, strict=True))


def moved(path: str, count: int, seed: int) -> list[Any]:
    """Return structures, the frames of a file in turn, with atoms moved by 0.01 Angstrom."""
    from ase.io import read

    frames = read(path, ":")
    rng = np.random.default_rng(seed)
    structures = [frames[k % len(frames)].copy() for k in range(count)]
    for atoms in structures:
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
    return structures


def stored_slab(arrays: Path) -> Any:
    """Return the slab of OC20 that is stored beside reference results."""
    from ase import Atoms

    with np.load(arrays) as data:
        part = {k: data[f"oc20_slab/{k}"] for k in ("numbers", "positions", "cell", "pbc")}
    return Atoms(**part)


def make_environment(folder: Path, steps: Sequence[str]) -> str:
    """Make a virtual environment, install into it step by step; return its python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    env = {**os.environ, "MAX_JOBS": "1"}
    for step in steps:
        subprocess.run([python, "-m", "pip", "install", *step.split()], check=True, env=env)
    return python
