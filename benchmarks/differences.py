"""Coverage of intervals of energy differences, with and without what the two errors share.

Pairs of structures of one composition and cell are taken from a labeled file; the label of the
difference is compared with the 90 % interval from the model's own covariances, and with that of
the root of the sum of squares.

    python benchmarks/differences.py [MODEL] --data data/shipped/test.extxyz.xz --pairs 50

With ``--calibrate N`` a third row: the part of the covariances that N watched structures and N of
kinds which training never had ask for, each kind by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.uncertainty import calibrate_differences
from ase_nnp.uncertainty.differences import energies

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "shipped"


def pairs_of(path, count, seed=0):
    """Pairs of structures that differ in positions alone, at most one pair for each kind."""
    kinds = defaultdict(list)
    for atoms in ase_nnp.open_dataset(path):
        key = (atoms.get_chemical_formula(), tuple(np.round(atoms.cell.cellpar(), 2)))
        kinds[key].append(atoms)
    generator = np.random.default_rng(seed)
    chosen = [group for group in kinds.values() if len(group) > 1]
    order = generator.permutation(len(chosen))[:count]
    return [
        [chosen[k][i] for i in generator.choice(len(chosen[k]), 2, replace=False)] for k in order
    ]


def shared_part(model, count, seed=0):
    """Part of the covariances that watched structures and strange ones ask for, by kind."""
    sys.path.insert(0, str(SHIPPED))
    from train import split, trusted

    watched = [a for a in split(ase_nnp.open_dataset(SHIPPED / "train.extxyz.xz"))[1]]
    watched = [a for a in watched if a.info.get("kind", "relaxations") == "relaxations"]
    strange = ase_nnp.open_dataset(SHIPPED / "wide.extxyz.xz")
    strange = [a for a in strange if a.info.get("split") == "threshold"]

    rng, drawn = np.random.default_rng(seed), []
    for frames in (watched, strange):
        frames = [a for a in frames if trusted(a)]
        drawn += [[frames[k] for k in rng.permutation(len(frames))[:count]]]
    kinds = [name for name, part in zip(("watched", "new"), drawn, strict=True) for _ in part]
    return calibrate_differences(model, drawn[0] + drawn[1], kinds=kinds).shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data", default="data/shipped/test.extxyz.xz")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--calibrate", type=int, default=0, metavar="N")
    record_option(parser)
    options = parser.parse_args()

    model = ase_nnp.load_model(options.model)
    pairs = pairs_of(options.data, options.pairs)
    observed = energies(model, [atoms for pair in pairs for atoms in pair])
    labels = np.array([[a.get_potential_energy() for a in pair] for pair in pairs])
    error = np.array([float(a - b) for a, b in zip(observed[::2], observed[1::2], strict=True)])
    error -= labels[:, 0] - labels[:, 1]

    z90 = 1.645
    first, second = observed[::2], observed[1::2]
    widths = {
        "correlated": [(a - b).std for a, b in zip(first, second, strict=True)],
        "as if independent": [np.hypot(a.std, b.std) for a, b in zip(first, second, strict=True)],
    }
    if options.calibrate:
        part = shared_part(model, options.calibrate)
        squares = [np.square(widths[name]) for name in ("correlated", "as if independent")]
        mixed = part * squares[0] + (1 - part) * squares[1]
        widths[f"correlated in the part {part:.3f}"] = np.sqrt(mixed)
    print(f"{len(pairs)} pairs; mean |error of a difference| {np.abs(error).mean():.4f} eV")
    rows = []
    for name, std in widths.items():
        inside = np.abs(error) <= z90 * np.array(std)
        held, mean = 100 * inside.mean(), np.mean(std)
        print(f"{name:18s} 90 % interval holds {held:.0f} %, mean std {mean:.4f} eV")
        rows.append([name, f"{held:.0f} %", mean])
    if options.record:
        head = ["90 % interval of the difference", "holds", "mean standard deviation (eV)"]
        values = {"mean_error_eV": float(np.abs(error).mean())}
        write_measurement("differences", head, rows, values=values)


if __name__ == "__main__":
    main()
