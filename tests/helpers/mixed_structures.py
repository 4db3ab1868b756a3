"""Slabs, a crystal, a molecule and a wire for the tests of batched runs."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms, FixCartesian


def slab(size: int, seed: int, metal: str = "Cu") -> Atoms:
    atoms = fcc111(metal, (size, size, 2), a=3.0, vacuum=6.0, periodic=False)
    atoms.pbc = (True, True, False)
    add_adsorbate(atoms, "O", 1.7, "fcc")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 2))
    atoms.rattle(0.08, seed=seed)
    return atoms


def mixed() -> list[Atoms]:
    """Slabs, a crystal, a molecule and a wire with a fixed axis: sizes and pbc of all kinds."""
    crystal = bulk("Cu", a=2.9, cubic=True) * (2, 1, 1)
    crystal.rattle(0.1, seed=3)
    cluster = Atoms("Cu5", positions=np.random.default_rng(4).normal(size=(5, 3)) * 1.9)
    wire = Atoms("Cu3", positions=[[0, 0, 0], [2.3, 0.4, 0], [4.9, 0, 0.3]], cell=[7.2, 0, 0])
    wire.pbc = (True, False, False)
    wire.set_constraint(FixCartesian([1, 2], mask=(True, False, False)))
    return [slab(2, 1), crystal, cluster, slab(3, 2), wire]
