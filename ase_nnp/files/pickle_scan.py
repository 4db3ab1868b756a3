"""A look at the instructions of a pickle before any of them runs.

The C unpickler trusts what it reads: a memo index of four billion makes it reserve that much
memory, hashing deeply nested tuples overflows the C stack, and a key of 40 tuples that hold the
one before twice takes 2^40 steps to hash. Such pickles are refused here, for the price of one
regular expression where a pickle is as short and as plain as those of datasets are.
"""

from __future__ import annotations

import math
import re

from ase_nnp.errors import CheckpointError, DatasetError

MAX_PLAIN = 8192  # bytes of instructions, strings apart, up to which nesting needs no count
MAX_DEPTH = 500  # tuples in tuples
#: Steps that hashing and comparing the keys of one pickle may take: about a second.
MAX_HASH_WORK = 1 << 25


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


def _runs_of(memo: bytes, short_memo: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Match common opcodes and short strings in one step; and those up to a read of the memo."""
    short = b"|".join(re.escape(bytes([n])) + b".{%d}" % n for n in range(1, 32))
    plain = rb"[(N)\]}QtaeubsR\x81\x85\x86\x87\x88\x89\x90\x93" + memo + b"]"
    sized = b"\x80" + short_memo + rb"].|M..|\x8c(?:" + short + rb")|J.{4}|[G\x95].{8}"
    # The frequent ones come first: alternatives are tried in turns.
    run = b"(?:" + plain + b"|[Kh" + sized + b")*+"
    read = b"(?:" + plain + b"|[K" + sized + b")*+h(.)"
    return re.compile(run, re.DOTALL), re.compile(read, re.DOTALL)


# Python writes a memo with one kind of instruction; where both occur, indices may be used twice.
_NUMBERED, _COUNTED = _runs_of(b"", b"q"), _runs_of(rb"\x94", b"")
_BYTES = 0x42  # BINBYTES, with the numbers of a tensor


def end_of_pickle(data: bytes, start: int = 0) -> int:
    """Return the offset after the STOP of the pickle at ``start``; nothing of it runs.

    Raises
    ------
    UnpickleError
        It is cut off, holds no instructions, or is built to exhaust memory or the stack.
    """
    position, size = start, len(data)
    counted = data[start : start + 1] == b"\x80" and data[start + 1 : start + 2] >= b"\x04"
    run, read = _COUNTED if counted else _NUMBERED
    memo, runs = _Memo(), []
    match, number = run.match, int.from_bytes
    plain = 0  # bytes of instructions so far
    try:
        while True:
            begin = position
            if plain <= MAX_PLAIN:
                position = match(data, position).end()  # type: ignore[union-attr]
                runs.append(data[begin:position])
            op = data[position]
            plain += position - begin + 1
            if op == 46:
                break
            if op == _BYTES:
                position += 5 + number(data[position + 1 : position + 5], "little")
                if position > size:
                    raise UnpickleError("a string of bytes passes the end")
                continue
            after = _next(data, position, start, size)
            if op in _MEMO:
                memo.note(op, data[position + 1 : after])
            position = after
    except (IndexError, ValueError):
        raise UnpickleError("the pickle is cut off") from None

    if plain > MAX_PLAIN:
        follow(data, start, position)
    else:
        # Every read is an "h" and its index (which may be 104, an "h"). That an "h" may be a letter
        # makes the bound larger only, and mostly it is small enough.
        text = b"".join(runs)
        maybe = bytes([after[0] if after else 104 for after in text.split(b"h")[1:]])
        if plain * memo.unfolding(maybe, text) > MAX_HASH_WORK:
            ratio = memo.unfolding(b"".join(read.findall(text)), text)
            if plain * ratio > MAX_HASH_WORK:
                follow(data, start, position)
    return position + 1


_MEMO = b"jgrpq2\x94"


class _Memo:
    """How often values are used again, to bound what can unfold without following values.

    What is used ``c`` times multiplies the whole by ``1 + c`` at most, and a key that is hashed
    again had to be used again. That holds as long as no index of the memo is written twice.
    """

    def __init__(self) -> None:
        self.uses: dict[int, int] = {}
        self.written: set[int] = set()
        self.tangled = False

    def note(self, op: int, argument: bytes) -> None:
        """Note an instruction that the runs of common ones stop at."""
        if op not in b"jgrp":
            self.tangled = True
            return
        index = int(argument) if op in b"gp" else int.from_bytes(argument, "little")
        if op in b"jg":
            self.uses[index] = self.uses.get(index, 0) + 1
        else:
            self.tangled |= index in self.written
            self.written.add(index)
        self.tangled |= op in b"jr" and index < 256

    def unfolding(self, short: bytes, runs: bytes) -> float:
        """Return the greatest possible ratio of unfolded to written values.

        ``short`` are the indices of the one-byte reads in the ``runs`` of common opcodes, or more.
        """
        ratio = math.inf if self.tangled else 1
        numbered = b"q" in runs
        for index in {*short}:
            if numbered and runs.count(b"q%c" % index) + (index in self.written) > 1:
                return math.inf
            ratio *= 1 + short.count(index) + self.uses.get(index, 0)
        for index, count in self.uses.items():
            if index > 255 or index not in short:
                ratio *= 1 + count
        return ratio


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

    # Unpickling makes a table as long as the largest index of its memo.
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


def follow(data: bytes, start: int, stop: int) -> None:
    """Follow what tuples hold and what is hashed, with :class:`_Values` in place of values."""
    values = _Values()
    position, size = start, len(data)
    while position < stop:
        after = _next(data, position, start, size)
        values.do(data[position], data[position + 1 : after])
        position = after


#: Nesting of tuples, steps to hash it, and whether many such values can share one hash.
_Value = tuple[int, int, bool]
_PLAIN: _Value = (0, 1, False)
_ODD: _Value = (0, 1, True)
_MARK: _Value = (-1, 0, False)
_PUSH = {
    **dict.fromkeys(b"NKMJ)]}\x88\x89\x8fISVPcUTX\x8c\x8dC\x8eB\x96\x97", _PLAIN),
    **dict.fromkeys(b"GFL\x8a\x8b", _ODD),
}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
#: Opcodes that make one value of the last few, and of all since the mark.
_MERGE = {**dict.fromkeys(b"Q\x98", 1), **dict.fromkeys(b"R\x81\x93", 2), 0x92: 3}
_MERGE_MARKED = b"loi"


class _Values:
    """The stack and memo of an unpickler, with what matters of each value."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.memo: dict[int, _Value] = {}
        self.work = self.odd_keys = self.odd_size = 0

    def do(self, op: int, argument: bytes) -> None:
        """Run one instruction."""
        stack = self.stack
        pushed = _PUSH.get(op)
        if pushed is not None:
            stack.append(pushed)
        elif op == 0x94:  # MEMOIZE
            self._remember(len(self.memo))
        elif op in b"qrp":
            self._remember(int(argument) if op == 112 else int.from_bytes(argument, "little"))
        elif op in b"hjg":
            index = int(argument) if op == 103 else int.from_bytes(argument, "little")
            stack.append(self.memo.get(index, _PLAIN))
        elif op == 40:
            stack.append(_MARK)
        elif op == 50:  # DUP
            stack.append(stack[-1] if stack else _PLAIN)
        elif op in _TUPLES:
            self._tuple(self._take(_TUPLES[op]))
        elif op == 116:  # TUPLE
            self._tuple(self._take_marked())
        elif op in _MERGE:
            self._merge(self._take(_MERGE[op]))
        elif op in _MERGE_MARKED:
            self._merge(self._take_marked())
        else:
            self._fill(op)

    def _fill(self, op: int) -> None:
        """Run an instruction that puts values into the container below them."""
        if op in b"0a":
            self._take(1)
        elif op in b"1e":  # POP_MARK, APPENDS
            self._take_marked()
        elif op == 98:  # BUILD copies the keys of a state, which may be any dictionary before it
            self._take(1)
            self._spend(self.odd_size)
        elif op == 115:  # SETITEM
            self._hash(self._take(2)[:1])
        elif op in b"ud":  # SETITEMS, DICT
            self._hash(self._take_marked()[::2])
            if op == 100:
                self.stack.append(_PLAIN)
        elif op in b"\x90\x91":  # ADDITEMS, FROZENSET
            items = self._take_marked()
            self._hash(items)
            if op == 0x91:
                self.stack.append((0, 1 + len(items), True))

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1] if self.stack else _PLAIN

    def _take(self, count: int) -> list[_Value]:
        taken = self.stack[-count:]
        del self.stack[-count:]
        if _MARK in taken:
            raise UnpickleError("a mark where a value is wanted")
        return taken

    def _take_marked(self) -> list[_Value]:
        stack, place = self.stack, len(self.stack) - 1
        while place >= 0 and stack[place] is not _MARK:
            place -= 1
        taken = stack[place + 1 :]
        del stack[max(place, 0) :]
        return taken

    def _tuple(self, items: list[_Value]) -> None:
        depth = max((item[0] for item in items), default=0)
        if depth >= MAX_DEPTH:
            raise UnpickleError(f"tuples nested deeper than {MAX_DEPTH}")
        self.stack.append((depth + 1, 1 + sum(item[1] for item in items), True))

    def _merge(self, items: list[_Value]) -> None:
        """Push what a call returns: maybe one of its arguments, maybe a number."""
        if any(item is not _PLAIN for item in items):
            self.stack.append((max(i[0] for i in items), sum(i[1] for i in items), True))
        else:
            self.stack.append(_ODD)

    def _hash(self, keys: list[_Value]) -> None:
        """Count the work for keys; hashes of words and small integers cannot be made to agree."""
        for _, size, odd in keys:
            if odd:
                self.odd_keys += 1
                self.odd_size += size
                self._spend(size + self.odd_keys * (1 + size // 8))

    def _spend(self, steps: int) -> None:
        self.work += steps
        if self.work > MAX_HASH_WORK:
            raise UnpickleError("keys that are built to take for ever")
