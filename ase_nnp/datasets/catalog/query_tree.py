"""A query as a tree: what the grammar and the keywords of ``where`` make, and SQL is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "And",
    "Compare",
    "Element",
    "Everything",
    "Matches",
    "Missing",
    "Node",
    "Not",
    "OneOf",
    "Or",
]

SCOPES = ("", "slab", "adsorbate", "solvent")


@dataclass(frozen=True)
class Everything:
    """Meets every record."""


@dataclass(frozen=True)
class Compare:
    """``column op value``; a record without the value does not meet it."""

    column: str
    op: str
    value: Any


@dataclass(frozen=True)
class Matches:
    """``column like pattern`` with ``*`` for any text and ``?`` for one character."""

    column: str
    pattern: str


@dataclass(frozen=True)
class OneOf:
    """``column in (values)``."""

    column: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Missing:
    """The record has no value in the column."""

    column: str


@dataclass(frozen=True)
class Element:
    """Number of atoms of an element, of all atoms or of those in ``scope``, against a number."""

    z: int
    op: str
    count: int
    scope: str = ""


@dataclass(frozen=True)
class Not:
    """What does not meet the part."""

    part: Node


@dataclass(frozen=True)
class And:
    """What meets all parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """What meets one part at least."""

    parts: tuple[Node, ...]


Node = Everything | Compare | Matches | OneOf | Missing | Element | Not | And | Or


def columns_of(node: Node) -> set[str]:
    """Return the columns that a query names."""
    if isinstance(node, (And, Or)):
        return set().union(*map(columns_of, node.parts)) if node.parts else set()
    if isinstance(node, Not):
        return columns_of(node.part)
    name = getattr(node, "column", None)
    return set() if name is None else {name}


def comparisons(node: Node) -> list[Compare]:
    """Return the comparisons of a query, in their order."""
    if isinstance(node, (And, Or)):
        return [one for part in node.parts for one in comparisons(part)]
    if isinstance(node, Not):
        return comparisons(node.part)
    return [node] if isinstance(node, Compare) else []
