"""SchNetPack's databases: labels in the ``data`` of an ASE row, their units in the metadata.

SchNetPack, and nabla2DFT after it, keep ``energy``, ``forces`` and whatever else under names of
their own in ``row.data``, with ``_property_unit_dict`` and ``_distance_unit`` in the metadata of
the database, and in ``atomrefs`` the energies of single atoms by atomic number, in the unit of the
property. Everything with a known unit comes in eV, Angstrom and e; a label of the row's calculator
counts before one in ``data``.

Whether atomrefs are already subtracted does not stand in the file. Totals are close to the sum of
the atoms' energies, formation energies are close to zero: what is nearer is taken. A formation
energy becomes a total by adding ``info["reference_energy"]``, the sum of the atomrefs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_nnp.datasets.formats.hdf5_h5md import unit_factor
from ase_nnp.datasets.labels import full_stress
from ase_nnp.datasets.sample import Sample
from ase_nnp.errors import DatasetError

__all__ = ["SchNetPackUnits"]

Array = np.ndarray[Any, Any]

_UNITS = "_property_unit_dict"
#: Labels by SchNetPack's names for them; others are named with ``keys=``. In its QM9 the energy is
#: U0, as for the reader of QM9's own files.
_LABELS = {
    "energy": "energy",
    "energy_U0": "energy",
    "forces": "forces",
    "stress": "stress",
    "dipole_moment": "dipole",
    "dipole": "dipole",
}
_ALIASES = {"D": "Debye", "h": "Hartree"}
_DEBYE = 0.20819433270935597  # e Angstrom, of ase.units.Debye


class SchNetPackUnits:
    """What the metadata of a database say of the units and references of its ``data``.

    Parameters
    ----------
    metadata
        The metadata of the database.
    units
        Units by property in place of those of the metadata, for files that do not say them.
    """

    def __init__(self, metadata: Any, units: Mapping[str, str] | None = None) -> None:
        metadata = metadata if isinstance(metadata, dict) else {}
        said = metadata.get(_UNITS)
        self.units: dict[str, Any] = {**(said if isinstance(said, dict) else {}), **(units or {})}
        self.known = isinstance(said, dict) or bool(units)
        for unit in (units or {}).values():
            _factor(unit)  # what is misspelt is refused before anything is read
        self.length = 1.0 if not self.known else _factor(metadata.get("_distance_unit", "Ang"))
        references = metadata.get("atomrefs") if self.known else None
        self.references = references if isinstance(references, dict) else {}

    def apply(self, sample: Sample) -> None:
        """Convert what ``info`` holds of ``data``, and take labels that the row does not have."""
        if not self.known:
            return
        if self.length != 1.0:
            sample["positions"] = sample["positions"] * self.length
            sample["cell"] = np.asarray(sample["cell"]) * self.length

        info = sample["info"]
        for name, unit in self.units.items():
            if name in info:
                info[name] = self._converted(name, info[name], unit)
        if "energy" not in sample and "forces" not in sample:
            self._take_labels(sample)
        self._reference(sample)

    def _converted(self, name: str, value: Any, unit: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            return value
        converted = array * _factor(unit)
        return float(converted.reshape(())) if name == "energy" and array.size == 1 else converted

    def _take_labels(self, sample: Sample) -> None:
        info = sample["info"]
        for name, label in _LABELS.items():
            if name not in info or name not in self.units or label in sample:
                continue
            value = np.asarray(info[name], float)

            if label == "energy":
                if value.size != 1:
                    raise DatasetError(f"energy has {value.size} values, not one")
                sample["energy"] = float(value.reshape(()))
            elif label == "stress":
                sample["stress"] = full_stress(value)
            elif label == "forces":
                sample["forces"] = value
            else:
                sample.setdefault("results", {})[label] = value.ravel()

    def _reference(self, sample: Sample) -> None:
        name = "energy" if "energy" in sample["info"] else "energy_U0"
        table = self.references.get(name, self.references.get("energy"))
        if table is None or "energy" not in sample:
            return
        try:
            atoms = np.asarray(table, float) * _factor(self.units.get(name, "eV"))
            reference = float(atoms.ravel()[sample["atomic_numbers"]].sum())
        except (ValueError, TypeError, IndexError) as error:
            raise DatasetError(f"atomrefs of this database do not fit ({error})") from None
        if reference:
            energy = sample["energy"]
            total = abs(energy - reference) < abs(energy)
            sample["info"].setdefault("energy_kind", "total" if total else "formation")
            sample["info"].setdefault("reference_energy", reference)


def _factor(unit: Any) -> float:
    """Return the factor to eV, Angstrom and e of ``"kcal/mol/Ang"``, ``"Hartree"``, ``"Debye"``."""
    if unit in (None, "", "1"):
        return 1.0
    factor = 1.0

    # "kcal/(mol Ang)" divides by both.
    text = re.sub(
        r"/\s*\(([^()]*)\)",
        lambda m: "/" + "/".join(m[1].split()),
        str(unit).replace("**", "^").replace("*", " "),
    )

    for number, part in enumerate(text.split("/")):
        for word in part.split():
            word = _ALIASES.get(word, word)
            one = _DEBYE if word == "Debye" else unit_factor(word)
            factor *= 1 / one if number else one

    return factor
