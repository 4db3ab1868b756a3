"""Neighbor lists against the obvious double loop, in cells of every kind."""

from __future__ import annotations

import importlib.util
import itertools
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_nnp import AtomGraph
from ase_nnp.errors import ConfigError, StructureError

BACKENDS = ("vesin", "torch")
needs_nvalchemi = pytest.mark.skipif(
    importlib.util.find_spec("nvalchemiops") is None,
    reason="the optional package nvalchemi-toolkit-ops is not installed",
)
EVERY = [*BACKENDS, pytest.param("nvalchemi", marks=needs_nvalchemi)]
OTHERS = EVERY[1:]  # than vesin


def obvious(atoms: Atoms, cutoff: float) -> dict[tuple[int, ...], float]:
    """All (center, neighbor, n1, n2, n3) within the cutoff, by trying every image."""
    cell = np.array(atoms.cell.complete())
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    scaled = atoms.positions @ np.linalg.inv(cell)
    spread = scaled.max(0) - scaled.min(0)
    reach = [
        int(np.ceil(cutoff / h + s)) + 1 if p else 0
        for h, s, p in zip(heights, spread, atoms.pbc, strict=True)
    ]
    distances = {}
    for n in itertools.product(*(range(-r, r + 1) for r in reach)):
        vectors = atoms.positions[None] + np.array(n) @ cell - atoms.positions[:, None]
        lengths = np.linalg.norm(vectors, axis=-1)
        for i, j in zip(*np.nonzero(lengths <= cutoff), strict=True):
            if i != j or any(n):
                distances[(int(i), int(j), *n)] = float(lengths[i, j])
    return distances


def as_set(graph: AtomGraph) -> set[tuple[int, ...]]:
    source, target = graph.edge_index.tolist()
    return set(zip(target, source, *graph.edge_shift.T.tolist(), strict=True))


@st.composite
def structures(draw) -> Atoms:
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(1, 7))
    cell = np.diag(rng.uniform(1.5, 7, 3)) + np.triu(rng.uniform(-2, 2, (3, 3)), 1)
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Atoms(
        numbers=rng.integers(1, 80, count),
        positions=rng.normal(scale=draw(st.sampled_from([1.0, 4.0, 15.0])), size=(count, 3)),
        cell=cell,
        pbc=pbc,
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(structures(), st.floats(0.8, 5.0))
@pytest.mark.parametrize("backend", EVERY)
def test_edges_are_those_of_the_obvious_search(backend, atoms, cutoff):
    wanted = obvious(atoms, cutoff)
    if any(abs(d - cutoff) < 1e-9 or d < 0.011 for d in wanted.values()):
        return  # on the border rounding decides
    graph = AtomGraph.from_atoms(atoms, cutoff, backend=backend, dtype=torch.float64)
    assert as_set(graph) == set(wanted)
    assert graph.num_edges == len(wanted)
    lengths = graph.edge_vectors().norm(dim=1)
    order = zip(*graph.edge_index.flip(0).tolist(), *graph.edge_shift.T.tolist(), strict=True)
    assert np.allclose(lengths, [wanted[k] for k in order])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(structures(), min_size=2, max_size=4),
    st.floats(1.0, 4.0),
    st.sampled_from([None, 1, 7]),
)
@pytest.mark.parametrize("backend", OTHERS)
def test_backends_agree_edge_for_edge_in_a_mixed_batch(backend, batch, cutoff, most):
    one, two = (AtomGraph.from_atoms(batch, cutoff, most, backend=b) for b in ("vesin", backend))
    assert torch.equal(one.edge_index, two.edge_index)
    assert torch.equal(one.edge_shift, two.edge_shift)
    joined = AtomGraph.collate([AtomGraph.from_atoms(a, cutoff, most) for a in batch])
    assert torch.equal(one.edge_index, joined.edge_index)
    assert torch.equal(one.batch, joined.batch)


@pytest.mark.parametrize("backend", EVERY)
def test_the_cap_keeps_the_nearest_and_ties_go_by_order(backend):
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    every = AtomGraph.from_atoms(atoms, 6.0, dtype=torch.float64, backend=backend)
    capped = AtomGraph.from_atoms(atoms, 6.0, 10, dtype=torch.float64, backend=backend)
    lengths = every.edge_vectors().norm(dim=1).numpy()
    center = every.edge_index[1].numpy()
    keys = list(zip(*every.edge_index.flip(0).tolist(), *every.edge_shift.T.tolist(), strict=True))
    wanted = set()
    for i in range(len(atoms)):
        mine = [k for k in range(len(keys)) if center[k] == i]
        mine.sort(key=lambda k: (round(lengths[k] / 1e-6), keys[k]))
        wanted |= {keys[k] for k in mine[:10]}
    assert as_set(capped) == wanted
    assert torch.equal(torch.bincount(capped.edge_index[1]), torch.full((8,), 10))


@pytest.mark.parametrize("backend", EVERY)
def test_a_cutoff_larger_than_the_cell_sees_many_images(backend):
    graph = AtomGraph.from_atoms(bulk("Cu"), 8.0, backend=backend)
    assert graph.num_edges == len(obvious(bulk("Cu"), 8.0)) > 100


@pytest.mark.parametrize("backend", EVERY)
def test_one_atom_and_no_edges_are_graphs(backend):
    graph = AtomGraph.from_atoms(Atoms("He"), 6.0, backend=backend)
    assert (graph.num_atoms, graph.num_edges) == (1, 0)
    assert graph.edge_vectors().shape == (0, 3)


@pytest.mark.parametrize("backend", EVERY)
def test_atoms_far_outside_the_cell_are_found(backend):
    atoms = bulk("Cu", cubic=True)
    inside = AtomGraph.from_atoms(atoms, 5.0, backend=backend)
    atoms.positions[2] += 400 * atoms.cell[0] - 7 * atoms.cell[2]
    assert AtomGraph.from_atoms(atoms, 5.0, backend=backend).num_edges == inside.num_edges


def test_wrapping_folds_periodic_directions_only():
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    slab.positions += (9.0, -3.0, 30.0)
    graph = AtomGraph.from_atoms(slab, 4.0, wrap=True, dtype=torch.float64)
    scaled = np.linalg.solve(slab.cell.T, graph.positions.numpy().T).T
    assert (scaled[:, :2] >= 0).all()
    assert (scaled[:, :2] < 1).all()
    assert np.allclose(graph.positions[:, 2], slab.positions[:, 2])
    assert graph.num_edges == AtomGraph.from_atoms(slab, 4.0).num_edges


def test_given_edges_are_used_as_they_stand():
    atoms = molecule("H2O")
    graph = AtomGraph.from_edges(atoms, [[2, 0], [0, 1]], np.zeros((2, 3)), dtype=torch.float64)
    assert graph.edge_index.tolist() == [[2, 0], [0, 1]]
    assert torch.allclose(
        graph.edge_vectors()[0], torch.tensor(atoms.positions[2] - atoms.positions[0])
    )


@pytest.mark.parametrize(
    ("index", "shift", "said"),
    [
        ([[0], [3]], [[0, 0, 0]], "there are 3 atoms"),
        ([[0], [-1]], [[0, 0, 0]], "there are 3 atoms"),
        ([[0], [1]], [[0.5, 0, 0]], "whole numbers"),
        ([[0], [1]], [[0, 0, 0], [0, 0, 0]], "1 edges and edge_shift 2"),
        ([[0, 1], [1, 2], [2, 0]], [[0, 0, 0]] * 3, r"shape \(3, 2\)"),
    ],
)
def test_given_edges_that_cannot_be_are_refused(index, shift, said):
    with pytest.raises(StructureError, match=said):
        AtomGraph.from_edges(molecule("H2O"), index, shift)


def test_edges_between_structures_are_refused():
    with pytest.raises(StructureError, match="different structures"):
        AtomGraph.from_edges([molecule("H2O"), bulk("Cu")], [[0], [3]], [[0, 0, 0]])


def test_graphs_with_different_extra_fields_do_not_join():
    one, two = (AtomGraph.from_atoms(bulk("Cu"), 3.0) for _ in range(2))
    one.extra["weight"] = torch.ones(1)
    with pytest.raises(StructureError, match="weight"):
        AtomGraph.collate([one, two])


def broken(change):
    atoms = bulk("Cu", cubic=True)
    change(atoms)
    return atoms


BROKEN = {
    "NaN": (lambda a: a.positions.__setitem__((1, 2), np.nan), "Atom 1"),
    "infinite": (lambda a: a.positions.__setitem__((0, 0), np.inf), "finite"),
    "no cell": (lambda a: a.set_cell([0, 0, 0]), "lattice vector 0 is zero"),
    "no third vector": (lambda a: a.set_cell([3.6, 3.6, 0]), "lattice vector 2 is zero"),
    "flat": (lambda a: a.set_cell([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), "no volume"),
    "NaN cell": (lambda a: a.set_cell([np.nan, 3, 3]), "not finite"),
    "empty": (lambda a: a.__delitem__(slice(None)), "no atoms"),
    "charge": (lambda a: a.info.update(charge="plus"), "charge"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_atoms_that_cannot_be_meant_are_refused(case):
    change, said = BROKEN[case]
    with pytest.raises(StructureError, match=said):
        AtomGraph.from_atoms(broken(change), 5.0)


def test_the_refused_structure_of_a_batch_is_named():
    bad = broken(BROKEN["NaN"][0])
    with pytest.raises(StructureError, match="Structure 1"):
        AtomGraph.from_atoms([bulk("Cu"), bad], 5.0)


def test_tags_fixed_atoms_charge_and_spin_travel():
    slab = fcc111("Cu", (1, 1, 3), vacuum=4.0)
    slab.set_constraint(FixAtoms([0]))
    slab.info.update(charge=-1, spin=2)
    graph = AtomGraph.from_atoms([slab, molecule("CO")], 4.0)
    assert graph.tags.tolist() == [3, 2, 1, 0, 0]
    assert graph.fixed.tolist() == [True, False, False, False, False]
    assert graph.charge.tolist() == [-1, 0]
    assert graph.spin.tolist() == [2, 0]


def test_moving_changes_precision_of_floats_only():
    graph = AtomGraph.from_atoms(bulk("Cu"), 4.0, dtype=torch.float64).to(dtype=torch.float32)
    assert graph.positions.dtype == graph.cell.dtype == torch.float32
    assert graph.edge_index.dtype == graph.edge_shift.dtype == torch.int64


@pytest.mark.slow
@pytest.mark.parametrize("backend", EVERY)
def test_a_large_crystal_has_the_neighbors_of_a_small_one(backend):
    # 16384 atoms: a search over all pairs would need 268 million distances and gigabytes.
    atoms = bulk("Cu", cubic=True) * (16, 16, 16)
    graph = AtomGraph.from_atoms(atoms, 4.0, backend=backend)
    counts = torch.bincount(graph.edge_index[1], minlength=len(atoms))
    assert counts.unique().tolist() == [18]  # 12 nearest and 6 second neighbors of fcc


def cloud(seed: int, count: int, pbc: tuple[bool, bool, bool]) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(9, 16, 3)) + np.triu(rng.uniform(-5, 5, (3, 3)), 1)
    return Atoms(f"Cu{count}", scaled_positions=rng.uniform(-1, 2, (count, 3)), cell=cell, pbc=pbc)


@pytest.mark.parametrize(
    ("backend", "chunk"),
    [("torch", 500), ("torch", 32_768), pytest.param("nvalchemi", 0, marks=needs_nvalchemi)],
)
def test_clouds_of_hundreds_of_atoms_in_one_batch_agree_edge_for_edge(backend, chunk, monkeypatch):
    from ase_nnp.models import neighbors_torch

    monkeypatch.setattr(neighbors_torch, "CHUNK", chunk)
    flags = list(itertools.product([False, True], repeat=3))
    batch = [cloud(seed, 40 + 15 * seed, pbc) for seed, pbc in enumerate(flags)]
    batch.insert(3, bulk("Cu"))  # a tiny cell, whose neighbors are many images away
    one, two = (AtomGraph.from_atoms(batch, 5.0, backend=b) for b in ("vesin", backend))
    assert one.num_edges > 5_000
    assert torch.equal(one.edge_index, two.edge_index)
    assert torch.equal(one.edge_shift, two.edge_shift)


@pytest.mark.parametrize("backend", OTHERS)
def test_a_search_in_single_precision_misses_no_more_than_rounding(backend):
    from ase_nnp.models.neighbors import BACKENDS as SEARCHES

    atoms = cloud(7, 200, (True, True, False))
    graph = AtomGraph.from_atoms(atoms, 5.0, dtype=torch.float64)
    single = (graph.positions.float(), graph.cell.float(), graph.pbc, graph.batch)
    edges, shifts, distance = SEARCHES[backend](*single, 5.0)
    edge_set = set(zip(*edges.flip(0).tolist(), *shifts.T.tolist(), strict=True))
    near = {k for k, d in obvious(atoms, 5.001).items() if abs(d - 5) < 1e-4}
    assert edge_set ^ as_set(graph) <= near
    assert distance.dtype == torch.float32


@pytest.mark.parametrize("backend", EVERY)
def test_a_long_chain_is_searched_without_trying_all_pairs(backend):
    chain = Atoms("Cu2000", positions=[[2.5 * k, 0, 0] for k in range(2000)])
    assert AtomGraph.from_atoms(chain, 5.1, backend=backend).num_edges == 2 * (1999 + 1998)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("noise", [-1e-15, -1e-17, 1e-17])
def test_atoms_on_the_border_of_the_cell_keep_their_neighbors(backend, noise):
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    wanted = AtomGraph.from_atoms(atoms, 4.0).num_edges
    atoms.positions += noise
    assert AtomGraph.from_atoms(atoms, 4.0, backend=backend).num_edges == wanted


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize(("cutoff", "neighbors"), [(3.0, 6), (6.0, 32), (5.999999, 26)])
def test_neighbors_at_exactly_the_cutoff_are_in(backend, cutoff, neighbors):
    simple_cubic = Atoms("Po", cell=[3, 3, 3], pbc=True)
    graph = AtomGraph.from_atoms(simple_cubic, cutoff, dtype=torch.float64, backend=backend)
    assert graph.num_edges == neighbors


@needs_nvalchemi
def test_rows_of_neighbors_that_are_too_short_are_made_longer(monkeypatch):
    from nvalchemiops.torch import neighbors as package

    asked, search = [], package.batch_cell_list

    def spy(*args, max_neighbors):
        asked.append(max_neighbors)
        return search(*args, max_neighbors=max_neighbors)

    monkeypatch.setattr(package, "batch_cell_list", spy)
    dense = bulk("Cu", cubic=True) * (2, 2, 2)
    dense.set_cell(0.6 * dense.cell, scale_atoms=True)
    batch = [bulk("Cu"), dense, molecule("H2O")]
    one, two = (AtomGraph.from_atoms(batch, 5.0, backend=b) for b in ("vesin", "nvalchemi"))
    assert len(asked) == 2
    assert asked[1] >= torch.bincount(one.edge_index[1]).max() > 100
    assert torch.equal(one.edge_index, two.edge_index)
    assert torch.equal(one.edge_shift, two.edge_shift)


@needs_nvalchemi
def test_a_molecule_far_from_its_small_cell_is_binned_where_it_is():
    rng = np.random.default_rng(3)
    cloud = Atoms("He900", rng.uniform(0, 40, (900, 3)) + 500, cell=[2, 2, 2], pbc=(0, 1, 0))
    one, two = (AtomGraph.from_atoms(cloud, 5.0, backend=b) for b in ("vesin", "nvalchemi"))
    assert torch.equal(one.edge_index, two.edge_index)
    assert torch.equal(one.edge_shift, two.edge_shift)


def test_the_search_follows_the_device_and_what_is_installed(monkeypatch):

    from ase_nnp.models import neighbors

    chosen = {}
    for there in (False, True):
        monkeypatch.setattr(neighbors, "is_installed", lambda there=there: there)
        chosen[there] = [
            neighbors.searcher(None, torch.device(kind)).__name__ for kind in ("cpu", "mps", "cuda")
        ]
    assert chosen[False] == ["vesin_edges", "torch_edges", "torch_edges"]
    assert chosen[True] == ["vesin_edges", "torch_edges", "nvalchemi_edges"]


def test_a_search_that_is_not_there_is_refused_with_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match=r"'vesni'.*'vesin', 'torch'"):
        AtomGraph.from_atoms(bulk("Cu"), 3.0, backend="vesni")
    for name in ("nvalchemiops", "nvalchemiops.torch", "nvalchemiops.torch.neighbors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install ase_nnp\[cuda\]"):
        AtomGraph.from_atoms(bulk("Cu"), 3.0, backend="nvalchemi")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cutoff", [1e3, 1e6, 1e12])
def test_a_cutoff_far_beyond_a_molecule_takes_no_longer(backend, cutoff):
    atoms = molecule("CH3CH2OH")
    graph = AtomGraph.from_atoms(atoms, cutoff, backend=backend)
    assert graph.edge_index.shape[1] == len(atoms) * (len(atoms) - 1)


@pytest.mark.parametrize("cutoff", [-1.0, float("inf"), float("nan")])
def test_a_cutoff_that_is_no_distance_is_refused(cutoff):
    with pytest.raises(ConfigError, match="cutoff"):
        AtomGraph.from_atoms(molecule("CO"), cutoff)
