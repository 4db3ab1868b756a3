"""Damage good files of our own at random and use them: models, error bars, runs, states.

    python benchmarks/files_fuzz.py                       # 10,000 mutations
    python benchmarks/files_fuzz.py --mutations 1000 --kinds model,uncertainty

Each mutation flips, overwrites, cuts, repeats, moves or inserts bytes of one file; the file is then
used, and what came out is counted:

    refused     an error of ours
    unchanged   the answer of the good file (a blank, a file that is written anew)
    changed     another answer, without a word; wrong where a checksum covers, and only there
    other       another exception
    hang        more than five seconds of CPU time, or ten minutes by the clock

Processes of their own read 500 at a time, with bounded memory. Exit code 1, and the file kept, if
anything was ``other``, ``hang`` or, of a kind with a checksum, ``changed``. The table of counts is
written to ``--table`` after every batch.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from datasets_fuzz import mutate
from fuzz_kinds import COVERED, KINDS, SOURCE, structures
from measurement import record_option, write_measurement

BATCH = 500
SECONDS = 5  # of CPU time that one mutation may take
STUCK = 600  # seconds by the clock: something waits that uses no time

# ---------------------------------------------------------------- one mutation


def damage(folder: Path, rng: random.Random) -> Path:
    """Damage one file of a folder."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
    victim = rng.choice(sorted(files))
    victim.write_bytes(mutate(victim.read_bytes(), rng))
    return victim


def examine(use, folder: Path, good: str) -> str:
    """Use a damaged folder; return the class of what came out."""
    from ase_nnp.errors import AseNnpError

    try:
        answer = json.dumps(use(folder), default=str, sort_keys=True)
    except AseNnpError:
        return "refused"
    return "unchanged" if answer == good else "changed"


def batch(kinds: list[str], first: int, last: int, seeds: Path) -> None:
    """Run mutations in this process; print a line for each."""
    SOURCE["path"] = seeds / "source.extxyz"
    warnings.simplefilter("ignore")
    import ase_nnp

    ase_nnp.list_models()
    good: dict[str, str] = {}
    for kind in kinds:  # imports everything before memory is bounded
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name) / "good"
            shutil.copytree(seeds / kind, copy)
            good[kind] = json.dumps(KINDS[kind][1](copy), default=str, sort_keys=True)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30),) * 2)
    for number in range(first, last):
        rng, kind = random.Random(number), kinds[number % len(kinds)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "damaged"
            shutil.copytree(seeds / kind, folder)
            victim = damage(folder, rng).relative_to(folder)
            print(json.dumps([number, kind, str(victim)]), flush=True)
            # CPU time, or a loaded machine makes hangs out of nothing.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(STUCK)
            outcome = examine(KINDS[kind][1], folder, good[kind])
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            print(json.dumps(outcome), flush=True)


# ---------------------------------------------------------------- the run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first mutation")
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help="comma-separated; all unless given"
    )
    parser.add_argument("--table", type=Path, default=Path("fuzz_files.txt"))
    parser.add_argument("--batch", nargs=3, help=argparse.SUPPRESS)
    record_option(parser)
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if options.batch:
        first, last, folder = options.batch
        batch(kinds, int(first), int(last), Path(folder))
        return 0
    with tempfile.TemporaryDirectory() as name:
        return run(options, kinds, Path(name))


def run(options: argparse.Namespace, kinds: list[str], seeds: Path) -> int:
    """Make the good files, then damage and use them; return the exit code."""
    warnings.simplefilter("ignore")
    from ase_nnp.datasets import write_dataset

    SOURCE["path"] = seeds / "source.extxyz"
    write_dataset(SOURCE["path"], structures())
    for kind in kinds:
        (seeds / kind).mkdir()
        KINDS[kind][0](seeds / kind)
    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    failures, number, end = 0, options.seed, options.seed + options.mutations
    while number < end:
        command = [sys.executable, __file__, "--kinds", ",".join(kinds), "--batch"]
        command += [str(number), str(min(number + BATCH, end)), str(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if not lines:
            raise SystemExit(f"a batch did not start:\n{done.stderr}")
        begun, outcomes = lines[::2], lines[1::2]
        if len(outcomes) < len(begun):  # it died in the last one
            outcomes.append(
                "hang" if -done.returncode in (signal.SIGALRM, signal.SIGPROF) else "other"
            )
        for (which, kind, victim), outcome in zip(begun, outcomes, strict=True):
            counts[kind][outcome] += 1
            if outcome in ("other", "hang") or (outcome == "changed" and kind in COVERED):
                failures += 1
                reason = done.stderr.strip().split("\n")[-1] if outcome == "other" else ""
                print(f"\nmutation {which} of {kind} ({victim}): {outcome} {reason}")
        number = begun[-1][0] + 1
        total = f"{number - options.seed} mutations, {failures} failures"
        options.table.write_text(f"{_listed(counts)}\n{total}\n")
        print(f"\r{total}", end="", flush=True)
    print(f"\n{_listed(counts)}")
    if options.record:
        head = ["kind", "mutations", "refused", "unchanged", "changed"]
        rows = [
            [kind, found.total(), *(found[k] for k in head[2:])] for kind, found in counts.items()
        ]
        write_measurement("files_fuzz", head, rows)
    return 1 if failures else 0


def _listed(counts: dict[str, collections.Counter[str]]) -> str:
    """Return a line for each kind: how many mutations, and what came out."""
    lines = []
    for kind, outcomes in counts.items():
        listed = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        lines.append(f"{kind:16} {sum(outcomes.values()):6}  {listed}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
