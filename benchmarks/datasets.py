"""How fast datasets are read, next to fairchem, on the same files in one run.

Writes 4000 OC20-sized structures in 10 shards as .aselmdb and as legacy .lmdb (pickled records),
and reads them in turns (ours, reference, ours, ...) in processes of their own, one thread each, by
CPU time. Medians of samples per CPU second and ratios are printed as a table, or with --json.

    python benchmarks/datasets.py                     # installs the references first (2 GB)
    python benchmarks/datasets.py --fairchem1 ENV --fairchem2 ENV   # environments that exist
    python benchmarks/datasets.py --no-references                   # ours alone
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
from measurement import record_option, write_measurement

SHARDS, COUNT, REPEATS = 10, 4000, 5

# ---- what is timed. Each script gets a path and prints JSON; `read(i)` is the measured call.

PREAMBLE = """
import json, os, random, resource, sys, time, warnings
warnings.filterwarnings("ignore")
path = sys.argv[1]

def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 1e6

def measure(open_it, reader):
    dataset = open_it()
    read = reader(dataset)
    n = len(dataset)
    for i in range(0, n, max(1, n // 100)):
        read(i)
    before = rss()
    out = {"n": n}
    order = list(range(n))
    for name in ("sequential", "random"):
        start = time.process_time()
        for i in order:
            read(i)
        out[name] = n / (time.process_time() - start)
        random.Random(0).shuffle(order)
    out["rss_growth_mb"] = rss() - before
    print("RESULT " + json.dumps(out))
"""

OURS = {
    "graph": """
from ase_nnp.datasets import open_dataset
from ase_nnp.training.graph_loader import AtomGraphDataset
import torch; torch.set_num_threads(1)
measure(lambda: AtomGraphDataset(open_dataset(path), stored_edges=STORED), lambda d: d.__getitem__)
""",
    "atoms": """
from ase_nnp.datasets import open_dataset
measure(lambda: open_dataset(path), lambda d: d.__getitem__)
""",
    "arrays": """
from ase_nnp.datasets import open_dataset
measure(lambda: open_dataset(path), lambda d: d.arrays)
""",
}

FAIRCHEM2 = """
import torch; torch.set_num_threads(1)
from fairchem.core.datasets import AseDBDataset
measure(lambda: AseDBDataset({"src": path, "a2g_args": {"r_energy": True, "r_forces": True}}),
        lambda d: CALL)
"""

FAIRCHEM1 = """
import torch; torch.set_num_threads(1)
from fairchem.core.datasets import LmdbDataset
measure(lambda: LmdbDataset({"src": path}), lambda d: d.__getitem__)
"""

OPENING = """
import time, sys
from ase_nnp.datasets import open_dataset
open_dataset(sys.argv[2])[0]
times = []
for _ in range(7):
    start = time.process_time(); wall = time.perf_counter()
    dataset = open_dataset(sys.argv[1])
    times.append((time.process_time() - start, time.perf_counter() - wall))
    dataset.close()
cpu, wall = (1e3 * sorted(t[k] for t in times)[3] for k in (0, 1))
print("RESULT " + __import__("json").dumps(
    {"files": len(dataset.shards), "cpu_ms": cpu, "wall_ms": wall}))
"""

# name, folder, our script, reference environment, reference script, wanted ratio
CASES = (
    (
        "aselmdb -> graph",
        "aselmdb",
        "graph",
        "fairchem2",
        FAIRCHEM2.replace("CALL", "d.__getitem__"),
        3,
    ),
    (
        "aselmdb -> Atoms",
        "aselmdb",
        "atoms",
        "fairchem2",
        FAIRCHEM2.replace("CALL", "d.get_atoms"),
        2,
    ),
    ("legacy -> graph", "legacy", "graph", "fairchem1", FAIRCHEM1, 2),
    ("legacy with edges -> graph", "edges", "graph", "fairchem1", FAIRCHEM1, 2),
    ("aselmdb -> arrays", "aselmdb", "arrays", None, "", None),
    ("legacy -> arrays", "legacy", "arrays", None, "", None),
    ("legacy -> Atoms", "legacy", "atoms", None, "", None),
    ("flat -> graph", "flat", "graph", None, "", None),
    ("flat -> Atoms", "flat", "atoms", None, "", None),
)


def structures(count: int):
    """Yield slabs with an adsorbate, 8 to 226 atoms, 74 on average, random labels."""
    from ase import Atoms
    from ase.build import add_adsorbate, fcc111
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    rng = np.random.default_rng(0)
    shapes = [
        (1, 2, 3),
        (2, 2, 4),
        (3, 3, 4),
        (4, 4, 4),
        (4, 5, 4),
        (5, 5, 4),
        (5, 6, 4),
        (7, 8, 4),
    ]
    weights = [0.04, 0.1, 0.18, 0.22, 0.16, 0.14, 0.13, 0.03]
    metals = [("Cu", 3.6), ("Pt", 3.9), ("Ag", 4.1), ("Ni", 3.5), ("Pd", 3.9), ("Au", 4.1)]
    for number in range(count):
        metal, a = metals[rng.integers(len(metals))]
        shape = shapes[rng.choice(len(shapes), p=weights)]
        atoms = fcc111(metal, shape, a=a, vacuum=10.0)
        layers = atoms.get_tags()
        add_adsorbate(atoms, Atoms("CO", [[0, 0, 0], [0, 0, 1.15]]), 1.8, "ontop")
        atoms.set_tags([*(layers == 1).astype(int), 2, 2])
        atoms.pbc = True
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.get_tags() == 0)))
        atoms.info = {"sid": number, "fid": int(rng.integers(200))}
        forces = rng.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
        yield atoms


class Legacy:
    """Writes what the OC20 downloads hold: pickles of PyG 1.x ``Data`` objects, without PyG."""

    def __init__(self) -> None:
        class Data:
            pass

        Data.__module__, Data.__qualname__ = "torch_geometric.data.data", "Data"
        for name in ("torch_geometric", "torch_geometric.data", "torch_geometric.data.data"):
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules["torch_geometric.data.data"].Data = Data
        self.kind = Data

    def record(self, atoms, edges: bool) -> bytes:
        import torch

        data = self.kind()
        fixed = np.zeros(len(atoms), dtype=np.float32)
        fixed[atoms.constraints[0].index] = 1
        state = dict.fromkeys(("x", "edge_index", "edge_attr", "y", "pos", "normal", "face"))
        state |= {
            "y": atoms.get_potential_energy(),
            "pos": torch.tensor(atoms.positions, dtype=torch.float32),
            "cell": torch.tensor(atoms.cell[None], dtype=torch.float32),
            "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.float32),
            "natoms": len(atoms),
            "tags": torch.tensor(atoms.get_tags()),
            "fixed": torch.tensor(fixed),
            "force": torch.tensor(atoms.calc.results["forces"], dtype=torch.float32),
            "sid": atoms.info["sid"],
            "fid": atoms.info["fid"],
        }
        if edges:
            from ase_nnp.models.graph import AtomGraph

            graph = AtomGraph.from_atoms(atoms, 6.0, 50)
            state["edge_index"], state["cell_offsets"] = graph.edge_index, graph.edge_shift
        data.__dict__.update(state)
        return pickle.dumps(data, protocol=-1)


def write_data(folder: Path, count: int) -> None:
    import lmdb

    from ase_nnp.datasets import convert, write_dataset

    legacy, per_shard = Legacy(), -(-count // SHARDS)
    for name in ("aselmdb", "legacy", "edges", "flat", "hundred"):
        (folder / name).mkdir()
    source = structures(count)
    for shard in range(SHARDS):
        part = [atoms for _, atoms in zip(range(per_shard), source, strict=False)]
        write_dataset(folder / "aselmdb" / f"data.{shard:04d}.aselmdb", part)
        for name in ("legacy", "edges"):
            path = folder / name / f"data.{shard:04d}.lmdb"
            with lmdb.open(
                str(path), subdir=False, map_size=1 << 36, lock=False, sync=False
            ) as env:
                with env.begin(write=True) as transaction:
                    for number, atoms in enumerate(part):
                        record = legacy.record(atoms, name == "edges")
                        transaction.put(str(number).encode(), record)
                    transaction.put(b"length", pickle.dumps(len(part), protocol=-1))
                env.sync()
        convert(folder / "legacy" / f"data.{shard:04d}.lmdb", folder / "flat" / f"{shard:04d}.lmdb")
    for shard in range(100):
        shutil.copy(
            folder / "legacy" / f"data.{shard % SHARDS:04d}.lmdb",
            folder / "hundred" / f"data.{shard:04d}.lmdb",
        )


def run(python: str | Path, script: str, *arguments: object) -> dict:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [str(python), "-c", script, *map(str, arguments)],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(done.stderr.strip()[-800:] or "no result")
    return json.loads(lines[-1][7:])


def install(name: str, folder: Path) -> Path:
    """Make a throw-away environment with a reference."""
    import venv

    print(f"installing {name} into {folder} (minutes)", file=sys.stderr)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"

    def pip(*arguments: str) -> None:
        subprocess.run([python, "-m", "pip", "install", "-q", *arguments], check=True)

    pip("torch==2.13.0", "setuptools", "wheel")
    if name == "fairchem2":
        pip("fairchem-core==2.24.0")
    else:
        pip("--no-deps", "fairchem-core==1.10.0")
        pip(
            *("ase", "e3nn", "torch_geometric", "lmdb<1.8", "numba", "orjson", "pyyaml", "tqdm"),
            *("submitit", "tensorboard", "wandb", "hydra-core", "torchtnt", "ase-db-backends"),
            *("monty", "huggingface_hub", "pymatgen"),
        )
        os.environ["MAX_JOBS"] = "1"
        pip("--no-build-isolation", "torch-scatter")
    return python


def python_of(path: str) -> Path:
    here = Path(path)
    return here / "bin" / "python" if here.is_dir() else here


def references(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    pythons: dict[str, Path] = {}
    if options.no_references:
        return pythons
    for name in ("fairchem1", "fairchem2"):
        given = getattr(options, name)
        try:
            pythons[name] = python_of(given) if given else install(name, folder / name)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} could not be installed ({error}); going on without it", file=sys.stderr)
    return pythons


def compare(case: tuple, folder: Path, refs: dict[str, Path], repeats: int) -> dict:
    name, data, ours, environment, script, wanted = case
    stored = "True" if data == "edges" else "False"
    programs = {"ours": (sys.executable, PREAMBLE + OURS[ours].replace("STORED", stored))}
    if environment in refs:
        programs["reference"] = (refs[environment], PREAMBLE + script)
    results: dict[str, list[dict]] = {program: [] for program in programs}
    for _ in range(repeats):
        for program, (python, text) in programs.items():
            results[program].append(run(python, text, folder / data))
    out: dict = {"case": name, "reference": environment, "wanted": wanted}
    for program, runs in results.items():
        for key in ("sequential", "random", "rss_growth_mb"):
            out[f"{program}_{key}"] = statistics.median(r[key] for r in runs)
    if "reference" in programs:
        for key in ("sequential", "random"):
            out[f"ratio_{key}"] = out[f"ours_{key}"] / out[f"reference_{key}"]
    return out


HEAD = ["samples per CPU second", "ours, sequential / random", "reference", "ratio", "wanted"]


def cells(row: dict) -> list[str]:
    """Return a case as a row of the table."""
    ours = f"{row['ours_sequential']:.0f} / {row['ours_random']:.0f}"
    theirs = ratio = ""
    if "reference_sequential" in row:
        theirs = f"{row['reference_sequential']:.0f} / {row['reference_random']:.0f}"
        theirs += f" ({row['reference']})"
        ratio = f"{row['ratio_sequential']:.2f} / {row['ratio_random']:.2f}"
    return [row["case"], ours, theirs, ratio, str(row["wanted"] or "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT, help="structures")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns of each program")
    parser.add_argument("--fairchem1", help="environment or python with fairchem-core 1.10")
    parser.add_argument("--fairchem2", help="environment or python with fairchem-core 2.24")
    parser.add_argument("--no-references", action="store_true", help="time ours alone")
    parser.add_argument("--only", help="run only cases whose name contains this")
    parser.add_argument("--folder", help="keep the data here and use it again")
    parser.add_argument("--json", action="store_true")
    record_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder or Path(scratch) / "data")
        if not folder.exists():
            folder.mkdir(parents=True)
            write_data(folder, options.count)
        refs = references(options, Path(scratch))
        rows = []
        for case in CASES:
            if options.only and options.only not in case[0]:
                continue
            rows.append(compare(case, folder, refs, options.repeats))
            print(f"timed {case[0]}", file=sys.stderr)
        opening = run(sys.executable, OPENING, folder / "hundred", folder / "legacy")
    if options.record:
        write_measurement("datasets", HEAD, [cells(row) for row in rows])
    if options.json:
        print(json.dumps({"cases": rows, "open_100_shards": opening}, indent=1))
        return
    for row in (HEAD, *map(cells, rows)):
        print(" | ".join(row))
    growth = max(row["ours_rss_growth_mb"] for row in rows) if rows else 0.0
    print(f"\nopening {opening['files']} shards: {opening['cpu_ms']:.1f} ms CPU,"
          f" {opening['wall_ms']:.1f} ms wall")  # fmt: skip
    print(f"resident memory grown by reading everything twice: at most {growth:.1f} MB")


if __name__ == "__main__":
    main()
