"""Calculators for ``benchmarks/worker.py``; imported in the worker's environment."""

from __future__ import annotations

import os
import time
from typing import Any

from ase.calculators.calculator import Calculator, all_changes


def timed(inner: Any, log: str) -> Any:
    """Return ``inner`` writing the CPU seconds of its process before and after each calculation."""
    plain = inner.calculate

    def calculate(*arguments: Any, **keywords: Any) -> None:
        before = time.process_time(), time.perf_counter()
        plain(*arguments, **keywords)
        after = time.process_time(), time.perf_counter()
        with open(log, "a") as file:
            print(*before, *after, file=file)

    inner.calculate = calculate
    return inner


class Free(Calculator):
    """Costs nothing."""

    implemented_properties = ("energy", "forces")

    def calculate(
        self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes
    ) -> None:
        """Return zeros."""
        self.atoms = atoms.copy()
        self.results = {"energy": 0.0, "forces": 0.0 * atoms.positions}


def free(log: str = os.devnull) -> Any:
    """A calculator that costs nothing."""
    return timed(Free(), log)


def mace(log: str = os.devnull) -> Any:
    """A MACE with fresh weights, as in ``contract_calculators``."""
    from contract_calculators import mace as make

    return timed(make(), log)


def mace_medium(log: str = os.devnull) -> Any:
    """The shape of the published medium MACE-MP-0, for four elements, with fresh weights."""
    from contract_calculators import mace as make

    return timed(make("128x0e + 128x1o", 3, 6.0), log)
