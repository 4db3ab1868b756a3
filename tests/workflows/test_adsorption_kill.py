"""A search that is killed at random moments ends as if nothing had happened."""

from __future__ import annotations

import random
import signal

import adsorb_worker
import numpy as np
import pytest
from killed_forks import kill_at_random

KILLS = 10


@pytest.mark.slow
def test_ten_kills_change_nothing_of_the_ranking(tmp_path):
    random.seed(4)
    ends = kill_at_random(adsorb_worker.__file__, [str(tmp_path / "run"), str(KILLS)], (1, 40))
    assert -signal.SIGKILL in ends

    whole = adsorb_worker.search(None)
    after = adsorb_worker.search(tmp_path / "run")
    for one, other in ((whole.minima, after.minima), (whole.rejected, after.rejected)):
        assert [a.placements for a in one] == [b.placements for b in other]
        np.testing.assert_allclose([a.energy for a in one], [b.energy for b in other], atol=1e-9)
    assert [a.reason for a in whole.rejected] == [b.reason for b in after.rejected]
    assert [a.geometry.site for a in whole.minima] == [b.geometry.site for b in after.minima]
