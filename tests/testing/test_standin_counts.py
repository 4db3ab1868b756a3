"""What a call asks of a device does not grow; ``benchmarks/device_counts.py`` prints the table."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from ase_nnp import list_models
from ase_nnp.testing.standin import is_available

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "device_counts.py"

#: Operations and waits of an evaluation of a ready graph, as RESULTS.md has them.
LIMITS = {
    "cgcnn": (56, 0),
    "cgcnn_oc20": (113, 0),
    "chgnet": (709, 12),
    "escaip": (620, 10),
    "facet": (487, 0),
    "matgl": (611, 0),
    "scn": (528, 11),
    "sevennet": (335, 0),
    "zbl": (131, 1),
}
QUICK = ("facet", "zbl")


@pytest.mark.skipif(not is_available(), reason="this torch has no devices in Python")
@pytest.mark.parametrize(
    "family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in LIMITS]
)
def test_a_call_asks_no_more_of_a_device_than_it_did(family, monkeypatch):
    # A script finds its neighbors; a file that is run from elsewhere does not.
    monkeypatch.syspath_prepend(SCRIPT.parent)
    if family not in list_models():
        pytest.skip(f"'{family}' is not installed")
    operations, waits = runpy.run_path(str(SCRIPT))["counts"](family)

    # Another torch may split an operation; a wait is ours.
    assert operations <= 1.1 * LIMITS[family][0]
    assert waits <= LIMITS[family][1]
