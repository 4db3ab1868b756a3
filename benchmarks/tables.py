"""Put measured figures into the documents: every table of a measurement is made from a file.

    python benchmarks/tables.py            # fill all documents anew
    python benchmarks/tables.py --check    # name what differs, and figures that were typed; code 1

In a document stand markers, which readers do not see; what is between them is made from
``benchmarks/results/NAME.json``, which a script wrote (``write_measurement``)::

    <!-- table: NAME -->
    <!-- end -->
    ... an error of <!-- value: NAME KEY --><!-- end --> eV ...

A value may also come from any other JSON file of the repository, by its path and the keys that lead
to it: ``<!-- value: data/shipped/report.json wide/all/recall % --><!-- end -->``. A list stands for
its length; with ``%`` a share is written as per cent.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from typed_figures import typed_figures

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLE = re.compile(r"^<!-- table: (\S+) -->\n.*?^<!-- end -->$", flags=re.DOTALL | re.MULTILINE)
VALUE = re.compile(r"<!-- value: (\S+) (.+?)( %)? -->.*?<!-- end -->")


def documents() -> list[Path]:
    """Return the files that may quote a measurement."""
    places = ["README.md", "SECURITY.md", "benchmarks/RESULTS.md", "docs/*.md"]
    places += ["plugins/*/README.md", "data/*.md", "data/*/README.md"]
    return [path for place in places for path in sorted(ROOT.glob(place))]


def fill(text: str, folder: Path = RESULTS) -> str:
    """Return ``text`` with everything between markers made anew."""

    def table(match: re.Match[str]) -> str:
        made = markdown(read(match[1], folder))
        return f"<!-- table: {match[1]} -->\n{made}\n<!-- end -->"

    def value(match: re.Match[str]) -> str:
        name, key, share = match[1], match[2], match[3] or ""
        found = quoted(name, key, folder)
        text = f"{100 * found:.0f} %" if share else cell(found)
        return f"<!-- value: {name} {key}{share} -->{text}<!-- end -->"

    return VALUE.sub(value, TABLE.sub(table, text))


def quoted(name: str, key: str, folder: Path = RESULTS) -> Any:
    """Return a single figure of a measurement, or of the JSON file at a path."""
    if name.endswith(".json"):
        found = json.loads((ROOT / name).read_text(encoding="utf-8"))
    else:
        found = read(name, folder).get("values", {})

    for word in key.split("/"):
        if not isinstance(found, dict) or word not in found:
            known = sorted(found) if isinstance(found, dict) else found
            raise SystemExit(f"{name} has no value {key!r}: no {word!r}, but {known}.")
        found = found[word]
    return len(found) if isinstance(found, list) else found


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the measurement of a name."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"A document names the measurement {name!r}, but there is no {path}.")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def markdown(content: dict[str, Any]) -> str:
    """Return a measurement as a table with a line below that says where it comes from."""
    # A column that no row of this run has would only make the table wider.
    filled = [k for k in range(len(content["columns"])) if any(r[k] != "" for r in content["rows"])]
    lines = [content["columns"], ["---"] * len(content["columns"]), *content["rows"]]
    lines = [[line[k] for k in filled] for line in lines]
    rows = [f"| {' | '.join(cell(value) for value in line)} |" for line in lines]
    return "\n".join([*rows, "", f"*{origin(content)}*"])


def origin(content: dict[str, Any]) -> str:
    """Say by which command, when and on what a table was measured."""
    words = [f"`{content['command']}`", content["date"], content["machine"]]
    words += [f"{name} {number}" for name, number in content["versions"].items()]
    return ", ".join(word for word in words if word)


def cell(value: Any) -> str:
    """Return a value as a cell shows it: words as they are, numbers with three digits."""
    if value is None:
        return "-"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    if isinstance(value, int) or abs(value) >= 999.5:
        return f"{value:,.0f}".replace(",", " ") if abs(value) >= 10_000 else f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")


def main(words: list[str]) -> int:
    """Fill the documents, or name those that differ from the files or hold typed figures."""
    wrong = []
    for path in documents():
        name = path.relative_to(ROOT)
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            wrong.append(str(name))
            if "--check" not in words:
                path.write_text(after, encoding="utf-8")
        wrong += [f"{name}: typed, no source: {line[:100]}" for line in typed_figures(after)]

    print("\n".join(wrong) if wrong else "All figures are as their files say.")
    return int(bool(wrong) and "--check" in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
