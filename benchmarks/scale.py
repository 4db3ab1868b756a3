"""What large screenings cost: units measured here, and what 10^6 and 10^9 relaxations make of them.

    python benchmarks/scale.py [--structures 256] [--record]

Slabs of 66 atoms. One force evaluation is one of the shipped model's; sizes and times of results
are those of a screening with a model that costs nearly nothing, as they do not depend on it. A
relaxation is taken to be 150 evaluations, which is an assumption.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from measurement import record_option, write_measurement
from overhead import slab

import ase_nnp
from ase_nnp.datasets import write_dataset
from ase_nnp.workflows.screened import merge
from ase_nnp.workflows.screening import screen

EVALUATIONS = 150


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def evaluation() -> float:
    """CPU seconds of one evaluation of the shipped model, in a batch of one; median of seven."""
    model, atoms = ase_nnp.load_model(device="cpu", uncertainty=False), slab()

    def call() -> None:
        ase_nnp.predict(model, [atoms], ("energy", "forces"), progress=False)

    call()
    return statistics.median(cpu(call) for _ in range(7))


def results(count: int, folder: Path) -> dict[str, float]:
    """Bytes of a structure's result, and CPU seconds of reading an input and merging a result."""
    structures = []
    for seed in range(count):
        structures.append(slab())
        structures[-1].rattle(0.05, seed=seed)
    write_dataset(folder / "input.aselmdb", structures)

    dataset = ase_nnp.open_dataset(folder / "input.aselmdb")
    reading = cpu(lambda: [dataset[i] for i in range(count)])
    with ThreadPoolExecutor(1) as executor:
        model = ase_nnp.build_model("zbl", device="cpu")
        screen(model, dataset, folder / "run", executor=executor, task="predict")
    merging = cpu(lambda: merge(folder / "run", folder / "out.aselmdb"))
    merge(folder / "run", folder / "out.lmdb")

    places = {"run folder": "run", "ASE-LMDB": "out.aselmdb", "flat LMDB": "out.lmdb"}
    sizes = {name: size(folder / place) / count for name, place in places.items()}
    return {**sizes, "reading": reading / count, "merging": merging / count}


def words(count: float, seconds: float) -> str:
    """Time of one core for so many times these seconds, in hours or minutes."""
    whole, unit = count * seconds / 3600, "core hours"
    if whole < 1:
        whole, unit = 60 * whole, "minutes of one core"
    return f"{float(f'{whole:.2g}'):,.0f} {unit}".replace(",", " ")


def main() -> None:
    """Print the units and what they add up to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=256)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)

    one = evaluation()
    with tempfile.TemporaryDirectory() as name:
        unit = results(args.structures, Path(name))

    rows = []
    for what, seconds in (
        (f"computing, {EVALUATIONS} evaluations of {1e3 * one:.0f} ms", EVALUATIONS * one),
        (f"reading the input, {1e3 * unit['reading']:.2g} ms", unit["reading"]),
        (f"merging into ASE-LMDB, {1e3 * unit['merging']:.2g} ms", unit["merging"]),
    ):
        rows.append([what, *(words(count, seconds) for count in (1e6, 1e9))])
    for place in ("run folder", "ASE-LMDB", "flat LMDB"):
        kilobytes = unit[place] / 1e3
        what = f"results, {place}, {kilobytes:.2g} kB"
        rows.append([what, f"{kilobytes:.2g} GB", f"{kilobytes:.2g} TB"])
    for row in rows:
        print(" | ".join(row))
    if args.record:
        write_measurement("scale", ["a structure of 66 atoms", "10^6", "10^9"], rows)


if __name__ == "__main__":
    main()
