"""How the checks of the ASE contract are registered, and how they compare and refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ase_nnp.testing.ase_contract.subject import CalculatorSubject, ContractCheck

__all__ = ["CONTRACT", "check", "off", "refuses", "said"]

CONTRACT: list[ContractCheck] = []
Run = Callable[[CalculatorSubject], float]


def check(tolerance: float = 0.0) -> Callable[[Run], Run]:
    """Register a function as a check with the largest figure it may return."""

    def add(function: Run) -> Run:
        name = function.__name__.removeprefix("check_")
        doc = (function.__doc__ or "").strip().splitlines()[0]
        CONTRACT.append(ContractCheck(name, doc, tolerance, function))
        return function

    return add


def off(one: Any, two: Any, floor: float = 1e-2) -> float:
    """Largest difference over the largest value, which counts as at least ``floor``."""
    one, two = np.asarray(one, float), np.asarray(two, float)
    if one.shape != two.shape:
        raise AssertionError(f"shapes differ: {one.shape} and {two.shape}")
    scale = max(float(np.abs(two).max(initial=0.0)), floor)
    gap = float(np.abs(one - two).max(initial=0.0)) / scale

    # No comparison is true of NaN: the larger of it and a number may be the number.
    return np.inf if np.isnan(gap) else gap


def refuses(action: Callable[[], Any]) -> Exception | None:
    """Return the exception of ``action``, or None if it raised none."""
    try:
        action()
    except Exception as error:  # a calculator may raise anything
        return error
    return None


def said(error: Exception) -> str:
    """``Type: text`` of an exception."""
    return f"{type(error).__name__}: {error}"
