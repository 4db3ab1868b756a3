"""AtomGraph: a batch of structures as tensors. One structure is a batch of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.neighbors import canonical, check_cell, searcher

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AtomGraph"]


@dataclass(frozen=True)
class AtomGraph:
    """B structures with N atoms and E directed edges ``j -> i``, in eV and Angstrom.

    The edge vector from centre ``i`` to the periodic image of neighbour ``j`` is
    ``r_ij = positions[j] + edge_shift @ cell - positions[i]``.
    """

    atomic_numbers: Tensor  # (N,) int64
    positions: Tensor  # (N, 3) Angstrom
    cell: Tensor  # (B, 3, 3) Angstrom, rows are the lattice vectors (ASE); zero rows where none
    pbc: Tensor  # (B, 3) bool
    batch: Tensor  # (N,) int64, the structure each atom belongs to, sorted
    edge_index: Tensor  # (2, E) int64, [source j, target i]
    edge_shift: Tensor  # (E, 3) int64, in lattice vectors
    tags: Tensor | None = None  # (N,) int64; OC20: 0 slab below, 1 surface, 2 adsorbate
    fixed: Tensor | None = None  # (N,) bool, held by FixAtoms
    charge: Tensor | None = None  # (B,) total charge, e
    spin: Tensor | None = None  # (B,) spin as in atoms.info["spin"]
    extra: dict[str, Tensor] = field(default_factory=dict)  # what one family alone needs

    @property
    def num_structures(self) -> int:
        """B."""
        return int(self.cell.shape[0])

    @property
    def num_atoms(self) -> int:
        """N."""
        return int(self.positions.shape[0])

    @property
    def num_edges(self) -> int:
        """E."""
        return int(self.edge_index.shape[1])

    def edge_vectors(self) -> Tensor:
        """Return ``r_ij`` (E, 3) in Angstrom, from centre to neighbour; differentiable."""
        source, target = self.edge_index
        shift = self.edge_shift.to(self.cell.dtype)
        if self.num_structures == 1:
            image = shift @ self.cell[0]
        else:
            image = torch.einsum("ec,ecd->ed", shift, self.cell[self.batch[target]])
        return self.positions[source] + image - self.positions[target]

    def atoms_per_structure(self) -> Tensor:
        """Return the number of atoms of each structure, (B,) int64."""
        return torch.bincount(self.batch, minlength=self.num_structures)

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
        pbc: Sequence[bool] | None = None,
    ) -> AtomGraph:
        """Build the batch of one or many structures with its neighbour list.

        Parameters
        ----------
        atoms
            One structure or several.
        cutoff
            Angstrom; neighbours at exactly this distance are in.
        max_neighbors
            Keep only so many nearest neighbours of each centre (ties: see
            :func:`ase_nnp.models.neighbors.canonical`).
        dtype
            Of positions and cell; the search itself is in float64.
        backend
            ``"vesin"``, ``"torch"`` or ``"nvalchemi"``; by default vesin on a CPU, on CUDA
            nvalchemi where ``nvalchemi-toolkit-ops`` is installed, else torch.
        wrap
            Fold the atoms into the cell along periodic directions first, in float64, as the
            converters of the published OC20 models do.
        pbc
            Overrides the structures' own flags.

        Raises
        ------
        StructureError
            No atoms, positions that are not finite, or a cell that cannot be meant.
        ConfigError
            No backend has that name, or its package is not installed.
        """
        device = torch.device(device)
        base = _collect(atoms, wrap=wrap, pbc=pbc).to(device)
        search = searcher(backend, device)
        cell = base.extra["search_cell"]
        found = search(base.positions, cell, base.pbc, base.batch, float(cutoff))
        edges, shifts = canonical(*found, base.num_atoms, max_neighbors)
        graph = replace(base, edge_index=edges, edge_shift=shifts, extra={})
        return graph.to(device, dtype)

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

        Raises
        ------
        StructureError
            For a bad structure, an index out of range or offsets that are not whole.
        """
        base = _collect(atoms, wrap=wrap, pbc=None)
        index = torch.as_tensor(np.asarray(edge_index).astype(np.int64))
        if index.numel() == 0:
            index = index.reshape(2, 0)
        if index.ndim != 2 or index.shape[0] != 2:
            raise StructureError(
                f"edge_index has shape {tuple(index.shape)}; (2, edges) was expected: sources in "
                "the first row, targets in the second."
            )
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
        if any(g.extra.keys() != graphs[0].extra.keys() for g in graphs):
            raise StructureError(
                "The graphs of a batch carry different extra fields: "
                + "; ".join(sorted({", ".join(sorted(g.extra)) or "none" for g in graphs}))
            )
        joined["extra"] = {k: torch.cat([g.extra[k] for g in graphs]) for k in graphs[0].extra}
        return cls(**joined)


def _collect(atoms: Any, *, wrap: bool, pbc: Sequence[bool] | None) -> AtomGraph:
    """Atoms as float64 tensors without edges; ``extra['search_cell']`` is the completed cell."""
    structures = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
    if not structures:
        raise StructureError("There are no structures to make a graph of.")
    columns: dict[str, list[np.ndarray]] = {}
    for number, one in enumerate(structures):
        try:
            row = _one(one, wrap, pbc)
        except StructureError as error:
            if len(structures) == 1:
                raise
            raise type(error)(
                f"Structure {number} ({one.get_chemical_formula()}): {error}"
            ) from None
        for key, value in row.items():
            columns.setdefault(key, []).append(value)

    def joined(key: str) -> Tensor:
        return torch.from_numpy(np.concatenate(columns[key]))

    sizes = [len(n) for n in columns["atomic_numbers"]]
    return AtomGraph(
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
        extra={"search_cell": torch.from_numpy(np.stack(columns["search_cell"]))},
    )


def _one(atoms: Atoms, wrap: bool, pbc: Sequence[bool] | None) -> dict[str, np.ndarray]:
    from ase.constraints import FixAtoms
    from ase.geometry import complete_cell

    positions = np.array(atoms.positions, dtype=np.float64)
    if len(positions) == 0:
        raise StructureError("The structure has no atoms.")
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise StructureError(
            f"Atom {bad} ({atoms.symbols[bad]}) is at {positions[bad].tolist()}: "
            "positions must be finite numbers."
        )
    periodic = np.array(atoms.pbc if pbc is None else pbc, dtype=bool)
    cell = np.array(atoms.cell, dtype=np.float64)
    check_cell(cell, periodic)
    full = np.asarray(complete_cell(cell), dtype=np.float64)
    if wrap and periodic.any():
        scaled = np.linalg.solve(full.T, positions.T).T
        for axis in np.flatnonzero(periodic):
            scaled[:, axis] %= 1.0
            scaled[:, axis] %= 1.0  # -1e-17 % 1.0 is 1.0
        positions = scaled @ full
    fixed = np.zeros(len(positions), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    info = atoms.info
    return {
        "atomic_numbers": np.array(atoms.numbers, dtype=np.int64),
        "positions": positions,
        "cell": cell,
        "search_cell": full,
        "pbc": periodic,
        "tags": np.array(atoms.get_tags(), dtype=np.int64),
        "fixed": fixed,
        "charge": np.array([_number(info, "charge")]),
        "spin": np.array([_number(info, "spin")]),
    }


def _number(info: dict[str, Any], key: str) -> float:
    value = info.get(key, 0)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise StructureError(f"atoms.info[{key!r}] is {value!r}; it must be a number.") from None
