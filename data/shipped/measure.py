"""What the measurements of the shipped model share: models, calculators, one report file."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from label import teacher

from ase_nnp import NNPCalculator

#: 1 eV/A^3 in GPa.
GPA = 160.21766


def arguments(text: str | None, *extra: str) -> argparse.Namespace:
    """MODEL, --uncertainty, --output and ``extra`` positional paths."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("model", type=Path)
    for name in extra:
        parser.add_argument(name, type=Path)
    parser.add_argument("--uncertainty", type=Path)
    parser.add_argument("--output", "-o", type=Path, help="JSON; this script's part is replaced")
    return parser.parse_args()


def calculators(args: argparse.Namespace) -> dict[str, Any]:
    """The model in double precision, where small differences count, and its teacher."""
    model = NNPCalculator(args.model, device="cpu", dtype="float64", uncertainty=False)
    return {"model": model, "teacher": teacher()}


def store(args: argparse.Namespace, key: str, value: Any) -> None:
    """Print, and put into the report."""
    print(json.dumps({key: value}, indent=1))
    if args.output:
        report = json.loads(args.output.read_text()) if args.output.exists() else {}
        report[key] = value
        args.output.write_text(json.dumps(report, indent=1) + "\n")
