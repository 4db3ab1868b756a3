"""Sums and largest values over the rows of structures."""

from __future__ import annotations

import numpy as np
import torch

from ase_nnp.models.segments import Segments


def test_segments_do_what_a_loop_does():
    sizes, rng = [3, 1, 4], np.random.default_rng(0)
    segments = Segments(sizes)
    a, b = (torch.from_numpy(rng.normal(size=(8, 3))) for _ in range(2))
    parts = [a[segments.slice(k)] for k in range(3)]
    others = [b[segments.slice(k)] for k in range(3)]
    assert [len(part) for part in parts] == sizes

    close = {"rtol": 1e-14, "atol": 1e-14}
    expected = [float((x * y).sum()) for x, y in zip(parts, others, strict=True)]
    np.testing.assert_allclose(segments.dot(a, b), expected, **close)
    np.testing.assert_allclose(segments.sum(a[:, 0]), [p[:, 0].sum() for p in parts], **close)
    np.testing.assert_allclose(segments.max(a[:, 0]), [p[:, 0].max() for p in parts], **close)
    np.testing.assert_allclose(segments.max(a), [p.max() for p in parts], **close)
    lengths = [p.norm(dim=1).max() for p in parts]
    np.testing.assert_allclose(segments.longest(a), lengths, **close)
    assert segments.spread(torch.arange(3)).tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_what_is_not_a_number_stays_in_its_segment():
    segments = Segments([2, 2])
    values = torch.tensor([1.0, torch.nan, 2.0, 3.0], dtype=torch.float64)
    for result in (segments.sum(values), segments.max(values)):
        assert result.isnan().tolist() == [True, False]


def test_some_segments_and_more_of_them():
    segments, mask = Segments([3, 1, 4]), np.array([True, False, True])
    assert segments.places(mask).tolist() == [0, 2]
    assert segments.rows_of(mask).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert segments.keep(mask).sizes.tolist() == [3, 4]
    assert segments.join(Segments([2])).owner.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert len(segments.keep(~mask & mask)) == 0
