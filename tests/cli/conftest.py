"""The command line inside this process."""

from __future__ import annotations

import pytest

from ase_nnp.cli import main


@pytest.fixture
def run(capsys):
    """``run("relax", ...)`` gives exit code, stdout and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call
