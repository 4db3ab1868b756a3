"""One pass over structures: features of atoms and how neighbors' values average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.environment_signs import neighbor_weights
from ase_nnp.uncertainty.methods.latent import FeatureReader
from ase_nnp.uncertainty.progress import tracked
from ase_nnp.uncertainty.statistics.arrays import Array

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["FeaturePass", "feature_pass", "structure_means"]

#: Atoms of a batch while features are taken.
BATCH = 256


@dataclass(frozen=True)
class FeaturePass:
    """What one pass over structures gave: rows of atoms, and energy stds where there are any."""

    features: Array
    numbers: NDArray[np.int64]
    owner: NDArray[np.intp]
    mixing: sparse.csr_array
    energy_std: Array | None

    @property
    def batch(self) -> torch.Tensor:
        """The structure of each atom, as a tensor."""
        return torch.as_tensor(self.owner)


def _batches(structures: Sequence[Atoms]) -> list[list[Atoms]]:
    """Structures in order, in parts of about ``BATCH`` atoms."""
    parts: list[list[Atoms]] = []
    size = BATCH
    for atoms in structures:
        if size >= BATCH:
            parts.append([])
            size = 0
        parts[-1].append(atoms)
        size += len(atoms)
    return parts


def feature_pass(
    model: Potential, reader: FeatureReader, structures: Sequence[Atoms]
) -> FeaturePass:
    """Features of all atoms, the averaging over neighbors, and energy stds."""
    wanted = ["energy", *(p for p in ("energy_std",) if p in model.outputs)]
    # In batches: thousands of calls for a molecule each would cost more than the passes.
    rows, numbers, owner, blocks, stds = [], [], [], [], []
    first = 0
    for part in tracked(_batches(structures), "features"):
        graph = model.make_graph(part)
        result, features = reader.run(model, graph, wanted)
        rows.append(features.double().cpu().numpy())
        numbers.append(graph.atomic_numbers.cpu().numpy())
        owner.append(graph.batch.cpu().numpy() + first)
        first += len(part)

        blocks.append(_mixing(graph, model.cutoff))
        if "energy_std" in result:
            stds.append(result["energy_std"].double().cpu().numpy())
    return FeaturePass(
        np.concatenate(rows),
        np.concatenate(numbers),
        np.concatenate(owner),
        sparse.csr_array(sparse.block_diag(blocks, format="csr")),
        np.concatenate(stds) if stds else None,
    )


def _mixing(graph: AtomGraph, cutoff: float) -> sparse.csr_array:
    """The averaging over neighbors as a matrix (N, N); atoms without any keep their own value."""
    n = graph.num_atoms
    source, target = graph.edge_index.cpu().numpy()
    weight = neighbor_weights(graph, cutoff).cpu().numpy()
    alone = np.bincount(target, weight, minlength=n) <= 0.5
    own = sparse.csr_array((np.ones(alone.sum()), (np.flatnonzero(alone),) * 2), shape=(n, n))
    return sparse.csr_array(sparse.csr_array((weight, (target, source)), shape=(n, n)) + own)


def structure_means(known: FeaturePass, count: int, unit: Array) -> Array:
    """Mean features (B, d), in the given units."""
    total = np.zeros((count, known.features.shape[1]))
    np.add.at(total, known.owner, known.features)
    return np.asarray(total / np.bincount(known.owner, minlength=count)[:, None] / unit)
