"""Tutorials: scripts of cells (``# %%``), run with their output kept, as pages and as notebooks.

``python docs/site/cells.py run [NAME]...`` runs tutorials and keeps what each cell printed
(``tutorials/output/NAME.json``) and drew (``docs/img/tutorials``);
``python docs/site/cells.py notebooks FOLDER`` writes notebooks.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tutorials" / "output"
PICTURES = ROOT / "docs" / "img" / "tutorials"


@dataclass(frozen=True)
class Cell:
    """Text or code of a tutorial."""

    kind: str  # "markdown" or "code"
    text: str


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a script."""
    cells = []
    for part in re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)[1:]:
        first, _, body = part.partition("\n")
        if "[markdown]" in first:
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()]
            cells.append(Cell("markdown", "\n".join(lines)))
        elif body.strip():
            cells.append(Cell("code", body.strip("\n")))
    return cells


def digest(path: Path) -> str:
    """Return a hash of a tutorial's code, which tells kept output from that of an older script."""
    code = "\n".join(cell.text for cell in read_cells(path) if cell.kind == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def kept_output(path: Path) -> dict[str, object]:
    """Return what the last run of a tutorial printed, or nothing."""
    file = OUTPUT / f"{path.stem}.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def to_markdown(path: Path, cells: list[Cell]) -> str:
    """Return a tutorial as a page with its output."""
    kept = kept_output(path)
    outputs = list(kept.get("cells", []))  # type: ignore[call-overload]
    title, *rest = cells
    lines = [title.text, ""]
    if kept:
        lines += [f"Takes {kept['cpu_seconds']} s of one CPU core.", ""]

    code = 0
    for cell in rest:
        if cell.kind == "markdown":
            lines += [cell.text, ""]
            continue
        lines += ["```python", cell.text, "```", ""]
        output = outputs[code] if code < len(outputs) else {}
        code += 1
        if output.get("text"):
            lines += ["```text", output["text"].rstrip(), "```", ""]
        lines += [f"![{p}](../docs/img/tutorials/{p})\n" for p in output.get("pictures", [])]
    lines += [f"The script: `tutorials/{path.name}`."]
    return "\n".join(lines) + "\n"


def to_notebook(path: Path, folder: Path) -> Path:
    """Write a tutorial as a notebook with the output of its last run; return the file."""
    outputs = list(kept_output(path).get("cells", []))  # type: ignore[call-overload]
    cells, code = [], 0
    for number, cell in enumerate(read_cells(path)):
        entry: dict[str, object] = {"cell_type": cell.kind, "metadata": {}, "id": f"cell-{number}"}
        entry["source"] = cell.text.splitlines(keepends=True)
        if cell.kind == "code":
            text = outputs[code].get("text", "") if code < len(outputs) else ""
            stream = {"output_type": "stream", "name": "stdout"}
            entry["outputs"] = [{**stream, "text": text.splitlines(keepends=True)}] if text else []
            entry["execution_count"] = code = code + 1
        cells.append(entry)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}}
    file = folder / f"{path.stem}.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**notebook, "cells": cells}, indent=1) + "\n")
    return file


def run(path: Path) -> float:
    """Run a tutorial in an empty folder and keep its output; return CPU seconds."""
    outputs: list[dict[str, object]] = []
    names = {"__name__": "__main__", "__file__": str(path)}
    start, before = cpu_seconds(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for cell in read_cells(path):
                if cell.kind == "code":
                    outputs.append(run_cell(cell, names, path.stem))
        finally:
            os.chdir(before)
    seconds = cpu_seconds() - start
    OUTPUT.mkdir(exist_ok=True)
    kept = {"cpu_seconds": round(seconds), "code": digest(path), "cells": outputs}
    (OUTPUT / f"{path.stem}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return seconds


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for, s."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def run_cell(cell: Cell, names: dict[str, object], stem: str) -> dict[str, object]:
    """Run one cell; return what it printed and the pictures that it drew."""
    there = {p: p.stat().st_mtime_ns for p in Path().rglob("*.png")}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(compile(cell.text, f"<{stem}>", "exec", dont_inherit=True), names)
    output: dict[str, object] = {}
    if printed.getvalue().strip():
        output["text"] = printed.getvalue()
    drawn = [p for p in sorted(Path().rglob("*.png")) if p.stat().st_mtime_ns != there.get(p)]
    if drawn:
        PICTURES.mkdir(parents=True, exist_ok=True)
        output["pictures"] = [f"{stem[:2]}_{p.name}" for p in drawn]
        for p in drawn:
            shutil.copy(p, PICTURES / f"{stem[:2]}_{p.name}")
    return output


def main(words: list[str]) -> None:
    """Run tutorials, or write notebooks."""
    scripts = sorted((ROOT / "tutorials").glob("*.py"))
    if words[:1] == ["run"]:
        for path in scripts:
            if not words[1:] or path.stem in words[1:]:
                print(path.stem, round(run(path)), "CPU s", flush=True)
    elif words[:1] == ["notebooks"] and len(words) == 2:
        for path in scripts:
            print(to_notebook(path, Path(words[1])))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
