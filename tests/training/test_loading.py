"""Batches of graphs by a budget: complete, balanced, repeatable and resumable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_nnp.datasets import open_dataset, write_dataset
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.training.batch_sampler import BudgetSampler
from ase_nnp.training.graph_dataset import AtomGraphDataset, collate
from ase_nnp.training.graph_loader import GraphLoader
from ase_nnp.training.stored_edges import bare_graph


def structures(count=24):
    rng = np.random.default_rng(0)
    out = []
    for number in range(count):
        atoms = [
            bulk("Cu", cubic=True) * (1 + number % 3, 1, 1),
            fcc111("Pt", (2, 2, 3), vacuum=6.0),
            molecule("CH3OH"),
        ][number % 3]
        atoms.rattle(0.05, seed=number)
        atoms.info["sid"] = number
        atoms.info["charge"] = number % 2
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(number), forces=rng.normal(size=(len(atoms), 3))
        )
        out.append(atoms)
    return out


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("loading") / "a.lmdb"
    write_dataset(path, structures())
    return path


class Short(Potential):
    cutoff, max_neighbors, energy_kind = 4.0, 12, "total"


def test_a_graph_without_atoms_is_the_graph_of_the_atoms(path):
    dataset = open_dataset(path)
    for index in range(6):
        ours = bare_graph(dataset.arrays(index), torch.float64)
        theirs = AtomGraph.from_edges(
            dataset[index], np.zeros((2, 0)), np.zeros((0, 3)), dtype=torch.float64
        )
        for name in ("atomic_numbers", "positions", "cell", "pbc", "batch", "edge_index", "tags",
                     "edge_shift", "fixed", "charge", "spin"):  # fmt: skip
            one, two = getattr(ours, name), getattr(theirs, name)
            assert one.dtype == two.dtype, name
            assert torch.equal(one, two), name


def test_labels_and_graphs_belong_together(path):
    data = AtomGraphDataset(open_dataset(path), model=Short(), dtype=torch.float64)
    batch = data.__getitems__([3, 0, 5])
    assert batch.index.tolist() == [3, 0, 5]
    assert batch.targets["energy"].tolist() == [3.0, 0.0, 5.0]
    atoms = [structures()[k] for k in (3, 0, 5)]
    wanted = AtomGraph.from_atoms(atoms, 4.0, 12, dtype=torch.float64, recenter=True)
    assert torch.equal(batch.graph.edge_index, wanted.edge_index)
    assert torch.equal(batch.graph.positions, wanted.positions)
    forces = np.concatenate([a.calc.results["forces"] for a in atoms])
    np.testing.assert_array_equal(batch.targets["forces"].numpy(), forces)


def test_torchs_own_loader_takes_the_graphs(path):
    data = AtomGraphDataset(open_dataset(path), cutoff=3.0)
    loader = torch.utils.data.DataLoader(data, batch_size=5, collate_fn=collate)
    assert [batch.graph.num_structures for batch in loader] == [5, 5, 5, 5, 4]


def test_a_missing_label_is_nan_and_a_list_of_atoms_will_do():
    plain = structures(3)
    plain[1].calc = None
    data = AtomGraphDataset(plain, cutoff=3.0, labels=("energy", "forces", "stress"))
    batch = data.__getitems__([0, 1, 2])
    assert torch.isnan(batch.targets["energy"]).tolist() == [False, True, False]
    assert torch.isnan(batch.targets["stress"]).all()
    assert batch.targets["stress"].shape == (3, 3, 3)


sizes_lists = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(sizes_lists, st.integers(20, 100), st.integers(1, 4), st.booleans(), st.integers(0, 5))
def test_every_structure_comes_once_within_the_budget(sizes, budget, world, shuffle, epoch):
    ranks = [
        BudgetSampler(sizes, budget, rank=r, world_size=world, shuffle=shuffle, seed=3)
        for r in range(world)
    ]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in ranks]
    assert len({len(share) for share in batches}) == 1
    seen = sorted(i for share in batches for batch in share for i in batch if i >= 0)
    assert seen == list(range(len(sizes)))
    for parts in zip(*batches, strict=True):
        step = [i for part in parts for i in part if i >= 0]
        assert all(parts)
        assert len(step) == 1 or sum(sizes[i] for i in step) <= budget


def test_batches_are_full_and_processes_are_balanced():
    sizes = np.random.default_rng(0).integers(7, 226, size=3000)
    shares = [list(BudgetSampler(sizes, 8000, rank=r, world_size=4, seed=1)) for r in range(4)]
    totals = np.array([[sizes[batch].sum() for batch in share] for share in shares])
    assert totals.mean() > 0.97 * 2000  # of a quarter of the budget
    assert (totals.max(axis=0) - totals.min(axis=0)).mean() < 0.02 * 2000  # within a step
    assert np.ptp(totals.sum(axis=1)) < 0.01 * totals.sum(axis=1).mean()


def test_order_follows_from_seed_and_epoch_alone():
    sizes = np.random.default_rng(0).integers(5, 50, size=200)

    def order(seed, epoch):
        sampler = BudgetSampler(sizes, 300, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_without_shuffling_batches_follow_the_dataset():
    sampler = BudgetSampler([3, 3, 3, 9, 1, 20, 2], 9, shuffle=False)
    assert list(sampler) == [[0, 1, 2], [3], [4], [5], [6]]
    capped = BudgetSampler([1] * 5, 9, shuffle=False, max_structures=2)
    assert list(capped) == [[0, 1], [2, 3], [4]]


def test_an_interrupted_epoch_continues_with_the_next_batch(path):
    def loader():
        data = AtomGraphDataset(open_dataset(path), cutoff=3.0)
        return GraphLoader(data, budget=40, seed=5)

    whole = loader()
    expected = [b.index.tolist() for _ in range(2) for b in whole]
    first = loader()
    seen = []
    for batch in first:
        seen.append(batch.index.tolist())
        if len(seen) == 3:
            state = first.state_dict()
            break
    second = loader()
    second.load_state_dict(state)
    seen += [b.index.tolist() for b in second]  # the rest of the epoch
    seen += [b.index.tolist() for b in second]  # and the next
    assert seen == expected
    assert len(second) == len(whole)
    other = GraphLoader(AtomGraphDataset(open_dataset(path), cutoff=3.0), budget=50, seed=5)
    with pytest.raises(ConfigError, match="another dataset"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "context",
    [
        "fork",
        pytest.param("spawn", marks=pytest.mark.slow),
        pytest.param("forkserver", marks=pytest.mark.slow),
    ],
)
# Where this process may use one core only, torch says that two workers are many.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_give_the_batches_of_one_process(path, context):
    data = AtomGraphDataset(open_dataset(path), cutoff=3.0)
    assert data.dataset[0].info["sid"] == 0  # opened before the workers start
    alone = list(GraphLoader(data, budget=40, seed=2))
    loader = GraphLoader(data, budget=40, seed=2, workers=2, context=context, prefetch=2)
    for _ in range(2):
        loader.set_epoch(0)
        for ours, theirs in zip(loader, alone, strict=True):
            assert ours.index.tolist() == theirs.index.tolist()
            assert torch.equal(ours.graph.edge_index, theirs.graph.edge_index)
            assert torch.equal(ours.targets["forces"], theirs.targets["forces"])


def test_stored_edges_are_used_when_the_rule_is_the_same(shared):
    dataset = open_dataset(shared / "datasets/oc20_s2ef_old")
    same = AtomGraphDataset(dataset, cutoff=6.0, max_neighbors=50)
    assert same.uses_stored_edges
    assert same[0].graph.num_edges == dataset.arrays(0)["edge_index"].shape[1]
    assert same.sizes("edges").tolist() == [
        d.graph.num_edges for d in map(same.__getitem__, range(8))
    ]
    for cutoff, cap in ((5.0, 50), (6.0, 40), (6.5, 50), (6.0, None)):
        other = AtomGraphDataset(dataset, cutoff=cutoff, max_neighbors=cap)
        assert not other.uses_stored_edges, (cutoff, cap)
        assert other[0].graph.num_edges == AtomGraph.from_atoms(dataset[0], cutoff, cap).num_edges


def test_stored_edges_of_our_own_files_are_used(tmp_path):
    from ase_nnp.datasets.sample import from_atoms
    from ase_nnp.datasets.writing.record_writers import FlatLMDBSink

    samples = []
    for atoms in structures(6):
        graph = AtomGraph.from_atoms(atoms, 4.0, 12, dtype=torch.float64)
        samples.append(
            {
                **from_atoms(atoms),
                "edge_index": graph.edge_index.numpy(),
                "edge_shift": graph.edge_shift.numpy(),
            }
        )
    sink = FlatLMDBSink(tmp_path / "part")
    sink.append(FlatLMDBSink.encode(samples), {"written": 6, "done": 6})
    sink.finish(tmp_path / "edges.lmdb")
    dataset = open_dataset(tmp_path / "edges.lmdb")
    assert AtomGraphDataset(dataset, model=Short()).uses_stored_edges
    assert not AtomGraphDataset(dataset, model=Short(), stored_edges=False).uses_stored_edges
    assert not AtomGraphDataset(dataset, cutoff=4.5, max_neighbors=20).uses_stored_edges
    for stored, built in zip(
        AtomGraphDataset(dataset, model=Short()),
        AtomGraphDataset(dataset, model=Short(), stored_edges=False),
        strict=False,
    ):
        assert torch.equal(stored.graph.edge_index, built.graph.edge_index)


def test_a_budget_of_edges_is_kept(path):
    data = AtomGraphDataset(open_dataset(path), cutoff=4.0)
    counts = data.sizes("edges")
    assert counts.tolist() == [data[k].graph.num_edges for k in range(len(data))]
    for batch in GraphLoader(data, budget=int(counts.max()) * 2, unit="edges", seed=1):
        assert batch.graph.num_edges <= counts.max() * 2
    capped = AtomGraphDataset(open_dataset(path), cutoff=4.0, max_neighbors=6)
    assert (capped.sizes("edges") >= [capped[k].graph.num_edges for k in range(len(data))]).all()


def test_energies_of_another_kind_than_the_models_are_refused(path):
    class Adsorption(Short):
        energy_kind = "adsorption"

    with pytest.raises(DatasetError, match=r"holds total energies.*with_energy\('adsorption'\)"):
        AtomGraphDataset(open_dataset(path), model=Adsorption())
    AtomGraphDataset(open_dataset(path), model=Adsorption(), labels=("forces",))

    # A list does not say what it holds; each of its structures does.
    frames = AtomGraphDataset(list(open_dataset(path)), model=Adsorption())
    with pytest.raises(DatasetError, match=r"holds total energies.*with_energy\('adsorption'\)"):
        frames[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a budget"),
        ({"budget": 0}, "at least 1"),
        ({"budget": 9, "rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"budget": 9, "unit": "bytes"}, "'bytes'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(path, options, message):
    with pytest.raises(ConfigError, match=message):
        GraphLoader(AtomGraphDataset(open_dataset(path), cutoff=3.0), **options)
