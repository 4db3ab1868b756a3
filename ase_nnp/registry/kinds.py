"""Of which kind the values of a configuration are, where annotations say it."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from ase_nnp.errors import ConfigError

__all__ = ["LARGEST", "check_kinds"]

#: Widths, numbers of layers and of functions are thousands at most. What loops over more of them
#: would take hours, and only then memory, before anybody noticed.
LARGEST = 10_000


def check_kinds(
    what: str,
    values: Mapping[str, Any],
    kinds: Mapping[str, Any],
    largest: Mapping[str, int] | None = None,
) -> None:
    """Refuse a value of another kind than its key's, or a whole number without measure.

    Parameters
    ----------
    what
        Whose keys they are, for the message.
    values, kinds
        Values and types by key: ``bool``, ``int``, ``float`` (any finite number), ``str``,
        ``dict``, a ``Literal``, sequences and unions of these. A key or a type beside these is not
        looked at.
    largest
        The largest whole number of a key, :data:`LARGEST` for the rest; the smallest is -1.

    Raises
    ------
    ConfigError
        Naming the key, its value and what was wanted.
    """
    limits = largest or {}
    for key, value in values.items():
        limit = limits.get(key, LARGEST)
        if key in kinds and not _fits(value, kinds[key], limit):
            text = repr(value)
            text = text if len(text) <= 80 else f"{text[:77]}..."
            raise ConfigError(f"{what}: {key} is {text}; wanted: {_name(kinds[key], limit)}.")


def _fits(value: Any, kind: Any, largest: int) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one, largest) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        several = isinstance(value, list | tuple)
        return several and all(_fits(one, inner[0], largest) for one in value)
    if kind is None or kind is types.NoneType:
        return value is None
    if kind in (int, float) and isinstance(value, bool):
        return False  # an int of Python, and no number of layers
    if kind is int:
        return isinstance(value, Integral) and -1 <= int(value) <= largest
    if kind is float:
        number: Any = value  # mypy knows no order of Real
        return isinstance(value, Real) and bool(-math.inf < number < math.inf)
    return isinstance(value, kind) if kind in (bool, str, dict) else True


def _name(kind: Any, largest: int) -> str:
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(map(repr, inner))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_name(one, largest) for one in inner)
    if inner:
        return f"a list of {_name(inner[0], largest)}"
    names = {int: f"a whole number up to {largest}", float: "a number", bool: "True or False"}
    names |= {str: "a text", dict: "a dictionary", types.NoneType: "None"}
    return names.get(kind, str(kind))
