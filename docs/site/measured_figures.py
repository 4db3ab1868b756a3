"""Pictures of measurements, drawn from the same files as their tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^<!-- table: (\S+) -->\n.*?^<!-- end -->\n", flags=re.DOTALL | re.MULTILINE)


def with_figures(text: str, folder: Path) -> str:
    """Return a page with a picture below each table that has one; draw it into ``folder``.

    All pictures have two kinds of points, in two colors.
    """

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name not in FIGURES:
            return match[0]
        title, draw = FIGURES[name]
        folder.mkdir(parents=True, exist_ok=True)
        draw(measured(name), folder / f"{name}.svg")
        return f"{match[0]}\n![{title}]({name}.svg)\n"

    return BLOCK.sub(block, text)


def measured(name: str) -> list[list[Any]]:
    """Return the head and the rows of a measurement, without the marks of emphasis."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [content["columns"], *content["rows"]]
    return [[str(cell).replace("**", "") for cell in row] for row in rows]


def number(cell: str) -> float:
    """Return the figure of a cell; thousands are parted by spaces, nothing is NaN."""
    return float(cell.replace(" ", "")) if cell not in ("", "-", "None") else float("nan")


def axes(path: Path, lines: dict[str, tuple[list[float], list[float]]], **settings: Any) -> None:
    """Draw lines by name into a file."""
    from matplotlib.figure import Figure

    # Small enough that words can be read on a telephone.
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    plot = figure.subplots()
    for name, (x, y) in lines.items():
        color = f"C{len(plot.lines) % 2}"
        plot.plot(x, y, "o-" if len(x) > 1 else "s", ms=4, color=color, label=name)
    plot.set(**settings)
    plot.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def accuracy(rows: list[list[str]], path: Path) -> None:
    """Force errors over the time of training, beside another program's where it was run."""
    lines = {}
    for start, name in (("", "Facet"), ("MACE", "MACE")):
        own = [row for row in rows[1:] if row[0].startswith("MACE") == bool(start)]
        time = [number(row[1]) for row in own]
        for column, where in ((3, "300 K"), (5, "600 K")) if own else ():
            lines[f"{name}, {where}"] = (time, [number(row[column]) for row in own])
    axes(path, lines, xlabel="CPU min", ylabel="force error, RMSE (meV/Å)")


def searches(rows: list[list[str]], path: Path) -> None:
    """Neighbor search over the number of atoms, cutoff 6 Å."""
    six = [row for row in rows[1:] if float(row[1]) == 6]
    atoms = [number(row[0]) for row in six]
    lines = {n: (atoms, [number(row[k]) for row in six]) for k, n in ((4, "vesin"), (5, "torch"))}
    axes(path, lines, xlabel="atoms", ylabel="CPU ms", xscale="log", yscale="log")


def learning(rows: list[list[str]], path: Path) -> None:
    """Force errors over calls of the oracle, means over seeds."""
    # A head such as "15, 16": the calls differ from seed to seed.
    counts = [list(map(float, head.split(","))) for head in rows[0][1:]]
    calls = [sum(several) / len(several) for several in counts]
    kinds = {"mean, threshold": "chosen by the uncertainty", "mean, random": "random"}
    lines = {
        kinds[row[0]]: (calls, [number(cell) for cell in row[1:]])
        for row in rows
        if row[0] in kinds
    }
    axes(path, lines, xlabel="oracle calls", ylabel="force error, RMSE (eV/Å)")


def rejudging(rows: list[list[str]], path: Path) -> None:
    """Success over speed of single points and relaxations by a judge."""
    kinds = {"SP": "single points", "RX": "relaxations"}
    lines = {}
    for start, name in kinds.items():
        own = [row for row in rows[1:] if row[0].startswith(start)]
        success = [number(row[1].removesuffix(" %")) for row in own]
        lines[f"{name}, k = 1, 3, 5 (right to left)"] = ([number(row[2]) for row in own], success)
    axes(path, lines, xlabel="times the judge's speed", ylabel="within 0.1 eV of its best (%)")


#: A picture's words and how it is drawn, by the name of the table.
FIGURES: dict[str, tuple[str, Callable[[list[list[str]], Path], None]]] = {
    "facet_acac": ("Force errors over the time of training", accuracy),
    "neighbors": ("Time of a neighbor search over the number of atoms", searches),
    "adsorption_rejudged": ("Success over speed of a search with a judge", rejudging),
    "active_learning": ("Force errors over calls of the oracle", learning),
}
