"""Fixtures for all tests: the reference material beside a checkout, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does; no test may rest on it.
settings.register_profile("timeless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("timeless")

REFERENCE = Path(__file__).resolve().parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder ``../shared`` with reference fixtures; a checkout without it skips."""
    if not REFERENCE.is_dir():
        pytest.skip("needs the reference material in ../shared, which this checkout does not have")
    return REFERENCE
