"""The script that fills the GPU table runs where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_table.py"


@pytest.mark.slow
def test_every_row_of_the_gpu_table_gets_a_figure_on_a_cpu():
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--families", "facet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 9
    assert not [row for row in rows if "Error" in row or "no time" in row], done.stdout
