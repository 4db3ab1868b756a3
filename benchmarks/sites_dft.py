"""Adsorption sites and energies on fcc(111) against DFT (PBE): H, C, N, O at a quarter of a layer.

    python benchmarks/sites_dft.py MODEL DFT.json.xz [-o report.json]

DFT.json.xz is the table of Xu and Kitchin (J. Phys. Chem. C 118, 25597 (2014)) with relaxed
structures and energies against the free atom. Energies are taken at the DFT geometries, or with
``--relax`` where the model's own relaxation from there ends, each end counted for the DFT site that
it is nearest to. Free atoms are no business of these models: one constant an adsorbate is fitted to
the five metals. MODEL is a name or a file, as for ``NNPCalculator``.
"""

from __future__ import annotations

import argparse
import ast
import json
import lzma
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from measurement import record_option, write_measurement

from ase_nnp import NNPCalculator

ADSORBATES = ("H", "C", "N", "O")


def structure(row: dict) -> Atoms:
    """The relaxed slab of a row."""
    symbols, cell, places = (
        ast.literal_eval(row[k]) if isinstance(row[k], str) else row[k]
        for k in ("symbols", "cell", "pos")
    )
    return Atoms(symbols, places, cell=cell, pbc=True)


def relaxed(atoms: Atoms, metal: str, calc) -> Atoms:
    """The end of a relaxation, the two lowest layers of four held as in the table."""
    moving = atoms.copy()
    heights = moving.positions[:, 2]
    levels = np.sort(heights[[s == metal for s in moving.symbols]])
    middle = levels[len(levels) // 2 - 1 : len(levels) // 2 + 1].mean()
    moving.set_constraint(FixAtoms(mask=heights < middle))
    moving.calc = calc
    BFGS(moving, logfile=None, maxstep=0.1).run(fmax=0.05, steps=60)
    return moving


#: Fractions of the primitive cell's vectors, 60 degrees apart, where fcc(111) has its sites.
PLACES = {
    "ontop": [(0, 0)],
    "bridge": [(1 / 2, 0), (0, 1 / 2), (1 / 2, 1 / 2)],
    "fcc": [(1 / 3, 1 / 3)],
    "hcp": [(2 / 3, 2 / 3)],
}


def ended_at(atoms: Atoms, adsorbate: str) -> str:
    """The site that an adsorbate on the 2 x 2 cell is nearest to, seen from above."""
    place = 2 * atoms.get_scaled_positions()[[s == adsorbate for s in atoms.symbols]][0, :2]
    aside = {}
    for site, points in PLACES.items():
        off = (place - np.array(points) + 0.5) % 1 - 0.5
        aside[site] = np.linalg.norm(off @ atoms.cell[:2] / 2, axis=1).min()
    return min(aside, key=aside.get)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("table", type=Path)
    parser.add_argument("--output", "-o", type=Path)
    parser.add_argument("--key", default="sites_dft")
    parser.add_argument("--relax", action="store_true", help="the model's own relaxations")
    record_option(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calc = NNPCalculator(args.model, device="cpu", uncertainty=False)
    clean: dict[str, float] = {}
    by_site = defaultdict(dict)
    ends = defaultdict(dict)
    for row in json.loads(lzma.decompress(args.table.read_bytes())):
        if row["adsorbate"] not in ADSORBATES or float(row["coverage"]) != 0.25:
            continue
        atoms = structure(row)
        metal = row["metal"]
        if metal not in clean:
            bare = atoms[[s == metal for s in atoms.symbols]]
            bare.calc = calc
            BFGS(bare, logfile=None).run(fmax=0.02, steps=40)
            clean[metal] = bare.get_potential_energy()
        atoms.calc = calc
        count = sum(s == row["adsorbate"] for s in atoms.symbols)
        pair = metal, row["adsorbate"]
        end = relaxed(atoms, metal, calc) if args.relax else atoms
        own = (end.get_potential_energy() - clean[metal]) / count
        site = row["site"]
        ends[pair][site] = ended_at(end, row["adsorbate"]) if args.relax else site
        by_site[pair][site] = (float(row["energy"]), float(own))

    near, best, pairs = 0, 0, {}
    for (metal, adsorbate), sites in by_site.items():
        dft = {s: e for s, (e, _) in sites.items()}
        lowest = min(sites, key=lambda s: sites[s][1])
        ours = ends[metal, adsorbate][lowest]  # a relaxation may leave its site
        gap = dft[ours] - min(dft.values())
        near += gap <= 0.1
        best += gap == 0
        pairs[f"{adsorbate} on {metal}"] = {"site": ours, "above_DFT_best_eV": round(gap, 3)}
    errors = []
    for adsorbate in ADSORBATES:
        both = np.array([e for (_, a), s in by_site.items() if a == adsorbate for e in s.values()])
        shift = np.median(both[:, 1] - both[:, 0])
        errors += list(np.abs(both[:, 1] - both[:, 0] - shift))
    value = {
        "pairs": len(by_site),
        "within_0.1_eV_of_DFT_best": int(near),
        "the_best_itself": int(best),
        "energies": len(errors),
        "energy_mae_eV": round(float(np.mean(errors)), 3),
        "each": pairs,
    }
    print(json.dumps({args.key: value}, indent=1))
    if args.record:
        head = ["", "within 0.1 eV of DFT's best", "the best itself"]
        head += ["energies, MAE (eV), one constant an adsorbate"]
        where = "its own relaxations" if args.relax else "at the DFT geometries"
        row = [f"`{args.model}`, {where}", f"{near} of {len(by_site)}", best, np.mean(errors)]
        write_measurement("sites_dft", head, [row], keep_others=True)
    if args.output:
        report = json.loads(args.output.read_text()) if args.output.exists() else {}
        report[args.key] = value
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
