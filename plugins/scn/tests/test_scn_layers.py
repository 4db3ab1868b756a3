"""The fast layers against slow, literal versions of the same formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from ase_nnp_scn.blocks import GridBlock, MessageBlock
from ase_nnp_scn.frames import direction, drawn_reference, frames_about, turn
from ase_nnp_scn.neighbors import count_within, ranks, table
from ase_nnp_scn.radial import DistanceBasis
from ase_nnp_scn.rotation import WignerRows, degrees
from ase_nnp_scn.sphere import grid, harmonics, sample_points


def directions(count, seed=0):
    vectors = torch.randn(
        count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return vectors / vectors.norm(dim=1, keepdim=True)


def random_frames(count, seed=0):
    return frames_about(directions(count, seed), directions(count, seed + 1))


def matrix(rows, lmax, mmax):
    """The full matrix (R, B) of one edge from its packed numbers."""
    layout = degrees(lmax, mmax)
    full = torch.zeros(layout[-1].rows.stop, layout[-1].block.stop, dtype=rows.dtype)
    for degree in layout:
        count = degree.rows.stop - degree.rows.start
        full[degree.rows, degree.block] = rows[degree.entries].view(-1, count).T
    return full


@pytest.mark.parametrize(("lmax", "mmax"), [(0, 0), (3, 0), (1, 1), (6, 1), (8, 1)])
def test_rotation_rows_turn_harmonics(lmax, mmax):
    frames, places = random_frames(4), directions(9, seed=5)
    rows = WignerRows(lmax, mmax)(frames)
    for frame, row in zip(frames, rows, strict=True):
        turned = harmonics(places @ frame.T, lmax)
        kept = [
            degree**2 + degree + order
            for degree in range(lmax + 1)
            for order in range(-min(degree, mmax), min(degree, mmax) + 1)
        ]
        harmonic_values = harmonics(places, lmax) @ matrix(row, lmax, mmax).T
        torch.testing.assert_close(harmonic_values, turned[:, kept], rtol=0, atol=1e-13)


def test_frames_are_rotations_that_bring_edges_to_the_polar_axis():
    u = directions(20)
    w = drawn_reference(u, torch.rand(20, 3, dtype=torch.float64))
    assert float((u * w).sum(1).abs().max()) < 0.99
    for frames in (frames_about(u, w), turn(frames_about(u, w), torch.arange(20.0).double())):
        torch.testing.assert_close(
            frames @ frames.transpose(1, 2), torch.eye(3).double().expand(20, 3, 3)
        )
        torch.testing.assert_close(torch.linalg.det(frames), torch.ones(20).double())
        polar = torch.tensor([0.0, 1, 0]).double().expand(20, 3)
        torch.testing.assert_close((frames @ u[:, :, None])[:, :, 0], polar)


def test_directions_of_frames_are_distinct_unit_vectors():
    directions = np.array([direction(k) for k in range(-50, 50)])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    cosines = directions @ directions.T - np.eye(len(directions))
    assert cosines.max() < 0.998


@pytest.mark.parametrize("lmax", [0, 3, 6])
def test_grid_and_back_is_the_identity(lmax):
    to_grid, from_grid = grid(lmax)
    torch.testing.assert_close(from_grid @ to_grid, torch.eye((lmax + 1) ** 2).double())


def test_sample_points_are_scaled_by_their_surroundings():
    points = sample_points(40)
    lengths = points.norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1, abs=1e-12)
    assert float((lengths - 1).abs().max()) > 0.01


def test_sample_values_of_degree_l_grow_with_the_length_to_the_l():
    place = directions(1)
    np.testing.assert_allclose(
        harmonics(1.1 * place, 3)[0, 9:], 1.1**3 * harmonics(place, 3)[0, 9:], rtol=1e-12
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given", [1, 9])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize(("lmax", "mmax"), [(2, 1), (3, 0)])
def test_messages_and_their_derivatives_equal_the_literal_sum_over_edges(
    lmax, mmax, taps, given, training
):
    torch.manual_seed(1)
    atoms, channels, hidden, width = 5, 3, 7, 4
    block = MessageBlock(lmax, mmax, channels, hidden, width).double().train(training)
    target = torch.tensor([0, 0, 0, 1, 3, 3, 4])
    source = torch.tensor([1, 4, 0, 0, 4, 1, 3])
    layout = degrees(lmax, mmax)
    frames = random_frames(len(target))
    angles = torch.arange(taps).double() * (math.pi / 2)
    turned = turn(frames.repeat_interleave(taps, 0), angles.repeat(len(target)))
    rows = WignerRows(lmax, mmax)(turned).view(len(target), taps, -1)
    place = count_within(target, atoms)
    near = table(target, source, place, torch.ones(len(target)).double(), rows, layout, atoms)
    # States may lack the higher degrees, as those of the first layer do.
    x = torch.randn(atoms, given, channels).double().requires_grad_()
    edge = torch.randn(atoms, near.source.shape[1], width).double().requires_grad_()

    wanted = torch.zeros(atoms, (lmax + 1) ** 2, channels).double()
    for number, (i, j) in enumerate(zip(target, source, strict=True)):
        gate = silu(block.fc1_dist(edge[i, place[number]]))
        for tap in range(taps):
            turn_in = matrix(rows[number, tap], lmax, mmax)
            both = torch.cat([(turn_in[:, :given] @ x[end]).flatten() for end in (j, i)])
            h = silu(block.fc1_edge_proj(both)) * gate
            message = silu(block.fc2_edge(silu(block.fc1_edge(h)))).view(-1, channels)
            wanted[i] += turn_in.T @ message / taps
    messages = block(x, edge, near)
    torch.testing.assert_close(messages, wanted)
    inputs, direction = [x, edge, *block.parameters()], torch.randn_like(messages)
    literal = torch.autograd.grad(wanted, inputs, direction)
    torch.testing.assert_close(torch.autograd.grad(messages, inputs, direction), literal)


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_the_update_on_the_grid_equals_the_literal_one(bands):
    torch.manual_seed(2)
    lmax, channels = 3, 4
    block = GridBlock(lmax, bands, channels).double()
    fc1 = torch.nn.Linear(2 * bands * channels, 2 * bands * channels).double()
    fc2 = torch.nn.Linear(2 * bands * channels, 2 * channels).double()
    fc3 = torch.nn.Linear(2 * channels, channels).double()
    x, message = torch.randn(2, 6, (lmax + 1) ** 2, channels).double()
    to_grid, from_grid = grid(lmax)

    def banded(y):
        copies = []
        for band in range(bands):
            low = y.clone()
            low[:, (lmax - band + 1) ** 2 :] = 0
            copies.append(to_grid @ low)
        return torch.cat(copies, dim=2)

    values = silu(fc1(torch.cat([banded(x), banded(message)], dim=2)))
    wanted = from_grid @ fc3(silu(fc2(values)))
    torch.testing.assert_close(block(x, message, fc1, fc2, fc3), wanted)


@pytest.mark.parametrize("kind", ["gaussian", "sigmoid", "linearsigmoid", "silu"])
def test_distance_functions_follow_their_formulas(kind):
    basis = DistanceBasis(kind, cutoff=4.0, size=20, scale=1.5)
    d = torch.tensor([0.7, 2.2])
    values = basis(d)
    if kind == "silu":
        weight, bias = basis.fc1.weight, basis.fc1.bias
        wanted = silu(d[:, None] * weight[:, 0] + weight[:, 1] + bias)
    else:
        offset = np.linspace(0, 4, 20)
        apart = d.numpy()[:, None] - offset
        steps = 1.5 * apart / (offset[1] - offset[0])
        step = 1 / (1 + np.exp(-steps))
        wanted = {
            "gaussian": np.exp(-0.5 * (apart / (1.5 * (offset[1] - offset[0]))) ** 2),
            "sigmoid": step,
            "linearsigmoid": step + 0.001 * steps,
        }[kind]
        wanted = torch.tensor(wanted).float()
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 1000))
def test_ranks_sort_the_neighbors_of_each_center(centers, seed):
    target = torch.tensor(centers)
    distance = torch.rand(len(centers), generator=torch.Generator().manual_seed(seed)).double()
    rank = ranks(target, distance, 5)
    for center in range(5):
        mine = (target == center).nonzero()[:, 0]
        assert sorted(rank[mine].tolist()) == list(range(len(mine)))
        inner, outer = mine[rank[mine] < 12], mine[rank[mine] >= 12]
        if len(outer):
            assert distance[inner].max() <= distance[outer].min() + 1e-4


def test_the_listed_order_decides_among_equal_distances():
    target = torch.zeros(14, dtype=torch.int64)
    distance = torch.full((14,), 2.0)
    distance[0] += 1e-6  # rounding must not undo a choice that the list has made
    assert ranks(target, distance, 1).tolist() == list(range(14))
