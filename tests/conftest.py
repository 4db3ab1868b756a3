"""The Lennard-Jones plugin, registered as an installed one would be; and the command line."""

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


@pytest.fixture
def run(capsys):
    """``run("relax", ...)`` in this process gives exit code, stdout and stderr."""
    from ase_nnp.cli import main

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call
