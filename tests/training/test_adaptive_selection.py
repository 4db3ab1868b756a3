"""Which structures stay in a training, on losses that are known."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.errors import ConfigError
from ase_nnp.training.adaptive_selection import AdaptiveSelection


def run(selection, losses, steps, size=4):
    counts = np.zeros(len(losses), dtype=int)
    for _ in range(steps):
        drawn = selection.draw(size)
        counts[drawn] += 1
        selection.report(drawn, losses[drawn])
    return counts


def test_what_stays_easy_leaves_and_what_is_hard_is_repeated():
    losses = np.array([0.01] * 6 + [1.0] * 10 + [5.0] * 4)
    selection = AdaptiveSelection(20, patience=10**6)
    counts = run(selection, losses, 400)
    assert selection.redundant.tolist() == [True] * 6 + [False] * 14
    assert not selection.inconsistent.any()
    assert counts[16:].min() > 1.3 * counts[6:16].mean()
    assert counts[:6].max() < counts[6:].min()


def test_what_is_always_much_too_hard_is_inconsistent():
    losses = np.array([1.0] * 15 + [50.0])
    selection = AdaptiveSelection(16, patience=5)
    run(selection, losses, 300)
    assert np.flatnonzero(selection.inconsistent).tolist() == [15]
    assert not selection.redundant.any()


def test_what_must_not_be_forgotten_never_leaves():
    losses = np.array([0.01] * 4 + [1.0] * 12)
    selection = AdaptiveSelection(16, keep=[0, 1])
    counts = run(selection, losses, 400)
    assert selection.redundant.tolist() == [False, False, True, True] + [False] * 12
    assert counts[:2].min() > 0


def test_factors_forget_a_hard_time_that_is_over():
    selection = AdaptiveSelection(4)
    selection.report([0, 1, 2, 3], [9.0, 1.0, 1.0, 1.0])
    assert selection.factors[0] == pytest.approx(1.25)
    for _ in range(10):
        selection.report([0, 1, 2, 3], [3.0, 3.0, 3.0, 3.0])
    assert selection.factors == pytest.approx(np.ones(4), abs=1e-3)


def test_when_all_is_easy_nothing_has_left():
    selection = AdaptiveSelection(3, least=0.5)
    selection.usual = 100.0
    for _ in range(8):
        selection.report(selection.draw(3), np.full(len(selection.draw(3)), 0.1))
    assert len(selection.active)


def test_a_selection_goes_on_from_its_state_as_if_nothing_had_happened():
    losses = np.random.default_rng(0).uniform(0.1, 4.0, 12)
    one = AdaptiveSelection(12, seed=3)
    run(one, losses, 20)
    two = AdaptiveSelection(12, seed=99)
    two.load_state_dict(one.state_dict())
    assert run(one, losses, 30).tolist() == run(two, losses, 30).tolist()
    assert one.factors.tolist() == two.factors.tolist()


def test_a_state_of_other_structures_is_refused():
    with pytest.raises(ConfigError, match="of 5 structures, here are 6"):
        AdaptiveSelection(6).load_state_dict(AdaptiveSelection(5).state_dict())


def test_where_one_is_too_hard_and_the_other_too_easy_there_is_still_something_to_draw():
    selection = AdaptiveSelection(2, patience=2, grow=4.0, shrink=0.05)
    for _ in range(3):
        selection.report([0], [1.0])
    for _ in range(4):
        selection.report([1], [100.0])
    assert selection.active.tolist() == [0]
    selection.report([0], [1e-3])
    assert selection.active.tolist() == [0, 1]
    assert len(selection.draw(2)) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"easy": 3.0},
        {"shrink": 1.1},
        {"grow": 0.9},
        {"least": 1.5},
        {"most": 0.5},
        {"patience": 0},
    ],
)
def test_rules_that_cannot_be_meant_are_refused(options):
    with pytest.raises(ConfigError):
        AdaptiveSelection(**{"count": 5, **options})


@pytest.mark.parametrize("losses", [[1.0], [1.0, np.nan], [1.0, -1.0]])
def test_losses_that_are_none_are_refused(losses):
    with pytest.raises(ConfigError, match="finite"):
        AdaptiveSelection(5).report([0, 1], losses)
