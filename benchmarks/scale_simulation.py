"""Many small tasks and workers that die: does the sharded form lose or double any?

    python benchmarks/scale_simulation.py [--tasks 100000] [--failures 0.01] [--jobs 4] [--json]

A scheduler starts ``jobs`` worker processes on one run and starts another whenever one ends, as
an array job with requeueing does. Each worker is killed by the kernel, without notice, at a random
moment, such that about one task in a hundred loses its worker. The claims and results are those
of ``ase-nnp screen``; the task itself is a number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ase_nnp.workflows.ledger import Ledger, Worker


def task(item: int) -> bytes:
    """Return what the item's result must be."""
    return f"{item}:{item * item}".encode()


def work(folder: Path, shard: tuple[int, int], lifetime: float) -> None:
    """Be a worker until the work or the time is over; the alarm kills, nothing handles it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, lifetime)
    with Worker(Ledger(folder)) as worker:
        for block in worker.blocks(shard):
            worker.commit(block, [task(k) for k in range(block.first, block.last)])


def simulate(
    folder: Path, tasks: int, failures: float, jobs: int, block: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Run until all is done; return what happened and what the results hold."""
    ledger = Ledger.create(folder, tasks, block, {"task": "square"})
    chance = random.Random(seed)
    started, killed, ended = 0, 0, 0
    running: dict[int, int] = {}
    seconds_a_task, done, begin = 1e-3, 0, time.perf_counter()
    while True:
        while len(running) < jobs and len(ledger.finished()) < ledger.blocks:
            left = max(1, tasks - done)
            rate = max(1.0, failures * tasks - killed) / left / seconds_a_task
            lifetime = max(1e-4, chance.expovariate(rate))
            part = started % jobs
            pid = os.fork()
            if pid == 0:
                try:
                    work(folder, (part, jobs), lifetime)
                    os._exit(0)
                except BaseException as error:
                    print(f"worker: {error!r}", file=sys.stderr)
                    os._exit(1)
            running[pid] = part
            started += 1
        if not running:
            break
        pid, status = os.wait()
        del running[pid]
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.WEXITSTATUS(status):
            raise SystemExit("a worker failed; see above")
        else:
            ended += 1
        if killed % 20 == 19:  # the aim is a share of tasks, so time is measured in tasks
            done = len(ledger.finished()) * block
            seconds_a_task = jobs * (time.perf_counter() - begin) / max(1, done)
    seconds = time.perf_counter() - begin
    found = Counter(record for k in range(ledger.blocks) for record in ledger.read(k))
    wanted = {task(k) for k in range(tasks)}
    attempts = Counter(ledger.note(k)["attempt"] for k in range(ledger.blocks))
    return {
        "tasks": tasks,
        "workers_started": started,
        "workers_killed": killed,
        "workers_ended": ended,
        "killed_per_task": killed / tasks,
        "blocks_by_attempts": dict(sorted(attempts.items())),
        "lost": len(wanted - found.keys()),
        "doubled": sum(n - 1 for n in found.values()),
        "strange": len(found.keys() - wanted),
        "seconds": seconds,
        "milliseconds_a_task": 1e3 * seconds / tasks,
        "bytes_written": sum(p.stat().st_size for p in (folder / "results").iterdir()),
    }


def main() -> None:
    """Print the outcome; exit code 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--failures", type=float, default=0.01)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = simulate(
            Path(folder), options.tasks, options.failures, options.jobs, options.block
        )
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        for name, value in report.items():
            print(f"{name:24s} {value}")
    sys.exit(bool(report["lost"] or report["doubled"] or report["strange"]))


if __name__ == "__main__":
    main()
