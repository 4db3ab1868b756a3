"""Figures that a script measured, as a file: what the tables of the documents are made of.

A file ``results/NAME.json`` holds a table (``columns``, ``rows``), perhaps single ``values`` that a
text quotes, and where they come from: command, date, commit, machine and versions.
``python benchmarks/tables.py`` puts them into the documents.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def write_measurement(
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    values: Mapping[str, Any] | None = None,
    packages: Sequence[str] = ("torch", "ase", "numpy"),
    machine: str | None = None,
    keep_others: bool = False,
    folder: Path = RESULTS,
) -> Path:
    """Write a table and where it comes from to ``FOLDER/NAME.json``.

    Parameters
    ----------
    name
        Name of the file, and of the table's marker in a document.
    columns, rows
        Heads (with units) and cells: words, or numbers, which are shown with three digits.
    values
        Single figures that a document quotes by name.
    packages
        Packages whose versions matter; those that are not installed are left out.
    machine
        What the figures were measured on; None describes this machine.
    keep_others
        Keep the rows that are in the file already and begin with another cell, and other values.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{name}: a row has {len(row)} cells for {len(columns)} columns.")
    target = folder / f"{name}.json"
    if keep_others and target.exists():
        old = json.loads(target.read_text(encoding="utf-8"))
        rows = [*(r for r in old["rows"] if r[0] not in [new[0] for new in rows]), *rows]
        values = {**old["values"], **(values or {})}

    content = {
        "command": command(),
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": machine or this_machine(),
        "versions": {"python": platform.python_version(), **versions(packages)},
        "values": dict(values or {}),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }

    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(dumps(content), encoding="utf-8")
    return target


def record_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--record``: only whole runs belong into the documents, no quick looks."""
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/NAME.json")


def dumps(content: Mapping[str, Any]) -> str:
    """Return the file's text: a line for each entry, value and row."""

    def line(value: Any) -> str:
        # NumPy's numbers are no numbers for json.
        return json.dumps(value, ensure_ascii=False, default=float)

    entries = []
    for key, value in content.items():
        text = line(value)
        if key == "rows":
            text = "[\n" + ",\n".join(f"  {line(row)}" for row in value) + "\n ]"
        elif key == "values" and value:
            pairs = (f"  {line(name)}: {line(one)}" for name, one in value.items())
            text = "{\n" + ",\n".join(pairs) + "\n }"
        entries.append(f" {line(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def command() -> str:
    """Return the command line of this process; of paths outside the repository only the name."""
    script = Path(sys.argv[0]).resolve()
    script = script.relative_to(HERE.parent) if HERE.parent in script.parents else Path(script.name)
    words = [word if not word.startswith("/") else Path(word).name for word in sys.argv[1:]]
    return shlex.join(["python", str(script), *words])


def commit() -> str:
    """Return the commit of the checkout, with a plus where files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=HERE)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def this_machine() -> str:
    """Return processor, threads and load."""
    name = platform.machine()
    # platform.processor() is empty or the architecture again on most Linux systems.
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(": ")[1] for x in lines if x.startswith("model name")), name)
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    return f"{name}, {threads} thread{'s' * (threads != '1')}, load {os.getloadavg()[0]:.0f}"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
