"""Conditions as keywords (``natoms__lt=80``), and the checks that every condition passes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from ase_nnp.datasets.catalog.query_tree import (
    SCOPES,
    And,
    Compare,
    Element,
    Everything,
    Matches,
    Missing,
    Node,
    Not,
    OneOf,
)
from ase_nnp.datasets.catalog.schema import BY_NAME
from ase_nnp.errors import QueryError

__all__ = ["comparison", "conditions", "element", "of_kind"]

_OPS = {"lt": "<", "le": "<=", "lte": "<=", "gt": ">", "ge": ">=", "gte": ">=", "ne": "!="}


def conditions(given: Mapping[str, Any]) -> Node:
    """Return the tree of keyword conditions, all of which a record must meet.

    Parameters
    ----------
    given
        ``column=value``; a pair ``(lowest, highest)`` for numbers, inclusive, None for no bound;
        a list for one of several; None for no value. ``column__lt`` and ``__le``, ``__gt``,
        ``__ge``, ``__ne``, ``__in``, ``__like`` compare. ``contains``, ``excludes`` and
        ``elements`` (only these) take symbols or numbers.

    Raises
    ------
    QueryError
        No such column, or a value of another kind.
    """
    parts = [part for name, value in given.items() for part in _condition(name, value)]
    if not parts:
        return Everything()
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _condition(name: str, value: Any) -> list[Node]:
    if name in ("contains", "excludes"):
        parts = [element(one, ">", 0) for one in _listed(value)]
        return list(parts) if name == "contains" else [Not(part) for part in parts]
    if name == "elements":
        from ase.data import chemical_symbols

        kept = {element(one, ">", 0).z for one in _listed(value)}
        others = [z for z in range(1, len(chemical_symbols)) if z not in kept]
        return [Not(Element(z, ">", 0)) for z in others]

    column, _, suffix = name.partition("__")
    if column not in BY_NAME:
        raise QueryError(no_column(column))
    if suffix in _OPS:
        return [comparison(column, _OPS[suffix], value)]
    if suffix == "like":
        if not isinstance(value, str) or BY_NAME[column].kind != "text":
            raise QueryError(f"{name} compares a column of text with a pattern")
        return [Matches(column, value)]
    if suffix == "in":
        return [OneOf(column, tuple(of_kind(column, one) for one in value))]
    if suffix:
        known = ", ".join(f"__{one}" for one in (*_OPS, "in", "like"))
        raise QueryError(f"{name}: no comparison {suffix!r}; there are {known}")
    return _plain(column, value)


def _plain(column: str, value: Any) -> list[Node]:
    if value is None:
        return [Missing(column)]
    if column == "miller" and not isinstance(value, str) and _is_miller(value):
        return [comparison(column, "=", value)]
    if isinstance(value, tuple) and BY_NAME[column].kind != "text":
        if len(value) != 2:
            raise QueryError(f"{column} is a value, a list or a pair (lowest, highest)")
        bounds = zip((">=", "<="), value, strict=True)
        return [comparison(column, op, bound) for op, bound in bounds if bound is not None]
    if isinstance(value, (list, tuple, set, frozenset)) or _is_array(value):
        return [OneOf(column, tuple(of_kind(column, one) for one in value))]
    return [comparison(column, "=", value)]


def _is_miller(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(one, Integral) for one in value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1


def _listed(value: Any) -> Iterable[Any]:
    return [value] if isinstance(value, (str, Integral)) else value


def comparison(column: str, op: str, value: Any) -> Compare:
    """Return a comparison whose value is of the column's kind."""
    return Compare(column, op, of_kind(column, value))


def of_kind(column: str, value: Any) -> Any:
    """Return a value as its column stores it.

    Raises
    ------
    QueryError
        It is of another kind: a text for a number, or no finite number.
    """
    kind = BY_NAME[column].kind
    if column == "miller":
        return miller_text(value)
    if kind == "text":
        # Identifiers are often written as numbers; a number has one text.
        if isinstance(value, Integral) and not isinstance(value, bool):
            value = str(int(value))
        if not isinstance(value, str):
            raise QueryError(f"{column} is text; {value!r} is not (write it in quotes)")
        # SQLite's text ends at a zero byte, and surrogates cannot be stored.
        if "\0" in value or value.encode("utf-8", "replace").decode() != value:
            raise QueryError(f"{column}: {value!r} holds characters that no text has")
        return bare_sid(value) if column in ("sid", "slab_sid", "system") else value

    if isinstance(value, str) or not isinstance(value, Real) or not math.isfinite(value):
        raise QueryError(f"{column} is a number; {value!r} is not")
    if isinstance(value, Integral) and abs(int(value)) >= 2**63:
        raise QueryError(f"{column}: {value!r} is too large")

    return int(value) if isinstance(value, Integral) else float(value)


def bare_sid(value: str) -> str:
    """Return an identifier as it is stored: ``random123``, ``"123"`` and 123 are one system."""
    digits = value.removeprefix("random")
    return digits if digits.isdigit() else value


def miller_text(value: Any) -> str:
    """Return Miller indices as ``"(1, 1, 1)"``: from a sequence, ``"111"`` or ``"1 1 -1"``."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = str(int(value))
    if isinstance(value, str):
        words = value.strip("()[] ").replace(",", " ").split()
        digits = list(words[0]) if len(words) == 1 and words[0].isdigit() else words
        try:
            value = [int(digit) for digit in digits]
        except ValueError:
            raise QueryError(f"{value!r} are no Miller indices such as (1, 1, 1)") from None
    numbers = list(value) if isinstance(value, (list, tuple)) or _is_array(value) else []
    whole = all(isinstance(one, (int, float, Integral)) and one % 1 == 0 for one in numbers)
    if len(numbers) not in (3, 4) or not whole:
        raise QueryError(f"{value!r} are no Miller indices such as (1, 1, 1)")
    return str(tuple(int(one) for one in numbers))


def element(symbol: Any, op: str, count: int, scope: str = "") -> Element:
    """Return a condition on the number of atoms of an element."""
    from ase.data import atomic_numbers, chemical_symbols

    if scope not in SCOPES:
        raise QueryError(f"no part {scope!r}; there are {', '.join(SCOPES[1:])}")
    if isinstance(symbol, Integral) and 0 < int(symbol) < len(chemical_symbols):
        return Element(int(symbol), op, count, scope)
    if not isinstance(symbol, str) or not atomic_numbers.get(symbol):
        raise QueryError(no_column(str(symbol)))
    return Element(int(atomic_numbers[symbol]), op, count, scope)


def no_column(name: str) -> str:
    """Say that a name is neither a column nor an element, and what it may have been."""
    near = difflib.get_close_matches(name, BY_NAME, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"no column or element {name!r}; {meant}Columns: {', '.join(BY_NAME)}"
