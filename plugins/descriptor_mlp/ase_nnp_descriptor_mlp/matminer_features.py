"""Descriptors by matminer, where it is installed: compositions, orbitals, density."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from ase import Atoms

from ase_nnp.errors import ConfigError, StructureError

__all__ = ["matminer_descriptors", "matminer_names"]


def matminer_names() -> tuple[str, ...]:
    """Return the names of the descriptors, as matminer calls them."""
    return tuple(label for one in _featurizers() for label in one.feature_labels())


def matminer_descriptors(structures: Sequence[Atoms]) -> np.ndarray[Any, Any]:
    """Return the descriptors (B, F) of crystals; what matminer does not know is NaN.

    Raises
    ------
    StructureError
        A structure without three lattice vectors.
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    rows = []
    for atoms in structures:
        if atoms.cell.rank < 3:
            raise StructureError(
                f"{atoms.get_chemical_formula()} has {atoms.cell.rank} lattice vectors; matminer's "
                "descriptors are of crystals. Give it a cell, or take descriptors='own'."
            )
        crystal = AseAtomsAdaptor.get_structure(
            Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        )
        row: list[float] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that its tables lack
            for one in _featurizers():
                composition = "composition" in type(one).__module__
                row += one.featurize(crystal.composition if composition else crystal)
        rows.append(row)
    return np.asarray(rows, dtype=float)


@cache
def _featurizers() -> list[Any]:
    try:
        from matminer.featurizers.composition import ElementProperty, Stoichiometry, ValenceOrbital
        from matminer.featurizers.structure import DensityFeatures
    except ImportError:
        raise ConfigError("descriptors='matminer' needs matminer: pip install matminer") from None
    magpie = ElementProperty.from_preset("magpie")
    return [magpie, Stoichiometry(), ValenceOrbital(), DensityFeatures()]
