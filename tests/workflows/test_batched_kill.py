"""Runs that are killed at random moments go on as if nothing had happened."""

from __future__ import annotations

import random
import signal

import batched_worker
import numpy as np
import pytest
from killed_forks import kill_at_random

from ase_nnp.errors import ConfigError

KILLS = 10


def other_inputs():
    """The structures of the run with one thing changed, by what it is."""
    changed = {}
    for name in ("positions", "numbers", "cell", "pbc", "constraint", "info", "momenta"):
        changed[name] = batched_worker.structures()
    changed["positions"][3].positions[0, 0] += 1e-9
    changed["numbers"][7].numbers[0] = 28
    changed["cell"][8].cell[0, 0] += 1e-9
    changed["pbc"][0].pbc = True
    changed["constraint"][5].set_constraint()
    changed["info"][8].info["charge"] = 1
    changed["momenta"][2].set_momenta(np.ones((9, 3)))
    changed["fewer"] = batched_worker.structures()[:-1]
    changed["more"] = [*batched_worker.structures(), batched_worker.structures()[0]]
    changed["order"] = batched_worker.structures()[::-1]
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relax", "md"])
def test_ten_kills_lose_and_double_nothing_and_no_other_input_goes_on(kind, tmp_path):
    whole = batched_worker.run(kind, tmp_path / "whole", 0.0, 1e9)
    random.seed(kind)
    arguments = [kind, str(tmp_path / "killed"), "0.004", "0.02", str(KILLS)]
    ends = kill_at_random(batched_worker.__file__, arguments, (5, 30))
    assert ends == [-signal.SIGKILL] * KILLS

    refused = 0
    for name, structures in other_inputs().items():
        with pytest.raises(ConfigError, match=r"holds another run \(structures"):
            batched_worker.run(kind, tmp_path / "killed", 0.0, 1e9, structures)
        refused += 1
        print(f"{kind}: continued with other {name}: refused")
    print(f"{kind}: {len(ends)} of {KILLS} killed, {refused} of {len(other_inputs())} refused")

    after = batched_worker.run(kind, tmp_path / "killed", 0.0, 1e9)
    expected = batched_worker.contents(tmp_path / "whole", whole)
    continued = batched_worker.contents(tmp_path / "killed", after)
    assert [row[:4] for row in continued] == [row[:4] for row in expected]
    for ours, theirs in zip(continued, expected, strict=True):
        assert ours[4] == theirs[4]
        np.testing.assert_allclose(ours[5], theirs[5], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours[6], theirs[6], rtol=1e-12, atol=1e-12)
    assert not list((tmp_path / "killed" / "frames").glob("*.bin"))
    assert not list((tmp_path / "killed").glob(".*"))
    lines = (tmp_path / "killed" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(batched_worker.structures())
