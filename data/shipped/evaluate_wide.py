"""Errors by kind where training never saw the kind or the system; flags and intervals there.

    python data/shipped/evaluate_wide.py MODEL.nnp WIDE TEST [--uncertainty MODEL.uq] [-o ...]

A structure counts as *very wrong* where the root mean square error of its force components is above
0.3 eV/A or its energy is off by more than 50 meV an atom.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from ase import Atoms
from measure import arguments, store
from train import load_frames

import ase_nnp

WRONG_FORCE, WRONG_ENERGY = 0.3, 0.05


def wrongness(atoms: Atoms, found: dict[str, Any]) -> tuple[float, float, float]:
    """Root mean square force error, energy error an atom, and the error of the energy."""
    gap = found["forces"] - atoms.get_forces(apply_constraint=False)
    energy = found["energy"] - atoms.get_potential_energy()
    return float(np.sqrt(np.mean(gap**2))), abs(energy) / len(atoms), energy


def very_wrong(force: float, energy: float) -> bool:
    """Whether nobody should believe the result."""
    return force > WRONG_FORCE or energy > WRONG_ENERGY


def by_kind(frames: list[Atoms], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors of each kind, how many are very wrong, and how many of those are flagged."""
    groups = defaultdict(list)
    for atoms, result in zip(frames, found, strict=True):
        groups[atoms.info["kind"]].append((atoms, result))

    table = {}
    for kind, members in groups.items():
        errors = np.array([wrongness(a, r)[:2] for a, r in members])
        wrong = np.array([very_wrong(*e) for e in errors])
        row = {
            "structures": len(members),
            "energy_mae_meV_per_atom": round(1e3 * float(errors[:, 1].mean()), 1),
            "energy_median": round(1e3 * float(np.median(errors[:, 1])), 1),
            "force_rmse_median_eV_per_A": round(float(np.median(errors[:, 0])), 3),
            "very_wrong": int(wrong.sum()),
        }
        if "ood_flag" in members[0][1]:
            flags = np.array([bool(r["ood_flag"]) for _, r in members])
            row["flagged"] = int(flags.sum())
            row["very_wrong_flagged"] = int((flags & wrong).sum())
        if "energy_std" in members[0][1]:
            inside = [abs(wrongness(a, r)[2]) <= 1.645 * r["energy_std"] for a, r in members]
            row["inside_90"] = round(float(np.mean(inside)), 3)
        table[kind] = row

    return table


def totals(table: dict[str, Any]) -> dict[str, Any]:
    """Recall and precision of the flag, and the coverage, over all kinds."""
    count = {k: sum(r[k] for r in table.values() if k in r) for k in ("structures", "very_wrong")}
    if not all("flagged" in r for r in table.values()):
        return count

    flagged = sum(r["flagged"] for r in table.values())
    both = sum(r["very_wrong_flagged"] for r in table.values())
    inside = sum(r["inside_90"] * r["structures"] for r in table.values())
    return {
        **count,
        "flagged": flagged,
        "recall": round(both / max(1, count["very_wrong"]), 3),
        "precision": round(both / max(1, flagged), 3),
        "inside_90": round(inside / count["structures"], 3),
        "not_wrong_flagged": round(
            (flagged - both) / max(1, count["structures"] - count["very_wrong"]), 3
        ),
    }


def main() -> None:
    """Two sets: wide kinds, and the first model's own domain."""
    args = arguments(__doc__, "wide", "old")
    model = ase_nnp.load_model(args.model, device="cpu")
    names: tuple[str, ...] = ("energy", "forces")

    if args.uncertainty:
        model = ase_nnp.uncertainty.attach(model, args.uncertainty)
        names += ("energy_std", "ood_flag", "ood_score")

    for key, path in (("wide", args.wide), ("domain", args.old)):
        frames = load_frames(path)
        wanted = "wide-test" if key == "wide" else "test"
        frames = [a for a in frames if a.info["split"] == wanted]
        if key == "domain":
            for atoms in frames:
                atoms.info["kind"] = "relaxations"
        found = ase_nnp.predict(model, frames, properties=names, progress=False)
        table = by_kind(frames, found)
        store(args, key, {**table, "all": totals(table)})


if __name__ == "__main__":
    main()
