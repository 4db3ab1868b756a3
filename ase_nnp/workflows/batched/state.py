"""Many structures laid end to end: one array a quantity, no loop over atoms.

Everything here is float64 numpy on the host, so that a batch moves as exactly as ASE would move
each structure alone; only positions and cells travel to the model's device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ase_nnp.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Array", "Batch", "Segments"]

Array = np.ndarray[Any, Any]


class Segments:
    """Rows that belong together and follow each other: the atoms of each structure.

    Parameters
    ----------
    sizes
        (B,) rows of each segment, at least one.
    """

    def __init__(self, sizes: Any) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.owner = np.repeat(np.arange(len(self.sizes)), self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def rows(self) -> int:
        """Rows of all segments together."""
        return len(self.owner)

    def slice(self, k: int) -> slice:
        """Return the rows of segment ``k``."""
        first = int(self.starts[k])
        return slice(first, first + int(self.sizes[k]))

    def sum(self, values: Array) -> Array:
        """Sum over the rows of each segment: (R, ...) to (B, ...)."""
        if not len(self):
            return np.zeros((0, *values.shape[1:]), dtype=values.dtype)
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))

    def max(self, values: Array) -> Array:
        """Return the largest value of each segment: (R,) to (B,)."""
        if not len(self):
            return np.zeros(0, dtype=values.dtype)
        return np.asarray(np.maximum.reduceat(values, self.starts))

    def dot(self, a: Array, b: Array) -> Array:
        """Scalar product over all components of each segment: twice (R, 3) to (B,)."""
        return self.sum(np.einsum("rc,rc->r", a, b))

    def longest(self, vectors: Array) -> Array:
        """Return the length of the longest row of each segment: (R, 3) to (B,)."""
        return np.asarray(np.sqrt(self.max(np.einsum("rc,rc->r", vectors, vectors))))


def free_components(atoms: Atoms) -> Array:
    """Return which Cartesian components may move, (n, 3) bool.

    Raises
    ------
    ConfigError
        For a constraint that is neither FixAtoms nor FixCartesian.
    """
    from ase.constraints import FixAtoms, FixCartesian

    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            rows = np.atleast_1d(constraint.index)
            free[rows] &= ~np.asarray(constraint.mask, dtype=bool)
        else:
            raise ConfigError(
                f"The constraint {type(constraint).__name__} is not known to batched runs, which "
                "take FixAtoms and FixCartesian. Run this structure with ASE's own optimizer."
            )
    return free


@dataclass
class Batch:
    """The structures on the move, concatenated; B structures with N atoms.

    Attributes
    ----------
    atoms
        The structures as they were given, for all that does not move (numbers, tags, info).
    index : (B,) int64
        Place of each structure in the input.
    step : (B,) int64
        Steps taken.
    first_energy : (B,) eV
        Energy at step 0, NaN before it is known.
    positions : (N, 3) Angstrom
    momenta : (N, 3) in ASE's units
    masses : (N,) atomic mass units
    free : (N, 3) bool
        Components that no constraint holds.
    cell : (B, 3, 3) Angstrom
    """

    atoms: list[Atoms]
    index: Array
    step: Array
    first_energy: Array
    positions: Array
    momenta: Array
    masses: Array
    free: Array
    cell: Array
    segments: Segments

    @classmethod
    def of(cls, atoms: Sequence[Atoms], index: Sequence[int]) -> Self:
        """Lay structures end to end.

        Raises
        ------
        ConfigError
            For a constraint that batched runs do not know.
        StructureError
            For a structure without atoms.
        """
        if any(len(one) == 0 for one in atoms):
            raise StructureError("The structure has no atoms.")

        def joined(rows: list[Array], shape: tuple[int, ...], kind: Any = np.float64) -> Array:
            return np.concatenate([np.zeros((0, *shape), kind), *rows]).astype(kind)

        return cls(
            atoms=list(atoms),
            index=np.asarray(index, dtype=np.int64),
            step=np.zeros(len(atoms), dtype=np.int64),
            first_energy=np.full(len(atoms), np.nan),
            positions=joined([one.get_positions() for one in atoms], (3,)),
            momenta=joined([one.get_momenta() for one in atoms], (3,)),
            masses=joined([one.get_masses() for one in atoms], ()),
            free=joined([free_components(one) for one in atoms], (3,), bool),
            cell=np.array([one.cell.array for one in atoms]).reshape(-1, 3, 3),
            segments=Segments([len(one) for one in atoms]),
        )

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, mask: Array) -> Batch:
        """Return the structures where ``mask`` (B,) is true."""
        rows = mask[self.segments.owner]
        return Batch(
            atoms=[one for one, kept in zip(self.atoms, mask, strict=True) if kept],
            index=self.index[mask],
            step=self.step[mask],
            first_energy=self.first_energy[mask],
            positions=self.positions[rows],
            momenta=self.momenta[rows],
            masses=self.masses[rows],
            free=self.free[rows],
            cell=self.cell[mask],
            segments=Segments(self.segments.sizes[mask]),
        )

    def join(self, other: Batch) -> Batch:
        """Return both batches as one, ``other`` last."""

        def both(name: str) -> Array:
            return np.concatenate([getattr(self, name), getattr(other, name)])

        names = ("index", "step", "first_energy", "positions", "momenta", "masses", "free", "cell")
        return Batch(
            atoms=self.atoms + other.atoms,
            segments=Segments(np.concatenate([self.segments.sizes, other.segments.sizes])),
            **{name: both(name) for name in names},
        )

    def snapshot(self, k: int) -> Atoms:
        """Return structure ``k`` as it is now, without a calculator."""
        rows = self.segments.slice(k)
        atoms: Atoms = self.atoms[k].copy()
        atoms.arrays["positions"] = self.positions[rows].copy()
        if self.momenta[rows].any() or "momenta" in atoms.arrays:
            atoms.arrays["momenta"] = self.momenta[rows].copy()
        atoms.cell[:] = self.cell[k]
        return atoms
