"""What ``ase-nnp relax`` relaxes when no structure is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["example"]


def example() -> Atoms:
    """CO above a hollow of a small copper slab whose two lowest layers are fixed."""
    from ase.build import add_adsorbate, fcc111, molecule
    from ase.constraints import FixAtoms

    atoms: Atoms = fcc111("Cu", (2, 2, 4), a=3.63, vacuum=7.0)
    atoms.set_constraint(FixAtoms(mask=[atom.tag > 2 for atom in atoms]))
    carbon = molecule("CO").symbols.index("C")
    co = molecule("CO")
    co.rotate(co.positions[1 - carbon] - co.positions[carbon], "z")
    add_adsorbate(atoms, co, 1.6, "fcc", mol_index=carbon)
    return atoms
