"""A look at the instructions of a pickle before any of them runs.

The C unpickler trusts sizes: a memo index of four billion makes it reserve that much memory, and
hashing deeply nested tuples overflows the C stack. Such pickles are refused here.
"""

from __future__ import annotations

import re

from ase_nnp.errors import CheckpointError, DatasetError

MAX_PLAIN = 8192  # bytes of instructions, strings apart, up to which nesting needs no count
MAX_DEPTH = 500  # tuples in tuples


class UnpickleError(CheckpointError, DatasetError):
    """The bytes are damaged, or lie about sizes."""


_ARGUMENT = {  # bytes of fixed arguments after an opcode
    **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jj", 4),
    **dict.fromkeys(b"G\x95", 8),
    **dict.fromkeys(
        b"(.012N)]}QlteabosuRd\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98", 0
    ),
}
_SIZED = {  # opcodes with a length in front of their argument: width of that length
    **dict.fromkeys(b"U\x8a\x8cC", 1),
    **dict.fromkeys(b"TXB\x8b", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
_LINES = {**dict.fromkeys(b"FILSVgP", 1), **dict.fromkeys(b"ci", 2)}
_STEP = [_ARGUMENT.get(op, -2) + 1 for op in range(256)]  # -1: not a fixed argument
#: Runs of common opcodes and short strings, in one step.
_SKIP = re.compile(
    rb"(?:[(N)\]}QtaeubsR\x81\x85\x86\x87\x88\x89\x90\x93\x94]|[Khq\x80].|M..|[Jj].{4}|[G\x95].{8}"
    rb"|\x8c(?:" + b"|".join(re.escape(bytes([n])) + b".{%d}" % n for n in range(1, 32)) + rb"))*+",
    re.DOTALL,
)
_MARK = -1
#: Stack items that an opcode takes and puts back one for; to the mark where it says "mark".
_TAKES = {
    **dict.fromkeys(b"NKMJG)]}\x88\x89\x8fFILSVPc\x97UTX\x8c\x8dC\x8eB\x96\x8a\x8b", (0, 1)),
    **dict.fromkeys(b"0ab", (1, 0)),
    **dict.fromkeys(b"s", (2, 0)),
    **dict.fromkeys(b"Q\x98", (1, 1)),
    **dict.fromkeys(b"R\x81\x93", (2, 1)),
    **dict.fromkeys(b"\x92", (3, 1)),
}
_TO_MARK = {**dict.fromkeys(b"1eu\x90", 0), **dict.fromkeys(b"old\x91i", 1)}


def end_of_pickle(data: bytes, start: int = 0) -> int:
    """Return the offset after the STOP of the pickle at ``start``; nothing of it runs.

    Raises
    ------
    UnpickleError
        It is cut off, holds no instructions, or is built to exhaust memory or the stack.
    """
    position, size, plain = start, len(data), 0
    try:
        while True:
            if plain <= MAX_PLAIN:
                run = _SKIP.match(data, position).end()  # type: ignore[union-attr]
                plain += run - position
                position = run
            op = data[position]
            if op == 46:
                break
            position = _next(data, position, start, size)
            plain += 1
    except (IndexError, ValueError):
        raise UnpickleError("the pickle is cut off") from None
    if plain > MAX_PLAIN:
        _check_nesting(data, start, position)
    return position + 1


def _next(data: bytes, position: int, start: int, size: int) -> int:
    """Return the offset of the opcode after the one at ``position``."""
    op = data[position]
    advance = _STEP[op]
    if advance > 0:
        return position + advance
    if op in _SIZED:
        width = _SIZED[op]
        length = int.from_bytes(data[position + 1 : position + 1 + width], "little")
        position += 1 + width + length
        if position > size:
            raise UnpickleError(f"a string or number of {length} bytes passes the end")
        return position
    if op in b"rp":
        stop = position + 5 if op == 114 else data.index(b"\n", position) + 1
        digits = data[position + 1 : stop]
        index = int.from_bytes(digits, "little") if op == 114 else int(digits)
        if not 0 <= index <= position - start + 1024:
            raise UnpickleError(f"memo index {index} in a pickle of {size} bytes")
        return stop
    if op in _LINES:
        for _ in range(_LINES[op]):
            position = data.index(b"\n", position + 1)
        return position + 1
    raise UnpickleError(f"byte {op:#04x} at {position} is no pickle instruction")


def _check_nesting(data: bytes, start: int, stop: int) -> None:
    """Follow how deep tuples lie in tuples, with a stack of depths in place of values."""
    stack: list[int] = []
    memo: dict[int, int] = {}
    memoized, position, size = 0, start, len(data)
    while position < stop:
        op = data[position]
        after = _next(data, position, start, size)
        effect = _TAKES.get(op)
        if effect is not None:
            takes, puts = effect
            depth = _take(stack, takes) if takes else 0
            if puts:
                _deepen(stack, depth) if depth else stack.append(0)
        elif op == 0x94:  # MEMOIZE
            if stack and stack[-1] > 0:
                memo[memoized] = stack[-1]
            memoized += 1
        elif op in b"qrp":
            index = data[position + 1 : after]
            number = int(index) if op == 112 else int.from_bytes(index, "little")
            memo[number] = stack[-1] if stack else 0
            memoized += 1
        elif op in b"hjg":
            index = data[position + 1 : after]
            stack.append(memo.get(int(index) if op == 103 else int.from_bytes(index, "little"), 0))
        elif op == 40:
            stack.append(_MARK)
        elif op == 50:  # DUP
            stack.append(stack[-1] if stack else 0)
        elif op in b"\x85\x86\x87":
            _deepen(stack, _take(stack, op - 0x84))
        elif op == 116:  # TUPLE
            _deepen(stack, _take(stack, None))
        elif op in _TO_MARK:
            depth = _take(stack, None)
            if _TO_MARK[op]:
                _deepen(stack, depth) if depth else stack.append(0)
        position = after


def _take(stack: list[int], count: int | None) -> int:
    """Pop ``count`` items, or all to the mark; return the greatest depth among them."""
    deepest = 0
    while stack and count != 0:
        depth = stack.pop()
        if depth == _MARK:
            if count is None:
                return deepest
            raise UnpickleError("a mark where a value is wanted")
        deepest = max(deepest, depth)
        if count is not None:
            count -= 1
    return deepest


def _deepen(stack: list[int], depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise UnpickleError(f"tuples nested deeper than {MAX_DEPTH}")
    stack.append(depth + 1)
