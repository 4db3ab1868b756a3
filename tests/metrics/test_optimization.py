"""Quality of relaxations in the oracle's energies."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.errors import DatasetError
from ase_nnp.metrics import optimization_metrics


def test_a_relaxation_that_ends_at_the_minimum_has_a_hundred_per_cent():
    scores = optimization_metrics([3.0, 1.0], [1.0, -2.0], [1.0, -2.0])
    assert scores == {"pct_T": 100.0, "pct_div": 0.0, "E_res": 0.0, "pct_success": 100.0}


def test_parts_of_the_way_down_are_averaged_over_relaxations_and_not_over_energies():
    scores = optimization_metrics([10.0, 1.0], [5.0, 0.25], [0.0, 0.0])
    assert scores["pct_T"] == pytest.approx((50 + 75) / 2)
    assert scores["E_res"] == pytest.approx((5 + 0.25) / 2)
    assert scores["pct_success"] == 0.0


def test_what_ends_higher_than_it_began_diverged_and_counts_for_nothing_else():
    scores = optimization_metrics([1.0, 1.0, 1.0, 1.0], [0.02, 1.2, 9.0, 0.5], [0.0] * 4)
    assert scores["pct_div"] == 50.0
    assert scores["pct_T"] == pytest.approx((98 + 50) / 2)
    assert scores["pct_success"] == 50.0  # 0.02 eV is within 1 kcal/mol, 0.5 is not


def test_below_the_minimum_of_the_oracle_is_more_than_all_of_the_way():
    scores = optimization_metrics([1.0], [-0.5], [0.0])
    assert scores["pct_T"] == 150.0
    assert scores["E_res"] == -0.5


def test_means_over_nothing_are_nan():
    scores = optimization_metrics([1.0], [2.0], [0.0])
    assert scores["pct_div"] == 100.0
    assert all(np.isnan(scores[k]) for k in ("pct_T", "E_res", "pct_success"))


@pytest.mark.parametrize(
    ("start", "end", "optimal", "said"),
    [
        ([1.0], [0.5, 0.2], [0.0], "shape"),
        ([1.0], [np.nan], [0.0], "finite"),
        ([1.0], [0.5], [1.0], "optimal"),
        ([1.0, 0.0], [0.5, 0.0], [0.0, 2.0], r"optimal\[1\]"),
    ],
)
def test_energies_that_cannot_be_meant_are_refused(start, end, optimal, said):
    with pytest.raises(DatasetError, match=said):
        optimization_metrics(start, end, optimal)
