"""Many structures laid end to end: one tensor a quantity, no loop over atoms.

What moves is float64 where the model is, so that a batch moves as exactly as ASE would move each
structure alone and no step copies positions. What the host decides by (steps, who needs a neighbor
list) is numpy on the host; :func:`read_once` brings over what it must see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.segments import Segments

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Array", "Batch", "free_components", "joined", "read_once"]

Array = np.ndarray[Any, Any]

#: Known on the host; a row each structure.
HOST = ("index", "step", "first_energy", "unknown", "unlisted")
#: On the device: a row each atom, a row each structure.
PER_ATOM = ("positions", "momenta", "given", "searched", "masses", "free")
PER_STRUCTURE = ("cell", "searched_cell", "volume")


def read_once(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the host, by one copy for which it waits once.

    All travel as float64, which holds integers up to 2^53 and truth values.
    """
    if all(one.device.type == "cpu" for one in tensors):
        return list(tensors)
    rows = torch.cat([one.detach().double().reshape(-1) for one in tensors]).cpu()
    parts = rows.split([one.numel() for one in tensors])
    return [part.view(one.shape).to(one.dtype) for part, one in zip(parts, tensors, strict=True)]


def joined(old: Tensor, new: Tensor) -> Tensor:
    """Append rows; where there were none, the device is that of the new ones."""
    return torch.cat([old, new]) if len(old) else new


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
    index : (B,) int64, host
        Place of each structure in the input.
    step : (B,) int64, host
        Steps taken.
    first_energy : (B,) eV, host
        Energy at step 0, NaN before it is known.
    unknown : (B,) int64, host
        How often the model's own flag was raised when it was looked at along the way.
    unlisted : (B,) bool, host
        Whose neighbors must be searched before the next evaluation.
    positions, given, searched : (N, 3) Angstrom
        Where atoms are, were given, and were when their neighbors were searched.
    momenta : (N, 3) in ASE's units
    masses : (N,) atomic mass units
    free : (N, 3) bool
        Components that no constraint holds.
    cell, searched_cell : (B, 3, 3) Angstrom
    volume : (B,) Angstrom^3
        Of the cell as given.
    segments
        The atoms of each structure.
    """

    atoms: list[Atoms]
    index: Array
    step: Array
    first_energy: Array
    unknown: Array
    unlisted: Array
    positions: Tensor
    momenta: Tensor
    given: Tensor
    searched: Tensor
    masses: Tensor
    free: Tensor
    cell: Tensor
    searched_cell: Tensor
    volume: Tensor
    segments: Segments

    @classmethod
    def of(
        cls, atoms: Sequence[Atoms], index: Sequence[int], device: torch.device | str = "cpu"
    ) -> Self:
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

        def rows(each: list[Array], shape: tuple[int, ...], kind: Any = np.float64) -> Tensor:
            laid = np.concatenate([np.zeros((0, *shape), kind), *each]).astype(kind)
            return torch.from_numpy(laid).to(device)

        positions = rows([one.get_positions() for one in atoms], (3,))
        cell = rows([one.cell.array[None] for one in atoms], (3, 3))
        return cls(
            atoms=list(atoms),
            index=np.asarray(index, dtype=np.int64),
            step=np.zeros(len(atoms), dtype=np.int64),
            first_energy=np.full(len(atoms), np.nan),
            unknown=np.zeros(len(atoms), dtype=np.int64),
            unlisted=np.ones(len(atoms), dtype=bool),
            positions=positions,
            momenta=rows([one.get_momenta() for one in atoms], (3,)),
            given=positions.clone(),
            searched=positions.clone(),
            masses=rows([one.get_masses() for one in atoms], ()),
            free=rows([free_components(one) for one in atoms], (3,), bool),
            cell=cell,
            searched_cell=cell.clone(),
            volume=rows([np.abs(np.linalg.det(one.cell.array))[None] for one in atoms], ()),
            segments=Segments([len(one) for one in atoms], device),
        )

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, mask: Array) -> Batch:
        """Return the structures where ``mask`` (B,) is true."""
        rows, places = self.segments.rows_of(mask), self.segments.places(mask)
        mine = vars(self)
        kept: dict[str, Any] = {name: mine[name][mask] for name in HOST}
        kept |= {name: mine[name].index_select(0, rows) for name in PER_ATOM}
        kept |= {name: mine[name].index_select(0, places) for name in PER_STRUCTURE}
        atoms = [one for one, stays in zip(self.atoms, mask, strict=True) if stays]
        return Batch(atoms=atoms, segments=self.segments.keep(mask), **kept)

    def join(self, other: Batch) -> Batch:
        """Return both batches as one, ``other`` last."""
        mine, theirs = vars(self), vars(other)
        both: dict[str, Any] = {n: np.concatenate([mine[n], theirs[n]]) for n in HOST}
        both |= {n: joined(mine[n], theirs[n]) for n in (*PER_ATOM, *PER_STRUCTURE)}
        segments = self.segments.join(other.segments)
        return Batch(atoms=self.atoms + other.atoms, segments=segments, **both)

    def on_host(self) -> Batch:
        """Return what moves where it can be looked at; the rest stays where it is."""
        positions, momenta, cell = read_once([self.positions, self.momenta, self.cell])
        return replace(self, positions=positions, momenta=momenta, cell=cell)

    def snapshot(self, k: int) -> Atoms:
        """Return structure ``k`` of a batch :meth:`on_host` as it is, without a calculator."""
        rows = self.segments.slice(k)
        atoms: Atoms = self.atoms[k].copy()
        atoms.arrays["positions"] = self.positions[rows].numpy().copy()
        momenta = self.momenta[rows].numpy()
        if momenta.any() or "momenta" in atoms.arrays:
            atoms.arrays["momenta"] = momenta.copy()
        atoms.cell[:] = self.cell[k].numpy()
        return atoms
