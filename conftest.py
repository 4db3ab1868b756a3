"""Fixtures for all tests: the reference material beside a checkout, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder ``../shared`` with reference fixtures; a checkout without it skips."""
    if not REFERENCE.is_dir():
        pytest.skip("needs the reference material in ../shared, which this checkout does not have")
    return REFERENCE
