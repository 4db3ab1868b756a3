"""The query language of an index: text to a tree, with the place of every mistake.

::

    query  = term { "or" term }
    term   = factor { "and" factor }
    factor = "not" factor | "(" query ")" | comparison
    comparison = column ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | column ["not"] "between" value "and" value
               | column ["not"] "in" "(" value { "," value } ")"
               | column ["not"] "like" text        (* and ? stand for any text, one character)
               | column "is" ["not"] "null"
               | [scope "."] element [op number]   (Cu; Cu >= 4; slab.Cu; adsorbate.O = 2)

Words are lower or upper case; elements begin with a capital: ``in`` is a word, ``In`` indium.
Texts stand in quotes, a quote in them twice: ``'it''s'``. Miller indices are a text or a list:
``miller = (1, 1, 1)``.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple, NoReturn

from ase_nnp.datasets.catalog.conditions import comparison, element, of_kind
from ase_nnp.datasets.catalog.query_tree import (
    And,
    Everything,
    Matches,
    Missing,
    Node,
    Not,
    OneOf,
    Or,
)
from ase_nnp.datasets.catalog.schema import BY_NAME
from ase_nnp.errors import QueryError

__all__ = ["parse"]

MAX_LENGTH, MAX_DEPTH, MAX_TERMS = 20_000, 40, 400

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,|\.)
    | (?P<end>$)
    )""",
    re.VERBOSE,
)
_WORDS = frozenset(["and", "or", "not", "in", "between", "like", "is", "null", "true", "false"])
_COMPARES = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")


class _Token(NamedTuple):
    kind: str
    value: Any
    start: int


def parse(text: str) -> Node:
    """Return the tree of a query.

    Parameters
    ----------
    text
        A query; an empty one meets every record.

    Raises
    ------
    QueryError
        It is no query; the message names the place.
    """
    if not isinstance(text, str):
        raise QueryError(f"a query is a text, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise QueryError(f"a query of {len(text)} characters; {MAX_LENGTH} is the most")
    parser = _Parser(text)
    if parser.peek().kind == "end":
        return Everything()
    tree = parser.query(0)
    parser.expect_end()
    return tree


def _tokens(text: str) -> list[_Token]:
    tokens, place = [], 0
    while True:
        match = _TOKEN.match(text, place)
        if match is None:
            at = place + len(text[place:]) - len(text[place:].lstrip())
            what = "a quote that is not closed" if text[at] in "'\"" else f"{text[at : at + 12]!r}"
            raise QueryError(_at(text, at, f"{what} is no part of a query"))

        kind = str(match.lastgroup)
        start, value = match.start(kind), match[kind]
        if kind == "word" and value in (*_WORDS, *map(str.upper, _WORDS)):
            kind, value = "keyword", value.lower()

        tokens.append(_Token(kind, value, start))
        if kind == "end":
            return tokens
        place = match.end()


def _at(text: str, place: int, what: str) -> str:
    shown = text if len(text) <= 120 else f"{text[max(0, place - 50) : place + 50]}..."
    return f"query {shown!r}, character {place + 1}: {what}"


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.next, self.terms = text, _tokens(text), 0, 0

    # ---- tokens

    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def accept(self, value: str) -> bool:
        token = self.peek()
        if token.kind in ("keyword", "sign") and token.value == value:
            self.next += 1
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.accept(value):
            self.fail(f"{value!r} was expected here")

    def expect_end(self) -> None:
        if self.peek().kind != "end":
            self.fail("'and', 'or' or the end was expected here")

    def fail(self, what: str, place: int | None = None) -> NoReturn:
        raise QueryError(_at(self.text, self.peek().start if place is None else place, what))

    # ---- rules

    def query(self, depth: int) -> Node:
        parts = [self.term(depth)]
        while self.accept("or"):
            parts.append(self.term(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def term(self, depth: int) -> Node:
        parts = [self.factor(depth)]
        while self.accept("and"):
            parts.append(self.factor(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def factor(self, depth: int) -> Node:
        # SQLite and Python both end badly on trees that are too deep.
        if depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} levels of parentheses and 'not'")
        self.terms += 1
        if self.terms > MAX_TERMS:
            self.fail(f"more than {MAX_TERMS} conditions; give lists with 'in'")
        if self.accept("not"):
            return Not(self.factor(depth + 1))
        if self.accept("("):
            inside = self.query(depth + 1)
            self.expect(")")
            return inside
        return self.comparison()

    def comparison(self) -> Node:
        token = self.take()
        if token.kind != "word":
            self.fail("a column or an element was expected here", token.start)
        name = token.value
        if self.accept("."):
            symbol = self.take()
            if symbol.kind != "word":
                self.fail("an element was expected after the dot", symbol.start)
            return self.element(symbol.value, name, token.start)
        if name not in BY_NAME:
            return self.element(name, "", token.start)
        return self.on_column(name, token.start)

    def on_column(self, name: str, start: int) -> Node:
        if self.accept("is"):
            present = self.accept("not")
            self.expect("null")
            return Not(Missing(name)) if present else Missing(name)

        negated = self.accept("not")
        if self.accept("between"):
            low = self.value(name)
            self.expect("and")
            high = self.value(name)
            node: Node = And((comparison(name, ">=", low), comparison(name, "<=", high)))
        elif self.accept("in"):
            node = OneOf(name, tuple(of_kind(name, value) for value in self.listed(name)))
        elif self.accept("like"):
            token = self.take()
            if token.kind != "text" or BY_NAME[name].kind != "text":
                self.fail("'like' compares a column of text with a text in quotes", token.start)
            node = Matches(name, _unquoted(token.value))
        elif not negated and self.peek().value in _COMPARES and self.peek().kind == "sign":
            op = {"==": "=", "<>": "!="}.get(sign := self.take().value, sign)
            node = self.checked(name, op)
        else:
            self.fail(f"after {name!r} an operator was expected (=, <, in, between, like, is)")
        return Not(node) if negated else node

    def checked(self, name: str, op: str) -> Node:
        start = self.peek().start
        try:
            return comparison(name, op, self.value(name))
        except QueryError as error:
            if str(error).startswith("query "):
                raise
            self.fail(str(error), start)

    def value(self, name: str) -> Any:
        token = self.take()
        if token.kind == "number":
            number = float(token.value)
            whole = re.fullmatch(r"[+-]?\d{1,18}", token.value)
            return int(token.value) if whole else number
        if token.kind == "text":
            return _unquoted(token.value)
        if token.kind == "keyword" and token.value in ("true", "false"):
            return token.value == "true"
        if token.kind == "sign" and token.value == "(" and name == "miller":
            self.next -= 1
            return tuple(self.listed(name))
        self.fail("a number or a text in quotes was expected here", token.start)

    def listed(self, name: str) -> list[Any]:
        self.expect("(")
        values = [self.value(name)]
        while self.accept(","):
            values.append(self.value(name))
        self.expect(")")
        return values

    def element(self, symbol: str, scope: str, start: int) -> Node:
        op, count = ">", 0
        if self.peek().kind == "sign" and self.peek().value in _COMPARES:
            op = {"==": "=", "<>": "!="}.get(sign := self.take().value, sign)
            token = self.take()
            if token.kind != "number" or not token.value.isdigit() or len(token.value) > 9:
                self.fail(
                    _no_count(symbol) or f"{symbol} is compared with a number of atoms", token.start
                )
            count = int(token.value)
        try:
            return element(symbol, op, count, scope)
        except QueryError as error:
            self.fail(str(error), start)


def _no_count(symbol: str) -> str:
    near = difflib.get_close_matches(symbol, BY_NAME, 1)
    return f"no column {symbol!r}; did you mean {near[0]!r}?" if near else ""


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)
