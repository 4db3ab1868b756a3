"""Models of ``worker_models`` in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import ase_nnp

HERE = str(Path(__file__).parent)


def model(factory, arguments=None, **options):
    return ase_nnp.remote(
        sys.executable, f"worker_models:{factory}", arguments, path=[HERE], **options
    )
