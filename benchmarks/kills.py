"""Kill work at random moments and do it again: the same end, and no other input goes on.

    python benchmarks/kills.py            # ten kills each of conversions, training, error bars

Each case is done once without a kill. Then, ten times: a process begins, is killed (SIGKILL) at a
random moment before its end, and another one makes the same call, whose outcome must be that of
the uninterrupted run, with nothing left over. Ten times more another input (for error bars: another
model) follows a kill and must be refused. Relaxations, dynamics and screening have tests of
their own (``tests/workflows/test_*_kill.py``).

Exit code 1 if any of these is not ten of ten.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measurement import record_option, write_measurement

FORMATS = ("aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5")
TRIES = 60  # kills that come too early or too late are tried again


@dataclass
class Case:
    """``do(folder, 0)`` works on one input and returns its outcome, ``do(folder, 1)`` on another.

    ``begun`` says whether a killed process has left anything that could be continued, ``done``
    whether it had finished but for its exit.
    """

    name: str
    do: Callable[[Path, int], list[float]]
    begun: Callable[[Path], bool]
    done: Callable[[Path], bool] = lambda folder: False


def frames(seed: int, count: int):
    from ase.build import bulk
    from ase.calculators.emt import EMT

    made = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=1000 * seed + k)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        made.append(atoms)
    return made


def model(seed: int = 1):
    import ase_nnp

    config = dict(ase_nnp.list_models()["cgcnn_oc20"].test_config)
    return ase_nnp.build_model("cgcnn_oc20", config, seed=seed, device="cpu", dtype="float64")


def conversion(ending: str, sources: list[Path]) -> Case:
    from ase_nnp.datasets import convert, open_dataset
    from ase_nnp.datasets.writing.record_writers import sink_class

    def do(folder: Path, which: int) -> list[float]:
        target = folder / f"out.{ending}"
        convert(sources[which], target, chunk_size=5)
        dataset = open_dataset(target)
        rows = [[a.get_potential_energy(), *a.get_forces().ravel()] for a in dataset]
        dataset.close()
        return [float(number) for row in rows for number in row]

    def begun(folder: Path) -> bool:
        # What was killed before its first note is begun anew, with whatever input.
        target = folder / f"out.{ending}"
        sink = sink_class(target, None)(target.with_name(f".{target.name}.part"))
        try:
            return sink.state() is not None
        finally:
            sink.close()

    return Case(f"convert to {ending}", do, begun, lambda f: (f / f"out.{ending}").exists())


def training() -> Case:
    from ase_nnp.training import Settings, fit

    given = [frames(seed, 8) for seed in (1, 2)]

    def do(folder: Path, which: int) -> list[float]:
        settings = Settings(epochs=6, progress=False, batch={"structures": 2})
        result = fit(model(), given[which], settings=settings, folder=folder / "run")
        return [float(row["loss"]) for row in result.history]

    return Case("train", do, lambda folder: (folder / "run" / "last.ckpt").exists())


def error_bars() -> Case:
    from ase_nnp.uncertainty import fit, load_uncertainty, save_uncertainty

    given = frames(3, 12)

    def do(folder: Path, which: int) -> list[float]:
        path = folder / "bars.uq"
        if which:  # what was saved for one model is no error bar of another
            load_uncertainty(path, model(seed=2))
        for method in ("latent", "last_layer"):
            fitted = fit(method, model(), train=given, calibration=given)
            save_uncertainty(fitted, path)
        tensors, _ = load_uncertainty(path, model()).state()
        return [float(x) for name in sorted(tensors) for x in tensors[name].double().ravel()]

    return Case("fit and save error bars", do, lambda folder: (folder / "bars.uq").exists())


# ---------------------------------------------------------------- processes


def begin(work: Callable[[], object]) -> int:
    """Do the work in a fork of this process, which has imported everything; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def killed(case: Case, folder: Path, seconds: float, moments: random.Random) -> bool:
    """Kill the work at a random moment; return whether it was not done, and had begun."""
    pid = begin(lambda: case.do(folder, 0))
    time.sleep(moments.uniform(0, seconds))
    finished, _ = os.waitpid(pid, os.WNOHANG)
    if finished:
        return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return not case.done(folder)


def leftovers(folder: Path) -> list[str]:
    """Return unfinished files and folders of processes, locks apart."""
    return [path.name for path in folder.rglob("*") if ".part" in path.name]


def trials(case: Case, folder: Path, expected: list[float], seconds: float, kills: int, other: int):
    """Return how many of the kills ended as they must."""
    from ase_nnp.errors import AseNnpError

    moments, good, hits = random.Random(case.name), 0, 0
    for number in range(TRIES):
        if hits == kills:
            break
        place = folder / "trial"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if not killed(case, place, seconds, moments) or (other and not case.begun(place)):
            continue
        hits += 1
        try:
            outcome = case.do(place, other)
        except AseNnpError as error:
            good += other
            if not other:
                print(f"{case.name}, kill {number}: {error}")
        else:
            good += (not other) and np.allclose(outcome, expected, rtol=0, atol=1e-10)
            good -= (not other) and bool(leftovers(place))
    return good, hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", default="", help="cases with these words in their name")
    record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    from ase_nnp.datasets import write_dataset

    torch.set_num_threads(1)
    bad, rows = 0, []
    print(f"{'work':26} {'seconds':>8} {'same end':>9} {'other input refused':>20}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [folder / f"{seed}.extxyz" for seed in (1, 2)]
        for seed, path in enumerate(sources):
            write_dataset(path, frames(seed, 120))
        cases = [*(conversion(ending, sources) for ending in FORMATS), training(), error_bars()]
        for case in [case for case in cases if options.only in case.name]:
            for _ in range(2):  # the first one imports
                shutil.rmtree(folder / "whole", ignore_errors=True)
                (folder / "whole").mkdir()
                start = time.perf_counter()
                expected = case.do(folder / "whole", 0)
                seconds = time.perf_counter() - start
            same = trials(case, folder, expected, seconds, options.kills, 0)
            refused = trials(case, folder, expected, seconds, options.kills, 1)
            bad += same != (options.kills,) * 2 or refused != (options.kills,) * 2
            counts = "{} of {}".format(*same), "{} of {}".format(*refused)
            print(f"{case.name:26} {seconds:8.2f} {counts[0]:>9} {counts[1]:>20}", flush=True)
            rows.append([case.name, *counts])
    if options.record:
        head = ["work", "continued: the end of an uninterrupted run", "another input: refused"]
        write_measurement("kills", head, rows)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
