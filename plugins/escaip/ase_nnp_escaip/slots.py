"""Neighbors as rows, and the padded table that attention needs.

All work on single neighbors runs over rows without padding, sorted by center. Only attention needs
a table of slots; it is as wide as the largest number of neighbors among its atoms.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Slots", "blocks", "reduce_rows"]


@dataclass
class Slots:
    """Rows ``first_row:last_row`` of a batch, those of the atoms ``first_atom:last_atom``.

    ``n`` atoms have R rows, of which ``table`` (n, M) lists each atom's, with row 0 in empty places
    where ``mask`` (n, M) is False; ``place`` (R,) is where in the flattened table a row stands.
    """

    first_atom: int
    last_atom: int
    first_row: int
    last_row: int
    sender: Tensor  # (R,) atom in the whole batch
    receiver: Tensor  # (R,)
    table: Tensor  # (n, M)
    mask: Tensor  # (n, M) bool
    place: Tensor  # (R,)

    @property
    def local(self) -> Tensor:
        """Number of each row's center within the block, (R,)."""
        return self.receiver - self.first_atom

    @property
    def own(self) -> Tensor:
        """The first row of each atom, (n,)."""
        return self.table[:, 0]

    def pad(self, x: Tensor) -> Tensor:
        """Rows (R, ...) as a table (n, M, ...)."""
        return x.index_select(0, self.table.reshape(-1)).view(*self.table.shape, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """A table (n, M, ...) as rows (R, ...)."""
        return x.flatten(0, 1).index_select(0, self.place)

    def rows(self, x: Tensor) -> Tensor:
        """The part of an array over all rows that belongs to this block."""
        return x[self.first_row : self.last_row]

    def atoms(self, x: Tensor) -> Tensor:
        """The part of an array over all atoms that belongs to this block."""
        return x[self.first_atom : self.last_atom]

    def sum(self, x: Tensor) -> Tensor:
        """Sum of rows (R, ...) over each atom, (n, ...)."""
        return reduce_rows(x, self.local, self.last_atom - self.first_atom)


def reduce_rows(x: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum the rows of ``x`` that share an index."""
    return x.new_zeros(size, *x.shape[1:]).index_add(0, index, x)


def blocks(sender: Tensor, receiver: Tensor, atoms: int, rows_per_block: int) -> list[Slots]:
    """Cut rows, sorted by receiver and at least one an atom, into blocks of whole atoms."""
    counts = torch.bincount(receiver, minlength=atoms)
    ends = torch.cumsum(counts, 0)
    place = torch.arange(len(receiver), device=receiver.device) - (ends - counts)[receiver]

    # One copy to the host for all blocks; each look at a number on a GPU would wait for it.
    on_host = counts.tolist()

    # Whole atoms only: a softmax runs over all neighbors of an atom.
    cuts, rows = [0], 0
    for atom, count in enumerate(on_host):
        if rows and rows + count > rows_per_block:
            cuts.append(atom)
            rows = 0
        rows += count
    cuts.append(atoms)
    slots, row = [], 0
    for first, last in itertools.pairwise(cuts):
        size, width = sum(on_host[first:last]), max(on_host[first:last])
        here = slice(row, row + size)
        flat = (receiver[here] - first) * width + place[here]
        table = torch.zeros((last - first) * width, dtype=torch.long, device=receiver.device)
        mask = torch.zeros_like(table, dtype=torch.bool)
        table[flat] = torch.arange(size, device=receiver.device)
        mask[flat] = True
        shape = (last - first, width)
        slots.append(
            Slots(first, last, row, row + size, sender[here], receiver[here],
                  table.view(shape), mask.view(shape), flat)
        )  # fmt: skip
        row += size
    return slots
