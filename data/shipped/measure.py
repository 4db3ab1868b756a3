"""What the measurements of the shipped model share: arguments, both models, one report file."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from label import teacher

from ase_nnp import NNPCalculator

#: 1 eV/A^3 in GPa.
GPA = 160.21766


def arguments(text: str | None, *extra: str, **numbers: int) -> argparse.Namespace:
    """MODEL, --uncertainty, --output, ``extra`` positional paths and whole ``numbers``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("model", type=Path)
    for name in extra:
        parser.add_argument(name, type=Path)
    parser.add_argument("--uncertainty", type=Path)
    parser.add_argument("--output", "-o", type=Path, help="JSON; this script's part is replaced")
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def both(
    args: argparse.Namespace, key: str, names: Iterable[str], measured: Callable[[str, Any], Any]
) -> dict[str, dict[str, Any]]:
    """``measured(name, calculator)`` of every name, for the model and its teacher.

    The model runs in double precision, where small differences count. What the report already says
    of the teacher is not computed again; results are stored as they come.
    """
    report = json.loads(args.output.read_text()) if args.output and args.output.exists() else {}
    theirs = dict(report.get(key, {}).get("teacher", {}))
    own, judge = {}, None
    calc = NNPCalculator(args.model, device="cpu", dtype="float64", uncertainty=False)
    for name in names:
        if name not in theirs:
            judge = judge or teacher()
            theirs[name] = measured(name, judge)
        own[name] = measured(name, calc)
    return {"model": own, "teacher": theirs}


def store(args: argparse.Namespace, key: str, value: Any) -> None:
    """Print, and put into the report."""
    print(json.dumps({key: value}, indent=1))
    if args.output:
        report = json.loads(args.output.read_text()) if args.output.exists() else {}
        report[key] = value
        args.output.write_text(json.dumps(report, indent=1) + "\n")
