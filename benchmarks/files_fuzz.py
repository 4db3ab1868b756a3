"""Damage good files of our own at random and use them: models, error bars, runs, states.

    python benchmarks/files_fuzz.py                       # 10,000 mutations
    python benchmarks/files_fuzz.py --mutations 1000 --kinds model,uncertainty

Each mutation flips, overwrites, cuts, repeats, moves or inserts bytes of one file; the file is then
used, and what came out is counted:

    refused     an error of ours
    unchanged   the answer of the good file (a blank, a file that is written anew)
    changed     another answer, without a word; wrong where a checksum covers, and only there
    other       another exception
    hang        more than five seconds of CPU time, or a minute by the clock

Processes of their own read 2000 at a time, with bounded memory. Exit code 1, and the file kept, if
anything was ``other``, ``hang`` or, of a kind with a checksum, ``changed``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
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
from concurrent.futures import Executor, Future
from pathlib import Path

from datasets_fuzz import mutate

BATCH = 2000
SECONDS = 5  # of CPU time that one mutation may take
STUCK = 60  # seconds by the clock: something waits that uses no time
SOURCE: dict[str, Path] = {}  # of conversions: it must lie where it lay when they began
#: Kinds whose every byte a checksum covers, or whose content does not matter.
COVERED = ("model", "uncertainty", "samples", "relax", "dynamics", "screen", "train")


def structures():
    from ase.build import bulk
    from ase.calculators.emt import EMT

    frames = []
    for k in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        frames.append(atoms)
    return frames


def small_model():
    import ase_nnp

    config = dict(ase_nnp.list_models()["cgcnn_oc20"].test_config)
    return ase_nnp.build_model("cgcnn_oc20", config, seed=1, device="cpu", dtype="float64")


# ---------------------------------------------------------------- kinds: make one, use one


def make_model(folder: Path) -> None:
    import ase_nnp

    ase_nnp.save_model(small_model(), folder / "m.nnp", licence="MIT")


def use_model(folder: Path) -> object:
    import ase_nnp
    from ase_nnp.models.files import model_hash

    model = ase_nnp.load_model(folder / "m.nnp", device="cpu", dtype="float64")
    return [model_hash(model), model.provenance, model.energy_kind, sorted(model.elements or ())]


def make_uncertainty(folder: Path) -> None:
    from ase_nnp.uncertainty import fit, save_uncertainty

    frames = structures()
    fitted = fit("latent", small_model(), train=frames, calibration=frames)
    save_uncertainty(fitted, folder / "m.uq", project="fuzz")


def use_uncertainty(folder: Path) -> object:
    from ase_nnp.models.tensors import tensor_hash
    from ase_nnp.uncertainty import load_uncertainty, uncertainty_info

    fitted = load_uncertainty(folder / "m.uq", small_model())
    tensors, values = fitted.state()
    calibration = fitted.calibration.to_json()
    return [tensor_hash(tensors), values, calibration, uncertainty_info(folder / "m.uq")["notes"]]


def make_samples(folder: Path) -> None:
    import torch

    from ase_nnp.uncertainty.sampling.store import save_samples

    save_samples(folder / "s.safetensors", {"w": torch.rand(2, 3, 4)}, small_model(), a=1)


def use_samples(folder: Path) -> object:
    from ase_nnp.models.tensors import tensor_hash
    from ase_nnp.uncertainty.sampling.store import load_samples

    samples, header = load_samples(folder / "s.safetensors")
    return [tensor_hash(samples), header]


def make_weights(folder: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.rand(5, 3), "b": torch.arange(4)}
    save_file(tensors, folder / "w.safetensors")
    torch.save(tensors, folder / "w.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(folder / "w.npz", **{k: v.numpy() for k, v in tensors.items()})


def use_weights(folder: Path) -> object:
    from ase_nnp.models.tensors import read_tensors, tensor_hash

    return [tensor_hash(read_tensors(path)) for path in sorted(folder.iterdir())]


def make_runfile(folder: Path) -> None:
    text = "data: {train: a.xyz, valid_fraction: 0.1}\nmodel:\n  family: facet\nepochs: 5\n"
    (folder / "run.yaml").write_text(text + "optimizer: {lr: 1e-3}\noutput: run\n")
    text = '[data]\ntrain = "a.xyz"\n[model]\nfamily = "facet"\n[optimizer]\nlr = 1e-3\n'
    (folder / "run.toml").write_text("epochs = 5\n" + text)


def use_runfile(folder: Path) -> object:
    from ase_nnp.training.runfile import read_run_file

    return [read_run_file(path).model_dump(mode="json") for path in sorted(folder.iterdir())]


class Stop(BaseException):
    """Ends a run half-way, past whatever looks after errors."""


def _interrupted(run, folder: Path, after: int) -> None:
    """Run until the second checkpoint is there."""
    from ase_nnp.workflows.batched.store import Store

    saved, count = Store.save, 0

    def save(self, *arguments):
        nonlocal count
        saved(self, *arguments)
        count += 1
        if count == after:
            raise Stop

    Store.save = save
    try:
        with contextlib.suppress(Stop):
            run(folder)
    finally:
        Store.save = saved


def _relax(folder: Path) -> object:
    import ase_nnp

    frames = structures()
    outcomes = ase_nnp.relax_many(
        small_model(), frames, folder=folder, trajectory="traj", steps=6, checkpoint_every=2,
        fmax=1e-6, batch=2,
    )  # fmt: skip
    return [[o.status, o.reason, _rounded(o.atoms)] for o in outcomes]


def _dynamics(folder: Path) -> object:
    import ase_nnp

    outcomes = ase_nnp.run_dynamics(
        small_model(), structures(), folder=folder, trajectory="traj", steps=6, checkpoint_every=2,
        ensemble="nve", seed=1, batch=2,
    )  # fmt: skip
    return [[o.status, o.reason, _rounded(o.atoms)] for o in outcomes]


class _Here(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, function, /, *arguments, **options):
        from ase_nnp.errors import AseNnpError

        future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except AseNnpError as error:
            future.set_exception(error)
        return future


def _screen(folder: Path) -> object:
    from ase_nnp.datasets import open_dataset
    from ase_nnp.workflows.screening import merge, screen

    options = {"steps": 6, "fmax": 1e-6, "chunk": 2}
    screen(small_model(), structures(), folder / "run", executor=_Here(), **options)
    merge(folder / "run", folder / "merged.aselmdb")
    rows = [
        [_rounded(atoms), atoms.info["steps"]] for atoms in open_dataset(folder / "merged.aselmdb")
    ]
    (folder / "merged.aselmdb").unlink()
    return rows


def _half_screened(folder: Path) -> None:
    """Stop inside the second chunk, so that results of one and checkpoints of another lie there."""
    _interrupted(_screen, folder, 4)


def _rounded(atoms) -> list:
    return [] if atoms is None else atoms.positions.round(8).tolist()


def _train(folder: Path, stop: bool = False) -> object:
    from ase_nnp.training import Settings, fit
    from ase_nnp.training.run_callbacks import RunCallbacks

    settings = Settings(epochs=3, progress=False, batch={"structures": 2})
    saved, count = RunCallbacks._log, 0

    def log(self):
        nonlocal count
        saved(self)
        count += 1
        if stop and count == 2:
            raise Stop

    RunCallbacks._log = log
    try:
        result = fit(small_model(), structures(), settings=settings, folder=folder)
    finally:
        RunCallbacks._log = saved
    return [[row["epoch"], round(row["loss"], 9)] for row in result.history]


def _half_trained(folder: Path) -> None:
    with contextlib.suppress(Stop):
        _train(folder, stop=True)


KINDS = {
    "model": (make_model, use_model),
    "uncertainty": (make_uncertainty, use_uncertainty),
    "samples": (make_samples, use_samples),
    "weights": (make_weights, use_weights),
    "runfile": (make_runfile, use_runfile),
    "train": (_half_trained, _train),
    "relax": (lambda folder: _interrupted(_relax, folder, 2), _relax),
    "screen": (_half_screened, _screen),
    "dynamics": (lambda folder: _interrupted(_dynamics, folder, 2), _dynamics),
}
for _ending in ("aselmdb", "extxyz", "h5"):

    def _convert(folder: Path, ending: str = _ending) -> object:
        from ase_nnp.datasets import convert, open_dataset

        target = folder / f"target.{ending}"
        convert(open_dataset(SOURCE["path"]), target, chunk_size=1)
        return [atoms.get_potential_energy() for atoms in open_dataset(target)]

    def _half_converted(folder: Path, convert=_convert) -> None:
        conversion = importlib.import_module("ase_nnp.datasets.convert")
        chosen, count = conversion.sink_class, 0

        def counted(*arguments):
            kind = chosen(*arguments)

            class Broken(kind):
                def append(self, payloads, state):
                    nonlocal count
                    super().append(payloads, state)
                    count += 1
                    if count == 2:
                        raise Stop

            return Broken

        conversion.sink_class = counted
        try:
            with contextlib.suppress(Stop):
                convert(folder)
        finally:
            conversion.sink_class = chosen

    KINDS[f"convert.{_ending}"] = (_half_converted, _convert)


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
    parser.add_argument("--batch", nargs=3, help=argparse.SUPPRESS)
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
        print(f"\r{number - options.seed} mutations, {failures} failures", end="", flush=True)
    print()
    for kind in kinds:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(counts[kind].items()))
        print(f"{kind:16} {sum(counts[kind].values()):6}  {listed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
