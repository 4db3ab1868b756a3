"""What an optimizer moves: the atoms alone, or the atoms and the cell.

With the cell, each structure has three rows more: the logarithm of its deformation, times the
number of atoms, and the atoms' rows are their positions in the undeformed cell. These are the
coordinates of ASE's FrechetCellFilter; the gradient in the logarithm is the adjoint of the
Frechet derivative of the matrix exponential (Al-Mohy & Higham 2009, doi:10.1137/080716426).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ase_nnp.models.segments import Segments
from ase_nnp.workflows.batched.state import Array, Batch, joined

__all__ = ["AtomRows", "CellRows"]


class AtomRows:
    """The positions themselves."""

    def __init__(self) -> None:
        self.segments = Segments([])

    def add(self, new: Batch) -> Segments:
        """Append structures; returns their rows."""
        self.segments = self.segments.join(new.segments)
        return new.segments

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` is false."""
        self.segments = self.segments.keep(mask)

    def state(self) -> dict[str, Tensor]:
        """Return what :meth:`restore` needs."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""
        self.segments = batch.segments

    def free(self, batch: Batch) -> Tensor:
        """Return the components that may move, (R, 3)."""
        return batch.free

    def x(self, batch: Batch) -> Tensor:
        """Return the coordinates (R, 3)."""
        return batch.positions

    def forces(self, batch: Batch, forces: Tensor, stress: Tensor | None) -> Tensor:
        """Return the force on each coordinate, (R, 3), zero where held."""
        return torch.where(batch.free, forces, 0.0)

    def move(self, batch: Batch, x: Tensor) -> None:
        """Take new coordinates; what is held stays exactly where it is."""
        batch.positions = torch.where(batch.free, x, batch.positions)


class CellRows(AtomRows):
    """Positions in the undeformed cell, and the logarithm of the deformation."""

    def __init__(self) -> None:
        super().__init__()
        self.first_cell = torch.zeros(0, 3, 3, dtype=torch.float64)
        self.log = torch.zeros(0, 3, 3, dtype=torch.float64)
        self._index(Segments([]))

    def _index(self, atoms: Segments) -> None:
        """Number the rows: atoms, then three rows of the cell, structure after structure."""
        self.atoms, self.segments = atoms, Segments(atoms.sizes + 3, atoms.device)
        last = self.segments.starts + atoms.sizes
        cell_rows = last[:, None] + np.arange(3)
        place = np.ones(self.segments.rows, dtype=bool)
        place[cell_rows.reshape(-1)] = False
        self.cell_rows = torch.from_numpy(cell_rows).to(atoms.device)
        self.atom_rows = torch.from_numpy(np.flatnonzero(place)).to(atoms.device)
        self.deformation = torch.linalg.matrix_exp(self.log)

    def add(self, new: Batch) -> Segments:
        """Append structures in their present cells; returns their rows."""
        self.first_cell = joined(self.first_cell, new.cell)
        self.log = joined(self.log, torch.zeros_like(new.cell))
        self._index(self.atoms.join(new.segments))
        return Segments(new.segments.sizes + 3, new.segments.device)

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` is false."""
        places = self.atoms.places(mask)
        self.first_cell = self.first_cell.index_select(0, places)
        self.log = self.log.index_select(0, places)
        self._index(self.atoms.keep(mask))

    def state(self) -> dict[str, Tensor]:
        """Return the undeformed cells and the logarithms."""
        return {"first_cell": self.first_cell, "log": self.log}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""
        self.first_cell, self.log = tensors["first_cell"], tensors["log"]
        self._index(batch.segments)

    def free(self, batch: Batch) -> Tensor:
        """Return the coordinates that may change: all of the cell and of atoms that can move.

        The deformation mixes the axes of an atom that is held along one of them.
        """
        # As ASE's filter: FixCartesian holds no single direction there, because rows are deformed
        # back.
        free = torch.ones_like(self._rows(batch), dtype=torch.bool)
        free[self.atom_rows] = batch.free.any(dim=1, keepdim=True).expand(-1, 3)
        return free

    def x(self, batch: Batch) -> Tensor:
        """Return the coordinates (R, 3)."""
        x = self._rows(batch)
        inverse = torch.linalg.matrix_exp(-self.log)
        x[self.atom_rows] = self._turned(batch.positions, inverse.transpose(1, 2))

        # Times the number of atoms, as FrechetCellFilter scales by default: cell and atoms then
        # move at like speeds.
        x[self.cell_rows] = self.log * self.atoms.counts[:, None, None]
        return x

    def forces(self, batch: Batch, forces: Tensor, stress: Tensor | None) -> Tensor:
        """Return the force on each coordinate, (R, 3)."""
        assert stress is not None
        rows = self._rows(batch)
        rows[self.atom_rows] = self._turned(torch.where(batch.free, forces, 0.0), self.deformation)
        volume = torch.linalg.det(batch.cell).abs()[:, None, None]

        # Some models' direct stress is not symmetric; what turns the cell is no strain.
        virial = -0.5 * volume * (stress + stress.transpose(1, 2))
        pull = virial @ torch.linalg.matrix_exp(-self.log.transpose(1, 2))
        rows[self.cell_rows] = _exp_adjoint(self.log, pull) / self.atoms.counts[:, None, None]
        return rows

    def move(self, batch: Batch, x: Tensor) -> None:
        """Take new coordinates; what is held moves with the cell, as in ASE."""
        self.log = x[self.cell_rows] / self.atoms.counts[:, None, None]
        self.deformation = torch.linalg.matrix_exp(self.log)
        cell = self.first_cell @ self.deformation.transpose(1, 2)

        # Held atoms keep their place in the cell, not in space.
        affine = torch.linalg.solve_ex(batch.cell, cell)[0]
        carried = self._turned(batch.positions, affine)
        moved = self._turned(x[self.atom_rows], self.deformation.transpose(1, 2))
        batch.positions = torch.where(batch.free, moved, carried)
        batch.cell = cell

    def _rows(self, batch: Batch) -> Tensor:
        return batch.positions.new_zeros(self.segments.rows, 3)

    def _turned(self, vectors: Tensor, matrices: Tensor) -> Tensor:
        """Rows (N, 3) times the matrix of their structure."""
        return torch.einsum("nc,ncd->nd", vectors, self.atoms.spread(matrices))


def _exp_adjoint(at: Tensor, pull: Tensor) -> Tensor:
    """Gradient in ``at`` of ``sum(exp(at) * pull)``: the derivative at the transpose along pull."""
    size = pull.abs().amax((1, 2), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    turned = at.transpose(1, 2)
    upper = torch.cat([turned, pull / size], dim=2)
    lower = torch.cat([torch.zeros_like(at), turned], dim=2)
    block = torch.cat([upper, lower], dim=1)
    derivative: Tensor = torch.linalg.matrix_exp(block)[:, :3, 3:] * size
    return derivative
