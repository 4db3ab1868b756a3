"""Forces and energies of DFT structures of one metal: the model and its teacher against PBE.

    python data/shipped/dft_forces.py MODEL.nnp Mo.extxyz [-o report.json]

For the ``mlearn`` set of Zuo et al. (J. Phys. Chem. A 124, 731 (2020)): perfect and strained
crystals, slabs, molecular dynamics up to the melt. Totals of two DFT codes differ by a constant an
atom, so the median difference is taken off the energies.
"""

from __future__ import annotations

import numpy as np
from label import teacher
from measure import arguments, store

import ase_nnp
from ase_nnp import NNPCalculator

#: Every second structure: the teacher takes a second for one.
EVERY = 2


def compared(calc, frames: list) -> dict[str, float]:
    """Return mean absolute errors."""
    energies, forces = [], []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calc
        energies.append((atoms.get_potential_energy() - frame.get_potential_energy()) / len(frame))
        forces.append(np.abs(atoms.get_forces() - frame.get_forces()).ravel())
    off = np.array(energies) - np.median(energies)
    return {
        "energy_mae_meV_per_atom": round(1e3 * float(np.abs(off).mean()), 1),
        "force_mae_meV_per_A": round(1e3 * float(np.concatenate(forces).mean())),
    }


def main() -> None:
    """Both models."""
    args = arguments(__doc__, "frames")
    frames = list(ase_nnp.open_dataset(args.frames))[::EVERY]
    calc = NNPCalculator(args.model, device="cpu", uncertainty=False)
    found = {"structures": len(frames), "elements": sorted(set(frames[0].symbols))}
    found |= {"model": compared(calc, frames), "teacher": compared(teacher(), frames)}
    store(args, "dft_forces", found)


if __name__ == "__main__":
    main()
