"""The bi-directional nearest-neighbor graph against its dense definition, written out plainly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.geometry import complete_cell

from ase_nnp import AtomGraph
from ase_nnp_escaip.knn import nearest, reverse_edges


def obvious(atoms: Atoms, settings, *, images: int = 4) -> dict[tuple[int, ...], float]:
    """Envelopes of kept edges ``{(center, neighbor, n1, n2, n3): env}`` from all pairs."""
    cell = complete_cell(atoms.cell)
    ranges = [range(-images, images + 1) if p else (0,) for p in atoms.pbc]
    shifts = np.array(list(itertools.product(*ranges)))
    r = atoms.positions
    distance = np.linalg.norm(
        r[None, :, None] + (shifts @ cell)[None, None] - r[:, None, None], axis=-1
    )  # (i, j, n)
    k, scale = settings.knn_k, settings.knn_sigmoid_scale

    def ranks(rows: np.ndarray) -> np.ndarray:
        places = np.full(rows.shape, np.inf)
        for row, out in zip(rows, places, strict=True):
            order = np.argsort(row, kind="stable")
            if not settings.knn_soft:
                out[order] = np.arange(len(order))
                continue
            if settings.knn_use_low_mem:
                order = order[: k + 20]
                x = (row[order][:, None] - row[order]) / scale
                step = np.where(abs(x) < np.pi, 0.5 + 0.5 * np.sin(x / 2), 0.5 + 0.5 * np.sign(x))
            else:
                step = 1 / (1 + np.exp(-(row[order][:, None] - row[order]) / scale))
            out[order] = step.sum(1)
        return places

    n = len(atoms)
    source = ranks(distance.reshape(n, -1)).reshape(distance.shape)
    swapped = distance.transpose(1, 0, 2)
    target = ranks(swapped.reshape(n, -1)).reshape(distance.shape).transpose(1, 0, 2)
    terms = np.stack([source / k, target / k, distance / settings.max_radius])
    if settings.knn_soft:
        lam = settings.knn_lse_scale
        top = terms.max(0)
        finite = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(over="ignore"):
            env = lam * np.log(np.exp((terms - finite) / lam).sum(0)) + finite
    else:
        env = terms.max(0)
    kept = (env < 1) & (distance > 1e-6)
    return {
        (int(i), int(j), *map(int, shifts[m])): float(env[i, j, m])
        for i, j, m in zip(*np.nonzero(kept), strict=True)
    }


def ours(atoms: Atoms, model) -> dict[tuple[int, ...], float]:
    graph = model.make_graph(atoms)
    edges = nearest(graph, model.settings)
    cell = complete_cell(atoms.cell)
    r = graph.positions.numpy()
    # The model may fold atoms into the cell; images are counted for the positions as given.
    image = np.rint(np.linalg.solve(cell.T, (atoms.positions - r).T).T).astype(int)
    i, j = edges.receiver.numpy(), edges.sender.numpy()
    shift = np.linalg.solve(cell.T, (edges.vector.numpy() - r[j] + r[i]).T).T
    shift = np.rint(shift).astype(int) + image[i] - image[j]
    return {
        (int(a), int(b), *map(int, s)): float(e)
        for a, b, s, e in zip(i, j, shift, edges.env, strict=True)
    }


def random_atoms(seed: int, pbc: tuple[bool, bool, bool], count: int) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(5.0, 7.0, 3)) + rng.normal(scale=0.8, size=(3, 3))
    atoms = Atoms("Cu" * count, cell=cell, pbc=pbc, scaled_positions=rng.random((count, 3)) * 1.5)
    return atoms


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"knn_soft": False},
        pytest.param({"knn_use_low_mem": False}, marks=pytest.mark.slow),
        {"knn_k": 5},
    ],
    ids=["soft", "hard", "full sigmoid", "few neighbors"],
)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "pbc", [(True, True, True), (True, False, True), (False, False, False)], ids=str
)
def test_the_graph_equals_its_dense_definition(make, options, seed, pbc):
    model = make(**{"max_radius": 3.5, "knn_k": 9, **options})
    atoms = random_atoms(seed, pbc, 6)
    wanted, envelopes = obvious(atoms, model.settings), ours(atoms, model)
    assert wanted.keys() == envelopes.keys()
    keys = list(wanted)
    # Without a cutoff of its own the sigmoid also feels images that are not listed here.
    tolerance = 1e-6 if not model.settings.knn_use_low_mem else 1e-12
    np.testing.assert_allclose(
        [envelopes[k] for k in keys], [wanted[k] for k in keys], atol=tolerance
    )
    assert len(keys) > 6 or not any(pbc)


def test_a_batch_has_the_edges_of_its_structures(make, slab, crystal):
    model = make()
    parts = [slab, crystal, Atoms("O")]
    together = nearest(model.make_graph(parts), model.settings)
    apart = [nearest(model.make_graph(one), model.settings) for one in parts]
    torch.testing.assert_close(together.env, torch.cat([e.env for e in apart]))
    torch.testing.assert_close(together.vector, torch.cat([e.vector for e in apart]))


def test_every_edge_has_its_reverse(make, crystal):
    graph = make().make_graph(crystal)
    reverse, paired = reverse_edges(graph)
    assert paired.all()
    assert torch.equal(graph.edge_index[:, reverse], graph.edge_index.flip(0))
    assert torch.equal(graph.edge_shift[reverse], -graph.edge_shift)


@pytest.mark.parametrize("soft", [True, False])
def test_the_kept_set_is_symmetric(make, soft):
    model = make(knn_soft=soft, knn_k=6)
    atoms = random_atoms(7, (True, True, False), 8)
    envelopes = ours(atoms, model)
    assert envelopes
    for (i, j, a, b, c), env in envelopes.items():
        assert envelopes[(j, i, -a, -b, -c)] == pytest.approx(env, abs=1e-12)


def test_a_plain_radius_graph_is_taken_for_what_it_is(make, slab):
    model = make()
    own = model(model.make_graph(slab))
    plain = AtomGraph.from_atoms(slab, model.cutoff, dtype=torch.float64, wrap=True)
    torch.testing.assert_close(model(plain), own, rtol=1e-12, atol=1e-12)


def test_given_edges_are_all_kept_in_any_order_with_or_without_the_atoms_themselves(make, slab):
    model = make()
    graph = model.make_graph(slab)
    edges = nearest(graph, model.settings)
    cell = torch.from_numpy(complete_cell(slab.cell))
    image = edges.vector - graph.positions[edges.sender] + graph.positions[edges.receiver]
    shift = torch.linalg.solve(cell.T, image.T).T.round().long()
    index = torch.stack([edges.sender, edges.receiver])
    own = torch.arange(len(slab)).expand(2, -1)
    shuffled = torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(0))
    wanted = model(graph)
    for order in (slice(None), shuffled):
        plain = graph.replace(edge_index=index[:, order], edge_shift=shift[order], extra={})
        torch.testing.assert_close(model(plain), wanted, rtol=1e-10, atol=1e-10)
        both = plain.replace(
            edge_index=torch.cat([own, plain.edge_index], 1),
            edge_shift=torch.cat([torch.zeros(len(slab), 3).long(), plain.edge_shift]),
        )
        torch.testing.assert_close(model(both), wanted, rtol=1e-10, atol=1e-10)


def test_leaving_out_a_given_edge_changes_the_result(make, crystal):
    model = make()
    graph = model.make_graph(crystal)
    edges = nearest(graph, model.settings)
    cell = torch.from_numpy(complete_cell(crystal.cell))
    image = edges.vector - graph.positions[edges.sender] + graph.positions[edges.receiver]
    shift = torch.linalg.solve(cell.T, image.T).T.round().long()
    index = torch.stack([edges.sender, edges.receiver])
    rest = torch.arange(len(shift)) != edges.env.argmin()
    fewer = graph.replace(edge_index=index[:, rest], edge_shift=shift[rest], extra={})
    change = model(fewer)["energy"] - model(graph)["energy"]
    assert abs(change.item()) > 1e-6


def test_single_precision_picks_the_same_neighbors_of_a_perfect_crystal(make):
    model = make(knn_soft=False)
    atoms = bulk("Cu", cubic=True)
    double = ours(atoms, model)
    single = nearest(model.float().make_graph(atoms), model.settings)
    model.double()
    assert len(single.env) == len(double)
