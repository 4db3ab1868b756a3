"""Peak memory of opening and reading a JSON file with the layout of MPtrj, of any size.

    python benchmarks/mptrj_memory.py --gigabytes 1.5

MPtrj (11 GB) is one object: material -> frame -> structure, energies, forces, stress, magmoms.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READ = """
import json, sys, time
from ase_nnp import open_dataset
start = time.process_time()
dataset = open_dataset(sys.argv[1])
opened = time.process_time() - start
n = len(dataset)
energies = [dataset[k].get_potential_energy() for k in (0, n // 3, n // 2, n - 1)]
# getrusage's figure begins with the parent's; this one does not.
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1e6
print(json.dumps([n, energies, opened, peak]))
"""


def frame(rng: random.Random, atoms: int, energy: float) -> dict:
    """Return one entry as MPtrj has them."""
    sites = []
    for _ in range(atoms):
        abc = [rng.random() for _ in range(3)]
        sites.append(
            {
                "species": [{"element": "Fe", "occu": 1}],
                "abc": abc,
                "xyz": [5 * x for x in abc],
                "label": "Fe",
                "properties": {},
            }
        )
    lattice = {"matrix": [[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0]], "pbc": [True] * 3}
    return {
        "structure": {"@class": "Structure", "lattice": lattice, "sites": sites},
        "uncorrected_total_energy": energy,
        "corrected_total_energy": energy,
        "energy_per_atom": energy / atoms,
        "ef_per_atom": energy / atoms,
        "force": [[rng.gauss(0, 1) for _ in range(3)] for _ in range(atoms)],
        "stress": [[rng.gauss(0, 1) for _ in range(3)] for _ in range(3)],
        "magmom": [rng.random() for _ in range(atoms)],
        "bandgap": 0.0,
        "mp_id": "mp-1",
    }


def write(path: Path, size: int) -> int:
    """Write a file of about that size, with the energy -k of frame k; return the frames in it."""
    rng, count, written, material = random.Random(0), 0, 1, 0
    # Drawing numbers takes most of the time, so a few structures are used again.
    texts = [json.dumps(frame(rng, 31, -123456.5)) for _ in range(50)]
    with path.open("w") as stream:
        stream.write("{")
        while written < size:
            entries = []
            for number in range(11):  # frames of a material, on average
                text = texts[rng.randrange(50)].replace("-123456.5", f"{-count - 0.5}")
                entries.append(f'"mp-{material}-{number}-0": {text}')
                count += 1
            piece = f'{", " * (material > 0)}"mp-{material}": {{{", ".join(entries)}}}'
            stream.write(piece)
            written += len(piece)
            material += 1
        stream.write("}")
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "MPtrj.json"
        start = time.process_time()
        count = write(path, int(options.gigabytes * 1e9))
        size, seconds = path.stat().st_size / 1e9, time.process_time() - start
        print(f"{size:.2f} GB, {count} frames, written in {seconds:.0f} s CPU")
        done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True)
        if done.returncode:
            print(done.stderr)
            return 1
        frames, energies, opened, peak = json.loads(done.stdout)
        expected = [-k - 0.5 for k in (0, count // 3, count // 2, count - 1)]
        right = frames == count and energies == expected
        print(f"{frames} frames, opened in {opened:.0f} s CPU, peak {peak:.2f} GB; right: {right}")
        return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
