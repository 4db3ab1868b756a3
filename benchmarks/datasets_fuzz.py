"""Damage good dataset files at random and read them: only DatasetErrors may come out.

    python benchmarks/datasets_fuzz.py                    # 100,000 mutations, some 15 minutes
    python benchmarks/datasets_fuzz.py --mutations 2000 --kinds lmdb,aselmdb --table counts.txt

Files of every kind are made from the repository's toy sets (and from the reference sets beside a
checkout, where there are any). Each mutation flips, overwrites, cuts, repeats, moves or inserts
bytes; the file is then opened and its first records are read. Half the mutations of LMDB kinds go
into a record's own bytes, before compression, so that they reach the decoder. HDF5 is left out
unless asked for (``--kinds h5``): its library can loop for ever in a damaged file. Batches run in
processes of their own with bounded memory, so that a crash or a hang is seen and named. The table
of counts is written to ``--table`` after every batch, so that a run that is stopped still counts.

Exit code 1, and the file kept, if anything else than a DatasetError came out.
"""

from __future__ import annotations

import argparse
import collections
import json
import lzma
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzz_seeds import OPTIONS, foreign_seeds
from measurement import record_option, write_measurement

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "datasets"
BATCH = 1000
RECORDS = 4  # read of each file
SLOW = 5.0  # seconds of CPU time that one mutation may take
STUCK = 600  # seconds by the clock: something waits that uses no time


# ---------------------------------------------------------------- good files


def seeds(folder: Path) -> dict[str, list[Path]]:
    """Make small good files of every kind; return them by kind."""
    from ase.db import connect
    from ase.io import write

    from ase_nnp.datasets import open_dataset, write_dataset

    files: dict[str, list[Path]] = collections.defaultdict(list)
    toy = [open_dataset(ROOT / "data" / "oc25_toy")[k] for k in range(3)]
    for name in ("toy.aselmdb", "flat.lmdb", "toy.extxyz", "toy.extxyz.xz", "toy.h5"):
        write_dataset(folder / name, toy)
        kind = name.partition(".")[2] if name != "flat.lmdb" else "flat"
        files[kind].append(folder / name)
    plain = [atoms.copy() for atoms in toy]
    for atoms, source in zip(plain, toy, strict=True):
        atoms.calc, atoms.info = source.calc, {}
    write(folder / "toy.traj", plain)
    files["traj"].append(folder / "toy.traj")
    for name in ("toy.db", "toy.json"):
        with connect(folder / name, use_lock_file=False) as database:
            for atoms in plain:
                database.write(atoms, key_value_pairs={"kind": "toy"}, data={"list": [1, 2.5]})
        files["ase-" + name.partition(".")[2]].append(folder / name)
    (folder / "structures.json").write_text(json.dumps([_pymatgen(atoms) for atoms in plain]))
    files["pymatgen"].append(folder / "structures.json")
    raw = folder / "raw.extxyz"
    raw.write_bytes((folder / "toy.extxyz").read_bytes())
    (folder / "raw.txt").write_text("".join(f"random{k},frame{k},-1.5\n" for k in range(3)))
    files["raw"].append(raw)
    files["lmdb"].append(
        _legacy(ROOT / "data" / "oc20_toy" / "data.0000.lmdb", folder / "toy.lmdb")
    )
    for name in ("oc20_is2re_old", "oc20_is2re_new", "oc20_s2ef_new"):
        source = next((REFERENCE / name).glob("*.lmdb"), None) if REFERENCE.is_dir() else None
        if source is not None:
            files["lmdb"].append(_legacy(source, folder / f"{name}.lmdb"))
    if REFERENCE.is_dir():
        files["aselmdb"].append(REFERENCE / "aselmdb_misc" / "misc.aselmdb")
        files["mapping"].append(REFERENCE / "oc20_mapping" / "oc20_data_mapping.pkl")
    return dict(files) | foreign_seeds(folder, [_pymatgen(atoms) for atoms in plain])


def _legacy(source: Path, target: Path) -> Path:
    """Copy three records of a legacy file into a small one."""
    import lmdb

    from ase_nnp.files.lmdb import LmdbFile

    old = LmdbFile(source)
    new = lmdb.open(str(target), subdir=False, map_size=1 << 26, lock=False)
    with new.begin(write=True) as transaction:
        for number in range(3):
            transaction.put(b"%d" % number, old.get(b"%d" % number))
        transaction.put(b"length", pickle.dumps(3))
    new.close()
    return target


def _pymatgen(atoms) -> dict:
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": abc.tolist(), "xyz": xyz.tolist()}
        for symbol, abc, xyz in zip(
            atoms.get_chemical_symbols(),
            atoms.get_scaled_positions(),
            atoms.positions,
            strict=True,
        )
    ]
    return {"@class": "Structure", "lattice": {"matrix": atoms.cell.tolist()}, "sites": sites}


# ---------------------------------------------------------------- damage


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage bytes in one to four of eight ways."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(damaged)
        if size < 8:
            return bytes(damaged) + rng.randbytes(8)
        place, length = rng.randrange(size), min(rng.choice((1, 2, 4, 8, 64, 1024)), size)
        way = rng.randrange(8)
        if way <= 1:
            damaged[place] ^= 1 << rng.randrange(8)
        elif way == 2:
            damaged[place : place + length] = rng.randbytes(length)
        elif way == 3:
            damaged[place : place + length] = rng.choice((b"\0", b"\xff", b"\x80")) * length
        elif way == 4:
            start = rng.randrange(size)
            damaged[place : place + length] = damaged[start : start + length]
        elif way == 5:
            del damaged[place : place + length]
        elif way == 6:
            damaged[place:place] = damaged[max(0, place - length) : place]
        elif rng.random() < 0.3:
            del damaged[place:]
        else:
            number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1))
            width = rng.choice((2, 4, 8))
            damaged[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(damaged)


def damage_inside(path: Path, target: Path, rng: random.Random) -> None:
    """Rewrite an LMDB file with one value damaged before compression."""
    import lmdb

    from ase_nnp.files.lmdb import LmdbFile

    source = LmdbFile(path)
    pairs = {key: source.get(key) for key in source}
    source.close()
    victim = rng.choice(sorted(pairs))
    value = pairs[victim]
    if value[:1] == b"\x78" and rng.random() < 0.8:
        value = zlib.compress(mutate(zlib.decompress(value), rng))
    else:
        value = mutate(value, rng)
    pairs[victim] = value
    new = lmdb.open(str(target), subdir=False, map_size=1 << 28, lock=False, sync=False)
    with new.begin(write=True) as transaction:
        for key, value in pairs.items():
            transaction.put(key, value)
    new.close()


def damaged_copy(kind: str, path: Path, target: Path, rng: random.Random) -> None:
    """Write a damaged copy of a good file."""
    if kind in ("lmdb", "aselmdb", "flat") and rng.random() < 0.5:
        damage_inside(path, target, rng)
    elif path.suffix == ".xz" and rng.random() < 0.5:
        target.write_bytes(lzma.compress(mutate(lzma.decompress(path.read_bytes()), rng)))
    else:
        target.write_bytes(mutate(path.read_bytes(), rng))


# ---------------------------------------------------------------- reading


def examine(kind: str, path: Path) -> str:
    """Read a file; return what came out. Anything but a DatasetError propagates."""
    import numpy as np

    from ase_nnp.datasets import load_mapping, open_dataset
    from ase_nnp.errors import DatasetError

    refused = read = 0
    try:
        if kind == "mapping":
            load_mapping(path)
            return "read"
        dataset = open_dataset(path, **OPTIONS.get(kind, {}))
        length = len(dataset)
    except DatasetError as error:
        _no_memory_error(kind, error)
        return "not opened"
    for number in {*range(min(RECORDS, length)), length - 1}:
        try:
            atoms, arrays = dataset[number], dataset.arrays(number)
        except DatasetError as error:
            _no_memory_error(kind, error)
            refused += 1
            continue
        read += 1
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            raise AssertionError("positions or a cell that are not finite came out")
        if len(atoms) != len(arrays["atomic_numbers"]) or not atoms.numbers.all():
            raise AssertionError("atoms that cannot be came out")
        if atoms.calc is not None:
            for name in ("energy", "forces"):
                if not np.isfinite(atoms.calc.results.get(name, 0.0)).all():
                    raise AssertionError(f"{name} that are not finite came out")
    dataset.close()
    return "records refused" if refused else "read"


def _no_memory_error(kind: str, error: BaseException) -> None:
    if kind in ("traj", "h5", "ase-db"):
        return  # these libraries ask for what a file says before they look; nothing is touched
    if isinstance(error.__cause__, MemoryError) or "MemoryError" in str(error):
        raise AssertionError(f"memory was not bounded: {error}")


def batch(
    files: dict[str, list[str]], kinds: list[str], first: int, last: int, folder: Path
) -> None:
    """Run mutations ``first`` to ``last`` in this process; print one line for each."""
    warnings.simplefilter("ignore")
    from ase_nnp.datasets import open_dataset

    for kind, paths in files.items():  # import everything before memory is bounded
        if not paths[0].endswith(".pkl"):
            open_dataset(paths[0], **OPTIONS.get(kind, {}))[0]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
    for number in range(first, last):
        rng = random.Random(number)
        kind = kinds[number % len(kinds)]
        source = Path(rng.choice(files[kind]))
        target = folder / f"m{first}{''.join(source.suffixes)}"
        if kind == "raw":
            text = target.with_suffix(".txt")
            text.write_bytes(source.with_suffix(".txt").read_bytes())
            if rng.random() < 0.3:
                text.write_bytes(mutate(text.read_bytes(), rng))
        target.unlink(missing_ok=True)
        damaged_copy(kind, source, target, rng)
        (folder / f"now{first}").write_text(f"{number} {kind} {target}")
        # CPU time, or a loaded machine makes hangs out of nothing.
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        signal.alarm(STUCK)
        print(f"{kind}: {examine(kind, target)}", flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


# ---------------------------------------------------------------- the run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--kinds", default="", help="comma-separated; all but h5 when left out")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"))
    parser.add_argument("--table", type=Path, default=Path("fuzz_table.txt"))
    parser.add_argument("--batch", nargs=4, help=argparse.SUPPRESS)
    record_option(parser)
    options = parser.parse_args()
    if options.batch:
        first, last, folder, files = options.batch
        table = json.loads(Path(files).read_text())
        batch(table, options.kinds.split(","), int(first), int(last), Path(folder))
        return 0
    with tempfile.TemporaryDirectory() as name:
        return run(options, Path(name))


def run(options: argparse.Namespace, folder: Path) -> int:
    files = {kind: [str(path) for path in paths] for kind, paths in seeds(folder).items()}
    kinds = options.kinds.split(",") if options.kinds else sorted(files.keys() - {"h5"})
    table = folder / "files"
    table.write_text(json.dumps(files))
    counts: collections.Counter[str] = collections.Counter()
    failures, start = 0, time.time()
    waiting = collections.deque(range(options.seed, options.seed + options.mutations, BATCH))
    running: list[tuple[int, subprocess.Popen[str]]] = []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            first = waiting.popleft()
            running.append((first, _start(first, options, kinds, folder, table)))
        first, process = running.pop(0)
        output, errors = process.communicate()
        counts.update(output.splitlines())
        if process.returncode:
            failures += 1
            _keep(options.keep, folder, first, process.returncode, errors)
            number = int((folder / f"now{first}").read_text().split()[0])
            if number + 1 < min(first + BATCH, options.seed + options.mutations):
                (folder / f"now{number + 1}").write_text(str(number + 1))
                running.append(
                    (number + 1, _start(number + 1, options, kinds, folder, table, first))
                )
        done = sum(counts.values())
        total = f"{done} mutations, {failures} failures, {time.time() - start:.0f} s"
        options.table.write_text(f"{_listed(counts, kinds)}\n{total}\n")
        print(f"\r{total}", end="", flush=True)
    print(f"\n{_listed(counts, kinds)}\n{total}")
    if options.record:
        record(counts, kinds, failures)
    return 1 if failures else 0


def record(counts: collections.Counter[str], kinds: list[str], failures: int) -> None:
    """Write how many mutations of each kind were read, and what came out."""
    outcomes = sorted({key.split(": ")[1] for key in counts})
    rows = []
    for kind in kinds:
        found = [counts[f"{kind}: {outcome}"] for outcome in outcomes]
        rows.append([kind, sum(found), *found])
    values = {"mutations": counts.total(), "kinds": len(kinds), "failures": failures}
    write_measurement("datasets_fuzz", ["kind", "mutations", *outcomes], rows, values=values)


def _listed(counts: collections.Counter[str], kinds: list[str]) -> str:
    """Return a line for each kind: how many mutations, and what came out."""
    lines = []
    for kind in kinds:
        parts = {k.split(": ")[1]: n for k, n in sorted(counts.items()) if k.split(": ")[0] == kind}
        outcomes = ", ".join(f"{n} {name}" for name, n in parts.items())
        lines.append(f"{kind:12} {sum(parts.values()):7}  {outcomes}")
    return "\n".join(lines)


def _start(first, options, kinds, folder, table, origin=None) -> subprocess.Popen[str]:
    end = (options.seed + ((origin or first) - options.seed) // BATCH * BATCH) + BATCH
    end = min(end, options.seed + options.mutations)
    command = [sys.executable, __file__, "--kinds", ",".join(kinds), "--batch"]
    command += [str(first), str(end), str(folder), str(table)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _keep(target: Path, folder: Path, first: int, code: int, errors: str) -> None:
    """Say what failed and keep the file."""
    if not (folder / f"now{first}").is_file():
        raise SystemExit(f"a batch did not start:\n{errors}")
    number, kind, name = (folder / f"now{first}").read_text().split()
    target.mkdir(exist_ok=True)
    kept = target / f"{number}_{kind}{''.join(Path(name).suffixes)}"
    kept.write_bytes(Path(name).read_bytes())
    reason = signal.Signals(-code).name if code < 0 else errors.strip().split("\n")[-1]
    print(f"\nmutation {number} of {kind}: {reason}; kept as {kept}")


if __name__ == "__main__":
    sys.exit(main())
