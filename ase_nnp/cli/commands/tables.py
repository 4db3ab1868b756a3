"""Tables of text whose numbers are never cut, however narrow the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len

__all__ = ["column_widths", "render"]

#: Characters between two columns, and the longest word that is not folded unless it is a number.
GAP, LONGEST_WORD = 2, 28


def render(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return a table of at most ``width`` characters a line, or one block a row if none fits.

    A number is kept whole whatever the width; words longer than 28 characters may be folded.
    """
    rows = [[*row, *[""] * (len(columns) - len(row))] for row in rows]

    # rich cuts cells with "...", and a number without its exponent is another number.
    widths = column_widths(columns, rows, width)
    if widths is None:
        return _blocks(columns, rows)

    from io import StringIO

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # rich aligns and folds; the widths are ours.
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.show_header = any(columns)
    for head, size, cells in zip(columns, widths, _columns(columns, rows), strict=True):
        numeric = any(cells) and all(_is_number(c) for c in cells if c)
        table.add_column(
            Text(head), width=size, overflow="fold", justify="right" if numeric else "left"
        )
    for row in rows:
        # Text is taken as it is: "[/b]" in a name is no markup.
        table.add_row(*(Text(_broken(cell, k)) for cell, k in zip(row, widths, strict=True)))
    page = StringIO()
    Console(file=page, width=max(width, 1), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").split("\n"))


def _broken(cell: str, width: int) -> str:
    """Return the cell with line breaks in words that are too long for it, after an underscore."""
    words = []
    for word in cell.split(" "):
        lines = [""]
        for part in re.findall(r"[^_/]*[_/]+|[^_/]+", word) if cell_len(word) > width else [word]:
            if lines[-1] and cell_len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
        words.append("\n".join(lines))
    return " ".join(words)


def column_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """Return the width of each column, None if the table cannot be had without cutting."""
    cells = [[head, *column] for head, column in zip(columns, _columns(columns, rows), strict=True)]
    natural = [max(map(cell_len, column)) for column in cells]
    least = [max(map(_least, column)) for column in cells]
    room = width - GAP * (len(columns) - 1)
    if sum(least) > room:
        return None

    # Heads are folded before cells are; then the widest columns of text give way first, none below
    # its longest word.
    sizes = list(natural)
    bodies = [max([least[k], *map(cell_len, column[1:])]) for k, column in enumerate(cells)]
    for floor in (bodies, least):
        while sum(sizes) > room:
            free = [k for k in range(len(sizes)) if sizes[k] > floor[k]]
            if not free:
                break
            sizes[max(free, key=lambda k: sizes[k])] -= 1
    return sizes


def _columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[row[k] for row in rows] for k in range(len(columns))]


def _least(cell: str) -> int:
    words = cell.split() or [""]
    return max(cell_len(w) if _is_number(w) else min(cell_len(w), LONGEST_WORD) for w in words)


def _is_number(word: str) -> bool:
    try:
        float(word.replace(",", ""))
    except ValueError:
        return False
    return True


def _blocks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``name: value`` lines; the terminal breaks what is too long, nothing is left out."""
    blocks = []
    for row in rows:
        lines = [
            f"{head}: {cell}" if head else cell for head, cell in zip(columns, row, strict=True)
        ]
        first, *rest = [line for line, cell in zip(lines, row, strict=True) if cell] or [""]
        blocks.append("\n".join([first, *(f"  {line}" for line in rest)]))
    return "\n".join(blocks)
