"""Join the shards of ``label.py`` into one training and one test file.

python data/shipped/pack.py LABELS OUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from train import load_frames

from ase_nnp import write_dataset

if __name__ == "__main__":
    labels, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name in ("train", "test"):
        found = load_frames(labels, f"{name}-*.extxyz")
        for atoms in found:  # more digits say nothing, and do not compress
            atoms.positions = atoms.positions.round(5)
            atoms.calc.results["forces"] = atoms.calc.results["forces"].round(5)
        write_dataset(out / f"{name}.extxyz.xz", found, overwrite=True)
        print(name, len(found))
