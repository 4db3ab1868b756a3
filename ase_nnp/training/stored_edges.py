"""Whether the edges stored in a dataset's files follow a graph rule, judged on a few structures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ase_nnp.datasets.sample import Sample, to_atoms
from ase_nnp.models.graph import AtomGraph

__all__ = ["bare_graph", "stored_edges_follow"]

Array = np.ndarray[Any, Any]

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16}
_NO_EDGES = (torch.zeros((2, 0), dtype=torch.int64), torch.zeros((0, 3), dtype=torch.int64))


def bare_graph(
    sample: Sample, dtype: torch.dtype = torch.float32, *, edges: bool = False
) -> AtomGraph:
    """Turn a sample's arrays into a graph of one structure, without ``ase.Atoms``.

    Parameters
    ----------
    sample
        As from :meth:`AtomsDataset.arrays`.
    dtype
        Of positions and cell.
    edges
        Take the edges stored with the sample; otherwise there are none.
    """
    real = NUMPY_TYPES[dtype]
    numbers = sample["atomic_numbers"].astype(np.int64)
    n = len(numbers)
    info = sample["info"]
    tags, fixed = sample.get("tags"), sample.get("fixed")

    index, shift = _NO_EDGES
    if edges:
        index = torch.from_numpy(sample["edge_index"].astype(np.int64))
        shift = torch.from_numpy(sample["edge_shift"].astype(np.int64))

    # astype copies, so nothing in the graph shares memory with the sample.
    return AtomGraph(
        atomic_numbers=torch.from_numpy(numbers),
        positions=torch.from_numpy(sample["positions"].astype(real)),
        cell=torch.from_numpy(sample["cell"].astype(real).reshape(1, 3, 3)),
        pbc=torch.from_numpy(sample["pbc"].astype(bool).reshape(1, 3)),
        batch=torch.from_numpy(np.zeros(n, np.int64)),
        edge_index=index,
        edge_shift=shift,
        tags=torch.from_numpy(np.zeros(n, np.int64) if tags is None else tags.astype(np.int64)),
        fixed=torch.from_numpy(np.zeros(n, bool) if fixed is None else fixed.astype(bool)),
        charge=torch.from_numpy(np.array([info.get("charge", 0)], real)),
        spin=torch.from_numpy(np.array([info.get("spin", 0)], real)),
    )


def stored_edges_follow(dataset: Any, cutoff: float, max_neighbors: int | None) -> bool:
    """Whether up to six structures, spread over the dataset, store the edges of a rule.

    Parameters
    ----------
    dataset
        An AtomsDataset; a plain sequence of Atoms stores no edges.
    cutoff, max_neighbors
        The rule: Angstrom, and the cap on neighbors of an atom.
    """
    n = len(dataset)
    if n == 0 or not hasattr(dataset, "arrays"):
        return False
    for index in np.unique(np.linspace(0, n - 1, 6).astype(int)).tolist():
        sample = dataset.arrays(index)
        if "edge_index" not in sample or "edge_shift" not in sample:
            return False
        if not _same_neighbors(sample, cutoff, max_neighbors):
            return False
    return True


def _same_neighbors(sample: Sample, cutoff: float, cap: int | None) -> bool:
    """Compare the sorted neighbor distances of every atom; which of equals does not matter."""
    stored = bare_graph(sample, torch.float64, edges=True)
    searched = AtomGraph.from_atoms(to_atoms(sample), cutoff, cap, dtype=torch.float64)

    for ours, theirs in zip(_profiles(stored), _profiles(searched), strict=True):
        # The first OC20 converter counted an atom as its own neighbor when it applied the cap and
        # then left it out, so one neighbor less than the cap is the same rule.
        short = len(theirs) - len(ours)
        if short and not (short == 1 and len(theirs) == cap):
            return False
        if not np.allclose(ours, theirs[: len(ours)], rtol=0, atol=1e-3):
            return False
    return True


def _profiles(graph: AtomGraph) -> list[Array]:
    """Return the ascending neighbor distances of each atom."""
    center = graph.edge_index[1].numpy()
    distance = graph.edge_vectors().norm(dim=1).numpy()
    order = np.lexsort((distance, center))
    ends = np.cumsum(np.bincount(center, minlength=graph.num_atoms))
    return np.split(distance[order], ends[:-1])
