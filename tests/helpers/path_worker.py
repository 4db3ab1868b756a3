"""Two bands in a process that others kill."""

from __future__ import annotations

import sys

from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

import ase_nnp
from ase_nnp.workflows.paths import reaction_paths


def hop(host, guest):
    slab = fcc100(host, (2, 2, 2))
    add_adsorbate(slab, guest, 1.7, "hollow")
    slab.center(axis=2, vacuum=4.0)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in slab]))
    final = slab.copy()
    final[-1].x += final.cell[0, 0] / 2
    return slab, final


def run(folder, progress=None):
    return reaction_paths(
        [hop("Al", "Au"), hop("Cu", "Au")],
        ase_nnp.from_ase(EMT),
        images=3,
        finish_at=0.2,
        folder=folder,
        checkpoint_every=0.0,
        progress=progress,
    )


if __name__ == "__main__":
    print("started", flush=True)
    run(sys.argv[1], lambda step, bands, text: print(step, flush=True))
