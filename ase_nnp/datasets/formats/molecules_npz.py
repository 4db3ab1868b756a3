"""Trajectories of one molecule in ``.npz``: MD17 and its revision, and sGDML's form of them.

rMD17 (Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)) has
``nuclear_charges``, ``coords``, ``energies``, ``forces``; MD17 and sGDML ``z``, ``R``, ``E``,
``F``. Units are kcal/mol and Angstrom where the file (``e_unit``, ``r_unit``) does not say others.
sGDML's ``lattice`` has the lattice vectors in columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.array_files import NpzArrays, npz_names
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import Shard
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "MoleculeShard", "open_molecules"]

#: Atomic numbers, positions, energies, forces.
_NAMES = (("nuclear_charges", "coords", "energies", "forces"), ("z", "R", "E", "F"))
#: Arrays that say nothing of a structure: names, statistics and what is derived from the others.
_ASIDE = frozenset(
    [
        *("name", "theory", "md5", "type", "code_version", "r_unit", "e_unit", "perms"),
        *(f"{what}_{of}" for what in "EF" for of in ("min", "max", "mean", "var")),
        *("old_indices", "old_energies", "old_forces", "lattice"),
    ]
)
_KCAL_MOL = 0.043364104241800934  # 4184 J / (N_A e), exact in SI
_HARTREE, _BOHR = 27.211386245988, 0.529177210903  # CODATA 2018
_ENERGY = {
    **{"kcal/mol": _KCAL_MOL, "kj/mol": _KCAL_MOL / 4.184, "ev": 1.0, "mev": 1e-3},
    **{"hartree": _HARTREE, "ha": _HARTREE},
}
_LENGTH = {"ang": 1.0, "angstrom": 1.0, "a": 1.0, "bohr": _BOHR, "nm": 10.0}


class MoleculeShard(Shard):
    """One ``.npz`` file: M frames of the same N atoms.

    Parameters
    ----------
    path
        The file.
    energy_unit, length_unit
        Overrule what the file says, or kcal/mol and Angstrom; forces are energy over length.
    """

    format = "md17"

    def __init__(
        self, path: str | Path, energy_unit: str | None = None, length_unit: str | None = None
    ) -> None:
        self.path = Path(path)
        self.options = (energy_unit, length_unit)
        self._arrays = NpzArrays(self.path)
        names = next((n for n in _NAMES if n[0] in self._arrays and n[1] in self._arrays), None)
        if names is None:
            raise DatasetError(
                f"no trajectory of a molecule; the arrays are {self._arrays.names or 'none'}, "
                "wanted are nuclear_charges and coords, or z and R",
                path=self.path,
            )
        self._names = names
        self._energy = _unit(energy_unit or self._said("e_unit", "kcal/mol"), _ENERGY, self.path)
        self._length = _unit(length_unit or self._said("r_unit", "Ang"), _LENGTH, self.path)

        positions = self._arrays[names[1]]
        if positions.ndim != 3 or positions.shape[2] != 3 or not positions.size:
            raise DatasetError(f"{names[1]} has shape {positions.shape}", path=self.path)
        self._frames, self._atoms = map(int, positions.shape[:2])
        self._check_shapes()
        self._cell = self._lattice()
        self._others = sorted({*self._arrays.names} - {*names} - _ASIDE)
        self.energy_kind = "total" if names[2] in self._arrays else None

    def _said(self, name: str, usual: str) -> str:
        if name not in self._arrays:
            return usual
        value = self._arrays[name].reshape(-1)[0]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _lattice(self) -> Any:
        if "lattice" not in self._arrays:
            return None
        lattice = self._arrays["lattice"]
        if lattice.shape != (3, 3):
            raise DatasetError(f"lattice has shape {lattice.shape}, wanted (3, 3)", path=self.path)
        return np.array(lattice, float).T * self._length

    def _check_shapes(self) -> None:
        frames, atoms = self._frames, self._atoms
        numbers, _, energy, forces = self._names
        wanted: dict[str, list[tuple[int, ...]]] = {
            numbers: [(atoms,), (frames, atoms)],
            energy: [(frames,), (frames, 1)],
            forces: [(frames, atoms, 3)],
        }
        for name, shapes in wanted.items():
            if name in self._arrays and self._arrays[name].shape not in shapes:
                raise DatasetError(
                    f"{name} has shape {self._arrays[name].shape}, wanted {shapes[0]}",
                    path=self.path,
                )

    def __len__(self) -> int:
        return self._frames

    def natoms(self) -> Any:
        """Return the atom counts, all the same."""
        return np.full(len(self), self._atoms, np.int64)

    def read(self, index: int) -> Sample:
        """Return one frame, in eV and Angstrom."""
        numbers, positions, energy, forces = self._names
        table = self._arrays[numbers]
        # Copies: rows of a mapped file would keep the file open in whatever holds them.
        sample: Sample = {
            "atomic_numbers": np.array(table if table.ndim == 1 else table[index]),
            "positions": np.array(self._arrays[positions][index], float) * self._length,
            "cell": np.zeros((3, 3)) if self._cell is None else self._cell,
            "pbc": np.full(3, self._cell is not None),
            "info": {"sid": index},
        }
        if self._others:
            sample["remarks"] = dict.fromkeys(self._others, "is left out (no array of MD17's)")
        if energy in self._arrays:
            value = float(np.reshape(self._arrays[energy][index], ())[()])
            sample["energy"] = value * self._energy
        if forces in self._arrays:
            unit = self._energy / self._length
            sample["forces"] = np.array(self._arrays[forces][index], float) * unit

        # rMD17 numbers its frames by their place in the original MD17 trajectory.
        if "old_indices" in self._arrays and self._arrays["old_indices"].shape == (len(self),):
            sample["info"]["old_index"] = int(self._arrays["old_indices"][index])
        return sample

    def close(self) -> None:
        """Drop what is held of the file."""
        self._arrays.close()


def _unit(name: str, known: dict[str, float], path: Path) -> float:
    factor = known.get(name.strip().lower())
    if factor is None:
        raise DatasetError(f"unit {name!r} is not known; choose from {', '.join(known)}", path=path)
    return factor


def sniff(path: Path) -> bool:
    """Whether a file is a ``.npz`` with atomic numbers and positions of frames."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    names = npz_names(path)
    return any(numbers in names and positions in names for numbers, positions, *_ in _NAMES)


def open_molecules(
    files: Sequence[Path],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open ``.npz`` files of MD17's kinds as one dataset.

    Parameters
    ----------
    files
        The files; several are shards, read in this order.
    energy_unit, length_unit
        Overrule the file, or kcal/mol and Angstrom: kcal/mol, kJ/mol, eV, meV, Hartree; Angstrom,
        Bohr, nm.
    energy_kind
        Convert to this kind on reading.

    Raises
    ------
    UnsafeFileError
        An array holds Python objects.
    """
    shards = [MoleculeShard(path, energy_unit, length_unit) for path in files]
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="md17",
    summary="MD17, rMD17 and sGDML trajectories in .npz",
    sniff=sniff,
    open=open_molecules,
)
