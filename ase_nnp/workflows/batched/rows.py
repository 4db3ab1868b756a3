"""What an optimizer moves: the atoms alone, or the atoms and the cell.

With the cell, each structure has three rows more: the logarithm of its deformation, times the
number of atoms, and the atoms' rows are their positions in the undeformed cell. These are the
coordinates of ASE's FrechetCellFilter; the gradient in the logarithm is the adjoint of the
Frechet derivative of the matrix exponential (Al-Mohy & Higham 2009, doi:10.1137/080716426).
"""

from __future__ import annotations

import numpy as np
import torch

from ase_nnp.workflows.batched.state import Array, Batch, Segments

__all__ = ["AtomRows", "CellRows"]


class AtomRows:
    """The positions themselves."""

    def __init__(self) -> None:
        self.segments = Segments([])

    def add(self, new: Batch) -> Segments:
        """Append structures; returns their rows."""
        self.segments = Segments(np.concatenate([self.segments.sizes, new.segments.sizes]))
        return new.segments

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` is false."""
        self.segments = Segments(self.segments.sizes[mask])

    def state(self) -> dict[str, Array]:
        """Return what :meth:`restore` needs."""
        return {}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""
        self.segments = batch.segments

    def free(self, batch: Batch) -> Array:
        """Return the components that may move, (R, 3)."""
        return batch.free

    def x(self, batch: Batch) -> Array:
        """Return the coordinates (R, 3)."""
        return batch.positions

    def forces(self, batch: Batch, forces: Array, stress: Array | None) -> Array:
        """Return the force on each coordinate, (R, 3), zero where held."""
        return np.where(batch.free, forces, 0.0)

    def move(self, batch: Batch, x: Array) -> None:
        """Take new coordinates; what is held stays exactly where it is."""
        batch.positions = np.where(batch.free, x, batch.positions)


class CellRows(AtomRows):
    """Positions in the undeformed cell, and the logarithm of the deformation."""

    def __init__(self) -> None:
        super().__init__()
        self.first_cell = np.zeros((0, 3, 3))
        self.log = np.zeros((0, 3, 3))
        self._index(np.zeros(0, dtype=np.int64))

    def _index(self, sizes: Array) -> None:
        """Number the rows: atoms, then three rows of the cell, structure after structure."""
        self.sizes = sizes
        self.segments = Segments(sizes + 3) if len(sizes) else Segments([])
        last = self.segments.starts + sizes
        self.cell_rows = last[:, None] + np.arange(3)
        place = np.ones(self.segments.rows, dtype=bool)
        place[self.cell_rows.reshape(-1)] = False
        self.atom_rows = np.flatnonzero(place)
        self.deformation = _exp(self.log)

    def add(self, new: Batch) -> Segments:
        """Append structures in their present cells; returns their rows."""
        self.first_cell = np.concatenate([self.first_cell, new.cell])
        self.log = np.concatenate([self.log, np.zeros_like(new.cell)])
        self._index(np.concatenate([self.sizes, new.segments.sizes]))
        return Segments(new.segments.sizes + 3)

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` is false."""
        self.first_cell, self.log = self.first_cell[mask], self.log[mask]
        self._index(self.sizes[mask])

    def state(self) -> dict[str, Array]:
        """Return the undeformed cells and the logarithms."""
        return {"first_cell": self.first_cell, "log": self.log}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""
        self.first_cell, self.log = arrays["first_cell"], arrays["log"]
        self._index(batch.segments.sizes)

    def free(self, batch: Batch) -> Array:
        """Return the coordinates that may change: all of the cell and of atoms that can move.

        The deformation mixes the axes of an atom that is held along one of them.
        """
        # As ASE's filter: FixCartesian holds no single direction there, because rows are deformed
        # back.
        free = np.ones((self.segments.rows, 3), dtype=bool)
        free[self.atom_rows] = batch.free.any(axis=1, keepdims=True)
        return free

    def x(self, batch: Batch) -> Array:
        """Return the coordinates (R, 3)."""
        x = np.empty((self.segments.rows, 3))
        inverse = np.linalg.inv(self.deformation)
        x[self.atom_rows] = np.einsum("nc,ndc->nd", batch.positions, inverse[batch.segments.owner])

        # Times the number of atoms, as FrechetCellFilter scales by default: cell and atoms then
        # move at like speeds.
        x[self.cell_rows] = self.log * self.sizes[:, None, None]
        return x

    def forces(self, batch: Batch, forces: Array, stress: Array | None) -> Array:
        """Return the force on each coordinate, (R, 3)."""
        assert stress is not None
        rows = np.empty((self.segments.rows, 3))
        held = np.where(batch.free, forces, 0.0)
        rows[self.atom_rows] = np.einsum("nc,ncd->nd", held, self.deformation[batch.segments.owner])

        volume = np.abs(np.linalg.det(batch.cell))[:, None, None]

        # Some models' direct stress is not symmetric; what turns the cell is no strain.
        virial = -0.5 * volume * (stress + stress.transpose(0, 2, 1))
        pull = virial @ np.linalg.inv(self.deformation.transpose(0, 2, 1))
        rows[self.cell_rows] = _exp_adjoint(self.log, pull) / self.sizes[:, None, None]
        return rows

    def move(self, batch: Batch, x: Array) -> None:
        """Take new coordinates; what is held moves with the cell, as in ASE."""
        self.log = x[self.cell_rows] / self.sizes[:, None, None]
        self.deformation = _exp(self.log)
        cell = self.first_cell @ self.deformation.transpose(0, 2, 1)

        owner = batch.segments.owner

        # Held atoms keep their place in the cell, not in space.
        affine = np.linalg.solve(batch.cell, cell)
        carried = np.einsum("nc,ncd->nd", batch.positions, affine[owner])
        moved = np.einsum("nc,ndc->nd", x[self.atom_rows], self.deformation[owner])
        batch.positions = np.where(batch.free, moved, carried)
        batch.cell = cell


def _exp(matrices: Array) -> Array:
    """Matrix exponentials of (B, 3, 3)."""
    return np.asarray(torch.linalg.matrix_exp(torch.from_numpy(matrices)).numpy())


def _exp_adjoint(at: Array, pull: Array) -> Array:
    """Gradient in ``at`` of ``sum(exp(at) * pull)``: the derivative at the transpose along pull."""
    size = np.abs(pull).max(axis=(1, 2), keepdims=True)
    size = np.where(size > 0, size, 1.0)
    block = np.zeros((len(at), 6, 6))
    block[:, :3, :3] = block[:, 3:, 3:] = at.transpose(0, 2, 1)
    block[:, :3, 3:] = pull / size
    return np.asarray(_exp(block)[:, :3, 3:] * size)
