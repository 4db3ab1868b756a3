"""The teacher's energies of the atoms of labeled structures, to learn from beside the totals.

    python data/shipped/label_atoms.py LABELS.extxyz.xz ATOMS.npz

A total is one number for all atoms; its parts say which atom is wrong (S. Matin et al., Digital
Discovery 2025, doi:10.1039/d5dd00085h). They are no observables: what they teach is how the teacher
shares a total out. Written whole or not at all, in the order of the structures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import ase_nnp

#: The model is asked in our own implementation, whose energies are the teacher's to 3e-5 eV.
CLOSE = 1e-3


def checkpoint() -> Path:
    """The file of weights that comes with ``sevenn``."""
    from sevenn import _const

    return Path(_const.SEVENNET_0_11Jul2024)


def main() -> None:
    """Write all atoms' energies behind one another, eV, and the number of atoms of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ase_nnp.load_model(checkpoint(), device="cpu").eval()
    frames = list(ase_nnp.open_dataset(args.labels))
    parts = []

    for atoms in tqdm(frames):
        with torch.no_grad():
            found = model.energies(model.make_graph(atoms))
        energies = found["energies"].numpy().astype(np.float32)
        wrong = abs(float(found["energy"]) - atoms.get_potential_energy())
        # Pairs near the nuclei are labeled by another potential, whose parts the teacher lacks.
        parts.append(energies if wrong < CLOSE else np.full_like(energies, np.nan))

    part = args.output.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez_compressed(file, energies=np.concatenate(parts), atoms=[len(p) for p in parts])
    part.replace(args.output)


if __name__ == "__main__":
    main()
