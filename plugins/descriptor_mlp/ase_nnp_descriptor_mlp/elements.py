"""Properties of the elements H to Pu from pymatgen, in units of their spread."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np

__all__ = ["ELEMENT_PROPERTIES", "MAX_Z", "covalent_radii", "element_table", "masses"]

MAX_Z = 94

#: Names in pymatgen; a value that is not known counts as the mean of the known ones.
FROM_PYMATGEN = (
    "Z",
    "atomic_mass",
    "row",
    "group",
    "mendeleev_no",
    "X",
    "electron_affinity",
    "ionization_energy",
    "atomic_radius",
    "molar_volume",
    "melting_point",
)
SHELLS = "spdf"
ELEMENT_PROPERTIES = (
    *FROM_PYMATGEN,
    "covalent_radius",
    *(f"{shell}_valence" for shell in SHELLS),
)


@cache
def element_table() -> np.ndarray[Any, Any]:
    """Return the properties (MAX_Z + 1, P) float64, row ``Z``, each with mean 0 and std 1."""
    from pymatgen.core.periodic_table import Element

    rows = np.full((MAX_Z + 1, len(ELEMENT_PROPERTIES)), np.nan)
    radii = covalent_radii()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen tells of every value that is not known
        for z in range(1, MAX_Z + 1):
            element = Element.from_Z(z)
            values = [getattr(element, name, None) for name in FROM_PYMATGEN]
            shells = _valence(element.electronic_structure)
            known = [*values, radii[z], *(shells[shell] for shell in SHELLS)]
            rows[z] = [np.nan if value is None else float(value) for value in known]

    mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    return np.asarray(np.nan_to_num((rows - mean) / std))


def covalent_radii() -> np.ndarray[Any, Any]:
    """Return the covalent radii of Cordero et al. (2008), Angstrom, by atomic number."""
    from ase.data import covalent_radii as radii

    return np.asarray(radii[: MAX_Z + 1], dtype=float)


def masses() -> np.ndarray[Any, Any]:
    """Return the atomic masses, amu, by atomic number."""
    from ase.data import atomic_masses

    return np.asarray(atomic_masses[: MAX_Z + 1], dtype=float)


def _valence(structure: str) -> dict[str, int]:
    """Electrons outside the noble gas core of ``[Ar].3d6.4s2``, by shell."""
    count = dict.fromkeys(SHELLS, 0)
    for part in structure.split("."):
        if not part.startswith("["):
            count[part[1]] += int(part[2:])
    return count
