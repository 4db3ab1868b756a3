"""Distances and widths by matrix products, against their definitions on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ase_nnp.uncertainty.methods import nearest
from ase_nnp.uncertainty.methods.nearest import NearestAtoms
from ase_nnp.uncertainty.methods.width_table import WidthTable
from ase_nnp.uncertainty.statistics.growth import LogLinearWidth
from ase_nnp.uncertainty.statistics.ood import KNNDistance


def by_definition(known, features, numbers):
    """Mean of the k least distances of each atom, one pair of atoms at a time."""
    out = np.full(len(features), np.inf)
    for i, (row, z) in enumerate(zip(features / known.scale, numbers, strict=True)):
        if z in known.training:
            far = np.sort([np.linalg.norm(row - other) for other in known.training[z]])
            out[i] = far[: known.k].mean()
    return out


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("block", [1, 1 << 24])
def test_distances_to_nearest_atoms_are_their_definition(monkeypatch, offset, block):
    """Also of clusters that single precision hardly tells apart, and far from the origin."""
    monkeypatch.setattr(nearest, "BLOCK", block)
    rng = np.random.default_rng(0)
    sizes = {1: 60, 6: 30, 8: 3}
    training = {z: rng.normal(size=(n, 12)) + offset for z, n in sizes.items()}
    training[1][30:] = training[1][0] + 1e-3 * rng.normal(size=(30, 12))
    known = KNNDistance(training, rng.uniform(0.5, 2, 12), k=5)

    numbers = np.array([8, 1, 6, 1, 79, 1, 8])
    features = (rng.normal(size=(7, 12)) + offset) * known.scale
    features[1] = training[1][0] * known.scale
    got = NearestAtoms(known)(torch.as_tensor(features), torch.as_tensor(numbers)).numpy()
    np.testing.assert_allclose(got, by_definition(known, features, numbers), rtol=1e-9)
    assert np.isinf(got[4])


def test_copies_of_training_atoms_are_at_distance_zero():
    rows = np.random.default_rng(1).normal(size=(20, 4))
    known = KNNDistance({1: np.repeat(rows, 3, axis=0)}, np.ones(4), k=3)
    far = NearestAtoms(known)(torch.as_tensor(rows), torch.ones(20, dtype=torch.int64))
    assert (far == 0).all()


def test_the_next_structure_is_not_answered_with_the_order_of_the_last():
    known = KNNDistance({1: np.zeros((1, 2)), 6: np.full((1, 2), 3.0)}, np.ones(2), k=1)
    near = NearestAtoms(known)
    rows = torch.tensor([[0.0, 1.0], [3.0, 5.0]])
    assert near(rows, torch.tensor([1, 6])).tolist() == [1.0, 2.0]
    assert near(rows.flip(0), torch.tensor([6, 1])).tolist() == [2.0, 1.0]
    assert near(rows[:0], torch.zeros(0, dtype=torch.int64)).tolist() == []
    assert near(rows, torch.tensor([9, 9])).tolist() == [np.inf, np.inf]


def test_widths_together_are_each_by_itself():
    rng = np.random.default_rng(2)
    signs, numbers = rng.normal(size=(9, 3)), rng.choice([1, 6, 8, 26], 9)
    widths = {
        "three": LogLinearWidth(np.array([0.5, 0.0, 1.0]), -1.0, {1: 0.3, 6: -0.2}),
        "two": LogLinearWidth(np.array([1.5, 0.25]), 2.0, {26: 1.0}),
    }
    got = WidthTable(widths)(torch.as_tensor(signs), torch.as_tensor(numbers))
    for name, one in widths.items():
        count = len(one.slopes)
        np.testing.assert_allclose(got[name].numpy(), one(signs[:, :count], numbers), rtol=1e-12)
    alone = WidthTable({"two": widths["two"]})(torch.as_tensor(signs[:, :2]))
    np.testing.assert_allclose(alone["two"].numpy(), widths["two"](signs[:, :2]), rtol=1e-12)
    assert WidthTable({})(torch.as_tensor(signs)) == {}
