"""Which atom of a molecule binds to a surface, where nobody says: the one with a free valence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ase_nnp.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["binding_atom"]

#: Bonds that an element makes; others are taken to be satisfied.
VALENCE = {"H": 1, "C": 4, "N": 3, "P": 3, "O": 2, "S": 2}
#: Of a molecule without a free valence, one of these binds, the first kind that it has: they have
#: lone pairs.
BINDS_FIRST = ("N", "P", "S", "O", "C")
#: Two atoms are bonded up to so many sums of their covalent radii.
BONDED = 1.25


def binding_atom(atoms: Atoms) -> int:
    """Return the index of the atom by which a molecule or fragment binds.

    What bonds leave free of an atom's valence decides: carbon in CO, CN, CHO and CH2OH, oxygen in
    OH and OCH3. Where nothing is free, an atom with a lone pair binds, as in H2O and NH3.

    Raises
    ------
    StructureError
        There is no atom.
    """
    symbols = atoms.get_chemical_symbols()
    if not symbols:
        raise StructureError("The adsorbate has no atoms.")
    free = _free_valences(atoms)
    if free.max() > 0:
        return int(free.argmax())
    for element in BINDS_FIRST:
        if element in symbols:
            return int(symbols.index(element))
    return 0


def _free_valences(atoms: Atoms) -> np.ndarray:
    from ase.data import covalent_radii

    symbols = np.array(atoms.get_chemical_symbols())
    radii = covalent_radii[atoms.numbers]
    bonded = atoms.get_all_distances() < BONDED * (radii[:, None] + radii)
    np.fill_diagonal(bonded, False)

    neighbors = bonded.sum(axis=1)
    valence = np.array([VALENCE.get(s, n) for s, n in zip(symbols, neighbors, strict=True)])
    # Nitrogen and phosphorus with two oxygens or more have five bonds, as in nitro groups.
    oxygens = (bonded & (symbols == "O")).sum(axis=1)
    valence[(valence == 3) & (oxygens > 1)] = 5
    free = np.clip(valence - neighbors, 0, None)

    # Neighbors that both have a free valence make a multiple bond of it, the emptiest first.
    while True:
        shared = np.where(bonded, np.minimum(free[:, None], free[None]), 0)
        one, two = np.unravel_index(shared.argmax(), shared.shape)
        if shared[one, two] == 0:
            return np.asarray(free)
        free[[one, two]] -= 1
