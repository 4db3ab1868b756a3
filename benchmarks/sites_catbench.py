"""Coverage-dependent adsorption on fcc(111) (PBE) as a CatBench set, and how models rank its sites.

    python benchmarks/sites_catbench.py DFT.json.xz OUT_adsorption.json [MODEL ...] [--all]

DFT.json.xz is the table of Xu and Kitchin (J. Phys. Chem. C 118, 25597 (2014)): relaxed structures
and adsorption energies an adsorbate, against the free atom. One clean slab a metal serves all its
reactions, so that energies of sites are compared as they are; single points on DFT structures.
Without ``--all`` models answer H, C, N, O at a quarter of a layer only.
"""

from __future__ import annotations

import argparse
import ast
import json
import lzma
import warnings
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from measurement import record_option, write_measurement

from ase_nnp import load_model, open_dataset
from ase_nnp.training.benchmarks.adsorption import Reaction, adsorption_benchmark, reactions_of
from ase_nnp.training.benchmarks.exchange import catbench_reactions, write_catbench_result


def structure(row: dict) -> Atoms:
    """The relaxed slab of a row, its adsorbate tagged."""
    symbols, cell, places = (
        ast.literal_eval(row[k]) if isinstance(row[k], str) else row[k]
        for k in ("symbols", "cell", "pos")
    )
    atoms = Atoms(symbols, places, cell=cell, pbc=True)
    atoms.set_tags([1 if s == row["metal"] else 2 for s in atoms.symbols])
    return atoms


def reactions_of_table(rows: list[dict]) -> list[Reaction]:
    """One reaction a row: slab and free atoms to adslab; only differences of energies are known."""
    slabs: dict[str, Atoms] = {}
    reactions = []
    for row in rows:
        adslab = structure(row)
        metal, adsorbate = row["metal"], row["adsorbate"]
        slab = slabs.setdefault(metal, adslab[adslab.get_tags() == 1])
        count = int((adslab.get_tags() == 2).sum())
        gas = Atoms(adsorbate, [[5, 5, 5]], cell=[10, 10.1, 10.2], pbc=True)
        energy = count * float(row["energy"])
        parts = {"star": slab, f"{adsorbate}star": adslab, f"{adsorbate}gas": gas}
        for atoms, value in zip(parts.values(), (0.0, energy, 0.0), strict=True):
            atoms.calc = SinglePointCalculator(atoms, energy=value)
        stoichiometry = dict(zip(parts, (-1.0, 1.0, -float(count)), strict=True))
        name = f"{metal}_{adsorbate}_{row['site']}_{row['coverage']}"
        reactions.append(Reaction(name, f"*{adsorbate}", energy, parts, stoichiometry))
    return reactions


def main() -> None:
    """Write the set, read it back, and print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--all", action="store_true")
    record_option(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    rows = json.loads(lzma.decompress(args.table.read_bytes()))
    written = reactions_of_table(rows)
    catbench_reactions(written, args.out)
    reactions = reactions_of(open_dataset(args.out))
    assert len(reactions) == len(written)
    assert np.allclose([r.energy for r in reactions], [r.energy for r in written], atol=1e-9)
    print(f"{len(reactions)} reactions in {args.out}")
    if not args.all:
        reactions = [
            r for r in reactions if r.name.split("_")[1] in "HCNO" and r.name.endswith("_0.25")
        ]
    rows = []
    for model in args.models:
        report, relaxed = adsorption_benchmark(load_model(model), reactions, name=model)
        metrics = {k: round(v, 4) for k, v in report.metrics.items()}
        print(json.dumps({"model": model, **metrics, "bars": report.bars}))
        write_catbench_result(report, reactions, relaxed, args.out.parent)
        count = f"{metrics['site_best']:.0f} of {metrics['site_groups']:.0f}"
        rows.append([model, count, f"{metrics['site_within_0.1']:.0f}", metrics["site_mae"]])
    if args.record:
        head = ["model", "same best site", "within 0.1 eV of it"]
        head += ["MAE of relative site energies, eV"]
        write_measurement("sites_catbench", head, rows, keep_others=True)


if __name__ == "__main__":
    main()
