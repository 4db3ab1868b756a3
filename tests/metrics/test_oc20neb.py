"""OC20NEB's success rate, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.errors import PredictionError
from ase_nnp.metrics import oc20neb_metrics


def test_success_is_convergence_within_a_tenth_of_an_electron_volt():
    predicted = [1.05, 0.70, 0.95, np.nan, 0.50]
    reference = [1.00, 1.00, 1.00, 1.00, 0.55]
    converged = [True, True, False, True, True]
    scores = oc20neb_metrics(predicted, reference, converged)
    assert scores["success"] == 2 / 5  # the first and the last
    assert scores["converged"] == 3 / 5
    assert scores["barrier_mae"] == pytest.approx((0.05 + 0.30 + 0.05) / 3)
    lower = oc20neb_metrics(predicted, reference, converged, one_sided=True)
    assert lower["success"] == 3 / 5  # the second found a lower path


def test_classes_are_scored_apart():
    kinds = ["transfer", "desorption", "transfer"]
    scores = oc20neb_metrics([1.0, 2.0, 3.0], [1.1, 2.5, 3.0], classes=kinds)
    assert scores["by_class"]["transfer"]["success"] == 1.0
    assert scores["by_class"]["desorption"]["success"] == 0.0
    assert scores["success"] == pytest.approx(2 / 3)


def test_nothing_converged_has_no_mean_error():
    scores = oc20neb_metrics([np.nan], [1.0])
    assert (scores["success"], scores["barrier_mae"]) == (0.0, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [
        ([1.0], [1.0, 2.0], {}),
        ([], [], {}),
        ([1.0], [np.nan], {}),
        ([1.0], [1.0], {"classes": ["a", "b"]}),
    ],
)
def test_what_does_not_belong_together_is_refused(ours, theirs, more):
    with pytest.raises(PredictionError):
        oc20neb_metrics(ours, theirs, **more)
