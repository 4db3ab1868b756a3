"""Intervals of adsorption energies of held-back systems, at the teacher's relaxed ends.

    python data/shipped/adsorption_bars.py MODEL.nnp TEST_LABELS --uncertainty MODEL.uq [-o JSON]

An adsorption energy is a difference of slab, clean slab and gases: what their errors have in common
cancels, so its interval tests what single energies do not. Gases as in ``evaluate.py``.
"""

from __future__ import annotations

import numpy as np
from evaluate import gas_energy, relaxations
from make_structures import LATTICE
from measure import arguments, store
from train import load_frames

import ase_nnp
from ase_nnp.uncertainty.differences import energies


def main() -> None:
    """How many energies are inside, and how wide the bars are."""
    args = arguments(__doc__, "labels")
    model = ase_nnp.uncertainty.attach(
        ase_nnp.load_model(args.model, device="cpu"), args.uncertainty
    )
    frames = load_frames(args.labels, "test-*.extxyz")
    runs = relaxations([a for a in frames if a.info["split"] != "settled"])
    alone = [k for k in runs if k.startswith("gas-") or k.endswith("-clean")]
    own = dict(zip(alone, energies(model, [runs[k][-1] for k in alone]), strict=True))
    theirs = {k: runs[k][-1].get_potential_energy() for k in alone}

    wrong, std = [], []
    for name in sorted(set(runs) - set(alone)):
        metal, facet, _, _ = name.split("-")
        end, clean = runs[name][-1], f"{metal}-{facet}-clean"
        adsorbate = end[[s not in LATTICE for s in end.symbols]]
        (whole,) = energies(model, [end])
        found = whole - own[clean] - gas_energy(adsorbate, own)
        label = end.get_potential_energy() - theirs[clean] - gas_energy(adsorbate, theirs)
        wrong.append(abs(float(found) - label))
        std.append(found.std)

    table = {
        "energies": len(wrong),
        "inside_90": round(float(np.mean(np.array(wrong) < 1.645 * np.array(std))), 3),
        "error_mae_eV": round(float(np.mean(wrong)), 3),
        "std_median_eV": round(float(np.median(std)), 3),
    }
    store(args, "adsorption_bars", table)


if __name__ == "__main__":
    main()
