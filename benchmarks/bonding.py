"""What a flag of bonding that training never had adds, by how rare counts as new.

Uncertainty with bonding (``fitted.remember_bonding``) is asked about kinds that chose neither model
nor flag, about adsorbates that training never had on a metal, and about ordinary frames.

    python benchmarks/bonding.py MODEL.nnp MODEL.uq [--every 3] [--record]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.io import read
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp import uncertainty

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "shipped"
sys.path.insert(0, str(SHIPPED))

from evaluate_wide import very_wrong, wrongness  # noqa: E402

LEAST = (1, 3, 5, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("uncertainty")
    parser.add_argument("--every", type=int, default=3, help="of the ordinary frames")
    record_option(parser)
    options = parser.parse_args()

    model = ase_nnp.load_model(options.model, device="cpu")
    fitted = uncertainty.load_uncertainty(options.uncertainty, model)
    known, fitted.bonding = fitted.bonding, None
    if known is None:
        raise SystemExit(f"{options.uncertainty} holds no bonding: fit it with remember_bonding.")
    wide = [a for a in ase_nnp.open_dataset(SHIPPED / "wide.extxyz.xz")
            if a.info["split"] == "wide-test"]  # fmt: skip
    found = ase_nnp.predict(fitted, wide, ("energy", "forces", "ood_flag"), progress=False)
    wrong = np.array([very_wrong(*wrongness(*row)[:2]) for row in zip(wide, found, strict=True)])
    flags = np.array([bool(row["ood_flag"]) for row in found])
    other = read(SHIPPED / "unseen.extxyz", ":")
    unseen = [a for a in other if "+" in a.info["system"]]
    ordinary = [a for a in ase_nnp.open_dataset(SHIPPED / "test.extxyz.xz")
                if a.info["split"] == "test"][:: options.every]  # fmt: skip

    def new(structures, least):
        one = replace(known, least=least)
        return np.array([bool(one.novel(fitted.make_graph([a])).any()) for a in structures])

    marks = [flags, *(flags | new(wide, least) for least in LEAST)]
    rows = [
        ["very wrong structures marked", *(f"{100 * m[wrong].mean():.1f} %" for m in marks)],
        ["marks that are right", *(f"{100 * wrong[m].mean():.1f} %" for m in marks)],
    ]
    for name, structures in (("adsorbates never seen, new", unseen), ("ordinary, new", ordinary)):
        counts = [f"{new(structures, least).sum()} of {len(structures)}" for least in LEAST]
        rows.append([name, "", *counts])
    columns = ["", "flag alone", *(f"n = {least}" for least in LEAST)]
    for row in (columns, *rows):
        print(" | ".join(row))
    print(f"chosen by the training set: n = {known.least}, levels {', '.join(known.counts)}")
    if options.record:
        write_measurement("bonding", columns, rows)


if __name__ == "__main__":
    main()
