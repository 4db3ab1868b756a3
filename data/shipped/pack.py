"""Join labels into one file for training, one of held-back kinds and one of first tests.

    python data/shipped/pack.py OUT_FOLDER LABELS...

Each of LABELS is a folder of shards or a dataset. What has no file there is left as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from train import load_frames

from ase_nnp import write_dataset

#: File by the pattern of its shards.
FILES = {
    "train": ["train-*.extxyz"],
    "test": ["test-*.extxyz"],
    "wide": ["wide-test-*.extxyz", "threshold-*.extxyz"],
}


def main(out: Path, sources: list[Path]) -> None:
    """Write each file that has frames."""
    for name, patterns in FILES.items():
        found = []
        for source in sources:
            if source.is_dir():
                found += [a for p in patterns for a in load_frames(source, p)]
            elif source.name.startswith(name):
                found += load_frames(source)
        for atoms in found:  # more digits say nothing, and do not compress
            atoms.positions = atoms.positions.round(5)
            atoms.calc.results["forces"] = atoms.calc.results["forces"].round(5)
        if found:
            write_dataset(out / f"{name}.extxyz.xz", found, overwrite=True)
            print(name, len(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])
