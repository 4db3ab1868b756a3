"""A query's tree to parameterized SQL: nothing that a user wrote becomes part of the text."""

from __future__ import annotations

import json
from typing import Any

from ase_nnp.datasets.catalog.query_tree import (
    And,
    Compare,
    Element,
    Everything,
    Matches,
    Missing,
    Node,
    Not,
    OneOf,
    Or,
    columns_of,
)
from ase_nnp.datasets.catalog.schema import BY_NAME, LIGHT
from ase_nnp.errors import QueryError

__all__ = ["condition", "selection"]

_OPS = {op: op for op in ("=", "!=", "<", "<=", ">", ">=")}
FEW = 20  # values of a list that are looked up in the index of their column
_COUNTED = {
    "": "n",
    "slab": "n - adsorbate - solvent",
    "adsorbate": "adsorbate",
    "solvent": "solvent",
}
#: Energies of a view that converts them: E_ads = E_total - E_reference.
_CONVERTED = {
    "adsorption": "CASE WHEN energy_kind = 'adsorption' THEN energy "
    "WHEN energy_kind = 'total' THEN energy - reference_energy END",
    "total": "CASE WHEN energy_kind = 'total' THEN energy ELSE energy + reference_energy END",
    "formation": "CASE WHEN energy_kind = 'formation' THEN energy "
    "WHEN energy_kind = 'total' THEN energy - reference_energy END",
}


def selection(tree: Node, wanted: str | None = None) -> tuple[str, list[Any]]:
    """Return the SQL text that gives the ids of the records a query meets, and its values.

    Parameters
    ----------
    tree
        The query. Damaged records are left out, unless it asks about ``error``.
    wanted
        Kind that the view's energies are converted to; None as they are stored.
    """
    text, values = condition(tree, wanted)
    if "error" not in columns_of(tree):
        text = f"+error IS NULL AND {text}"
    # One word in place of a tuple for each record: half the time where many are met.
    return f"SELECT group_concat(id) FROM records WHERE {text}", values


def condition(tree: Node, wanted: str | None = None) -> tuple[str, list[Any]]:
    """Return a tree as an SQL condition with ``?`` for every value."""
    values: list[Any] = []
    return _text(tree, values, wanted), values


def _name(column: str, wanted: str | None) -> str:
    # Names come from the grammar, which checked them; here they are looked up once more.
    if column not in BY_NAME:
        raise QueryError(f"no column {column!r}")
    if wanted is None or column not in ("energy", "energy_per_atom"):
        return column
    converted = f"({_CONVERTED[wanted]})"
    return converted if column == "energy" else f"({converted} / natoms)"


def _text(node: Node, values: list[Any], wanted: str | None) -> str:
    if isinstance(node, Everything):
        return "1"
    if isinstance(node, (And, Or)):
        word = " AND " if isinstance(node, And) else " OR "
        return "(" + word.join(_text(part, values, wanted) for part in node.parts) + ")"
    if isinstance(node, Not):
        return f"NOT {_text(node.part, values, wanted)}"
    if isinstance(node, Element):
        return _element(node, values)

    # A plus keeps SQLite from the index of a column. Ranges are wide as a rule, and records that an
    # index names one by one take six times as long as a look at all of them.
    name = _name(node.column, wanted)
    aside = f"+{name}"
    if isinstance(node, Missing):
        return f"({aside} IS NULL)"
    # Two values of truth, not SQL's three: what a record does not have, it does not meet.
    if isinstance(node, Compare):
        values.append(node.value)
        compared = name if node.op == "=" else aside
        return f"({aside} IS NOT NULL AND {compared} {_OPS[node.op]} ?)"
    if isinstance(node, Matches):
        values.append(_glob(node.pattern))
        return f"({aside} IS NOT NULL AND {aside} GLOB ?)"
    assert isinstance(node, OneOf)
    if BY_NAME[node.column].kind == "real":
        # SQLite reads decimal text of its own way: a number goes as a number, to the last bit.
        values += node.values
        return f"({aside} IS NOT NULL AND {aside} IN ({', '.join('?' * len(node.values))}))"
    values.append(json.dumps(list(node.values)))
    listed = name if len(node.values) <= FEW else aside
    return f"({aside} IS NOT NULL AND {listed} IN (SELECT value FROM json_each(?)))"


def _glob(pattern: str) -> str:
    """Return a pattern in which ``[`` means itself."""
    return pattern.replace("[", "[[]")


def _element(node: Element, values: list[Any]) -> str:
    counted = _COUNTED[node.scope]
    if (node.op, node.count) == (">", 0) and node.scope == "":
        light = node.z <= LIGHT
        values.append(1 << (node.z if light else node.z - LIGHT))
        return f"({'light' if light else 'heavy'} & ? != 0)"

    values += [node.z, node.count]
    zero = {"=": node.count == 0, "!=": node.count != 0, "<": node.count > 0}
    zero |= {"<=": node.count >= 0, ">": node.count < 0, ">=": node.count <= 0}

    # A record without the element has no row in the table: it counts as zero. Where zero will do,
    # the rows that will not are left out.
    negation, row = (
        ("NOT ", f"NOT {counted} {_OPS[node.op]} ?")
        if zero[node.op]
        else ("", f"{counted} {_OPS[node.op]} ?")
    )

    return f"(id {negation}IN (SELECT id FROM composition WHERE z = ? AND {row}))"
