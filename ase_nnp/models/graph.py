"""AtomGraph: a batch of structures as tensors. One structure is a batch of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.lattice import search_lattice
from ase_nnp.models.neighbors import searcher, sort_and_cap_edges
from ase_nnp.models.neighbors_torch import occurrences
from ase_nnp.models.origins import recentered, wrapped
from ase_nnp.models.structures import arrays_of, name_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AtomGraph"]


@dataclass(frozen=True)
class AtomGraph:
    """B structures with N atoms and E directed edges ``j -> i``, in eV and Angstrom.

    The edge vector from center ``i`` to the periodic image of neighbor ``j`` is
    ``r_ij = positions[j] + edge_shift @ cell - positions[i]``. Several structures are one graph
    without edges between them; one structure is a batch of one.

    Attributes
    ----------
    atomic_numbers
        (N,) int64.
    positions
        (N, 3) Angstrom.
    cell
        (B, 3, 3) Angstrom; rows are the lattice vectors, as in ASE, and zero where there is none.
    pbc
        (B, 3) bool, axis by axis.
    batch
        (N,) int64, sorted: the structure that each atom belongs to.
    edge_index
        (2, E) int64: source ``j`` (the neighbor), target ``i`` (the center).
    edge_shift
        (E, 3) int64: the periodic image of the neighbor, in lattice vectors.
    tags
        (N,) int64 or None: OC20's 0 below the surface, 1 surface, 2 adsorbate.
    fixed
        (N,) bool or None: held by FixAtoms.
    charge
        (B,) or None: total charge, in units of the elementary charge.
    spin
        (B,) or None: spin as in ``atoms.info["spin"]``.
    extra
        What one family alone needs, by name.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_nnp import AtomGraph
    >>> graph = AtomGraph.from_atoms([bulk("Cu"), bulk("Cu", cubic=True)], cutoff=3.0)
    >>> graph.num_structures, graph.num_atoms, graph.num_edges
    (2, 5, 60)
    >>> graph.batch.tolist()
    [0, 1, 1, 1, 1]
    >>> graph.edge_vectors().norm(dim=1).max().item() < 3.0
    True
    """

    atomic_numbers: Tensor
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    edge_index: Tensor
    edge_shift: Tensor
    tags: Tensor | None = None
    fixed: Tensor | None = None
    charge: Tensor | None = None
    spin: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_structures(self) -> int:
        """B, the structures of the batch."""
        return self.cell.shape[0]

    @property
    def num_atoms(self) -> int:
        """N, the atoms of all structures."""
        return self.positions.shape[0]

    @property
    def num_edges(self) -> int:
        """E, the directed edges of all structures."""
        return self.edge_index.shape[1]

    def edge_vectors(self) -> Tensor:
        """Return ``r_ij`` (E, 3) in Angstrom, from center to neighbor; differentiable."""
        source, target = self.edge_index
        shift = self.edge_shift.to(self.cell.dtype)

        # One product serves all edges; the batched form first copies a cell to each of them.
        if self.num_structures == 1:
            image = shift @ self.cell[0]
        else:
            image = torch.einsum("ec,ecd->ed", shift, self.cell[self.batch[target]])

        # Indexing with [] costs a CPU three times as much, forward and backward.
        at = self.positions.index_select(0, source) - self.positions.index_select(0, target)
        return at + image

    def atoms_per_structure(self) -> Tensor:
        """Return the number of atoms of each structure, (B,) int64."""
        return occurrences(self.batch, self.num_structures)

    def replace(self, **changes: Any) -> AtomGraph:
        """Return a copy with some fields exchanged."""
        return replace(self, **changes)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> AtomGraph:
        """Return the graph on ``device``; ``dtype`` applies to the floating tensors."""

        # A copy to the host that has not ended must not be read, so only the way there overlaps.
        overlap = device is not None and torch.device(device).type != "cpu"

        pin = overlap and torch.device(device or "cpu").type == "cuda"

        def move(value: Tensor) -> Tensor:
            kind = dtype if value.is_floating_point() else None
            if pin and value.device.type == "cpu":  # from other memory the host would wait
                value = value.to(kind).pin_memory()
            return value.to(device=device, dtype=kind, non_blocking=overlap)

        return self._each(move)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of the tensors until ``stream`` has done what it has been given."""

        def record(value: Tensor) -> Tensor:
            value.record_stream(stream)  # type: ignore[arg-type]
            return value

        self._each(record)

    def clone(self) -> AtomGraph:
        """Return a copy with tensors of its own."""
        return self._each(torch.clone)

    def _each(self, change: Callable[[Tensor], Tensor]) -> AtomGraph:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed, extra={k: change(v) for k, v in self.extra.items()})

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms | Sequence[Atoms],
        cutoff: float,
        max_neighbors: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: str | None = None,
        wrap: bool = False,
        recenter: bool = False,
        pbc: Sequence[bool] | None = None,
        inputs: Collection[str] = ("charge", "spin"),
    ) -> AtomGraph:
        """Build the batch of one or many structures with its neighbor list.

        Parameters
        ----------
        atoms
            One structure or several.
        cutoff
            Angstrom; neighbors at exactly this distance are in.
        max_neighbors
            Keep only so many nearest neighbors of each center (ties: see
            :func:`ase_nnp.models.neighbors.sort_and_cap_edges`).
        dtype
            Of positions and cell; the search itself is in float64.
        backend
            ``"vesin"``, ``"torch"`` or ``"nvalchemi"``; by default vesin on a CPU, on CUDA
            nvalchemi where ``nvalchemi-toolkit-ops`` is installed, else torch.
        wrap
            Fold the atoms into the cell along periodic directions first, in float64, as the
            converters of the published OC20 models do.
        recenter
            Move each structure to the origin, in float64, and its atoms (unless wrapped) to their
            images nearest to the first atom: in single precision results then do not depend on
            where the structure is. Edges and their vectors are the same.
        pbc
            Overrides the structures' own flags.
        inputs
            Which of ``charge`` and ``spin`` to take from ``atoms.info``; the others are 0.
        device
            Where the tensors are to live.

        Raises
        ------
        StructureError
            No atoms, positions that are not finite, an input that is not a number, or a cell that
            cannot be meant: flat, or with so many images that no model could answer.
        ConfigError
            No backend has that name, or its package is not installed; the cutoff is negative or not
            finite.
        """
        if not 0 <= float(cutoff) < math.inf:
            raise ConfigError(f"The cutoff is {cutoff}; a number of Angstrom was wanted.")
        device = torch.device(device)
        base, cell, made_of = _collect(atoms, inputs, pbc, float(cutoff))
        if wrap:
            folded, _ = wrapped(base.positions, base.cell, base.pbc, base.batch)
            base = replace(base, positions=folded)
        if recenter:
            geometry = base.positions, base.cell, base.pbc, base.batch
            base = replace(base, positions=recentered(*geometry, cutoff, fold=not wrap)[0])

        # In float64 up to here: edges at the cutoff and far atoms are judged before anything is
        # rounded.
        base, cell = base.to(device), cell.to(device)

        search = searcher(backend, device)
        edges, shifts, distance = search(base.positions, cell, base.pbc, base.batch, float(cutoff))
        if made_of is not None:  # offsets in the vectors searched in, put into those of the cell
            shifts = torch.einsum("ec,ecd->ed", shifts, made_of.to(device)[base.batch[edges[1]]])
        edges, shifts = sort_and_cap_edges(edges, shifts, distance, base.num_atoms, max_neighbors)
        return replace(base, edge_index=edges, edge_shift=shifts).to(device, dtype)

    @classmethod
    def from_edges(
        cls,
        atoms: Atoms | Sequence[Atoms],
        edge_index: Any,
        edge_shift: Any,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        wrap: bool = False,
        inputs: Collection[str] = ("charge", "spin"),
        extra: dict[str, Tensor] | None = None,
    ) -> AtomGraph:
        """Build a graph from given edges, in the order given.

        Parameters
        ----------
        edge_index : array-like (2, E), integer
            ``[source j, target i]``; atoms are numbered through the whole batch.
        edge_shift : array-like (E, 3)
            Integer cell offsets of the source, for the positions as they stand (after wrapping
            when ``wrap``).
        atoms
            One structure or several.
        dtype, device
            Of positions and cell; where the tensors are to live.
        wrap
            Fold the atoms into the cell first, as in :meth:`from_atoms`.
        extra
            Further tensors that one family alone needs.
        inputs
            Fields beside geometry that are read, as :attr:`Potential.required_inputs` names them.

        Raises
        ------
        StructureError
            For a bad structure, an index out of range or offsets that are not whole.
        """
        base, _, _ = _collect(atoms, inputs)
        if wrap:
            folded, _ = wrapped(base.positions, base.cell, base.pbc, base.batch)
            base = replace(base, positions=folded)
        index = torch.as_tensor(np.asarray(edge_index).astype(np.int64))
        if index.numel() == 0:
            index = index.reshape(2, 0)
        if index.ndim != 2 or index.shape[0] != 2:
            raise StructureError(
                f"edge_index has shape {tuple(index.shape)}; (2, edges) was expected: sources in "
                "the first row, targets in the second."
            )

        # OC20 stores whole numbers as floats; anything else is Cartesian shifts by mistake.
        raw = torch.as_tensor(np.asarray(edge_shift, dtype=np.float64).reshape(-1, 3))
        shift = raw.round().long()
        if shift.shape[0] != index.shape[1]:
            raise StructureError(
                f"edge_index has {index.shape[1]} edges and edge_shift {shift.shape[0]}."
            )
        if not torch.equal(shift.to(raw.dtype), raw):
            raise StructureError("edge_shift must hold whole numbers of lattice vectors.")

        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < base.num_atoms:
            raise StructureError(
                f"edge_index runs from {int(index.min())} to {int(index.max())}, "
                f"but there are {base.num_atoms} atoms."
            )

        # Edges counted from zero for each structure are the usual mistake here.
        if not torch.equal(base.batch[index[0]], base.batch[index[1]]):
            raise StructureError("edge_index joins atoms of different structures.")

        graph = replace(base, edge_index=index, edge_shift=shift, extra=dict(extra or {}))
        return graph.to(device, dtype)

    @classmethod
    def collate(cls, graphs: Sequence[AtomGraph]) -> AtomGraph:
        """Join graphs into one batch.

        Tensors of ``extra`` are joined along their first axis and must be in all graphs; an
        optional field that one graph lacks is dropped.
        """
        if len(graphs) == 1:
            return graphs[0]
        atom0 = np.cumsum([0, *(g.num_atoms for g in graphs)]).tolist()
        struct0 = np.cumsum([0, *(g.num_structures for g in graphs)]).tolist()

        def cat(name: str) -> Tensor | None:
            parts = [getattr(g, name) for g in graphs]

            # A field that one structure lacks would shift those of the others.
            return None if any(p is None for p in parts) else torch.cat(parts)

        joined: dict[str, Any] = {
            f.name: cat(f.name)
            for f in fields(cls)
            if f.name not in ("batch", "edge_index", "extra")
        }
        joined["batch"] = torch.cat([g.batch + s for g, s in zip(graphs, struct0, strict=False)])
        joined["edge_index"] = torch.cat(
            [g.edge_index + a for g, a in zip(graphs, atom0, strict=False)], dim=1
        )

        # Graphs of different models, or some with stored edges and some without.
        if any(g.extra.keys() != graphs[0].extra.keys() for g in graphs):
            raise StructureError(
                "The graphs of a batch carry different extra fields: "
                + "; ".join(sorted({", ".join(sorted(g.extra)) or "none" for g in graphs}))
            )
        joined["extra"] = {k: torch.cat([g.extra[k] for g in graphs]) for k in graphs[0].extra}
        return cls(**joined)


def _collect(
    atoms: Any,
    inputs: Collection[str],
    pbc: Sequence[bool] | None = None,
    cutoff: float | None = None,
) -> tuple[AtomGraph, Tensor, Tensor | None]:
    """Return atoms as float64 tensors without edges, with the cells to search in.

    Those are (B, 3, 3) and None, or the integers (B, 3, 3) that make them of the given cells.
    Without a cutoff nothing is searched, and the cells are the given ones.
    """
    structures = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
    if not structures:
        raise StructureError("There are no structures to make a graph of.")

    columns: dict[str, list[np.ndarray]] = {}
    lattices: list[tuple[np.ndarray, np.ndarray | None]] = []
    for number, one in enumerate(structures):
        try:
            row = arrays_of(one, inputs, pbc)
            if cutoff is not None:
                lattices.append(search_lattice(row["positions"], row["cell"], row["pbc"], cutoff))
        except StructureError as error:
            if len(structures) == 1:
                raise
            raise type(error)(f"Structure {number} ({name_of(one)}): {error}") from None
        for key, value in row.items():
            columns.setdefault(key, []).append(value)

    def joined(key: str) -> Tensor:
        return torch.from_numpy(np.concatenate(columns[key]))

    sizes = [len(n) for n in columns["atomic_numbers"]]
    graph = AtomGraph(
        atomic_numbers=joined("atomic_numbers"),
        positions=joined("positions"),
        cell=torch.from_numpy(np.stack(columns["cell"])),
        pbc=torch.from_numpy(np.stack(columns["pbc"])),
        batch=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        edge_index=torch.zeros((2, 0), dtype=torch.int64),
        edge_shift=torch.zeros((0, 3), dtype=torch.int64),
        tags=joined("tags"),
        fixed=joined("fixed"),
        charge=joined("charge"),
        spin=joined("spin"),
    )
    if cutoff is None:
        return graph, graph.cell, None
    cells = torch.from_numpy(np.stack([cell for cell, _ in lattices]))
    if all(made_of is None for _, made_of in lattices):
        return graph, cells, None
    same = np.eye(3, dtype=np.int64)
    integers = np.stack([same if made_of is None else made_of for _, made_of in lattices])
    return graph, cells, torch.from_numpy(integers)
