"""The Lennard-Jones plugin of these tests, registered as an installed plugin would be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.fixture(autouse=True, scope="session")
def lj_family():
    """Register ``lj`` once, through the registry's own door."""
    import importlib

    from ase_nnp.registry.installed import installed

    registry = installed()
    registry.add_plugin("lj", lambda: importlib.import_module("lj_plugin"))
    assert "lj" not in registry.broken, registry.broken
    return registry.families["lj"]
