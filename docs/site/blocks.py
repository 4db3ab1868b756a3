"""The code blocks of README and guides: which are run by the tests, and why others are not.

A block that cannot be run says so in its first line: ``# not run here: needs a cluster``. What a
test must do before the first block (write a file that the reader already has) stands in a comment
of the page, ``<!-- setup ... -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PIECE = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)-->"
    r"|^<!-- (?:command: (?P<command>\w+)|run by: (?P<by>[\w./]+)) -->\n"
    r"|^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)
MARK = "# not run here: "


@dataclass(frozen=True)
class Block:
    """A piece of code in a page."""

    line: int
    language: str  # "python", "sh", "yaml", "text", "setup", ...
    code: str
    reason: str = ""  # why it is not run

    @property
    def counts(self) -> bool:
        """Whether a reader takes it for code; output and tables of contents are none."""
        return self.language not in ("text", "setup") and not self.language.startswith("{")


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = path.read_text()
    pieces, by = [], ""
    for match in PIECE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["command"] or match["by"]:
            by = f"run by {match['by'] or '.ci/run'}"
        elif match["setup"] is not None:
            pieces.append(Block(line, "setup", match["setup"]))
        else:
            code = match["code"]
            first = code.partition("\n")[0]
            reason = first.removeprefix(MARK) if first.startswith(MARK) else ""
            pieces.append(Block(line, match["language"].strip(), code, by or reason))
            by = ""
    return pieces


def counts() -> tuple[int, dict[str, int]]:
    """Return how many blocks the tests run, and how many not, by reason."""
    run, left = 0, {}
    for path in GUIDES:
        for block in blocks(path):
            if block.counts and block.reason:
                left[block.reason] = left.get(block.reason, 0) + 1
            elif block.counts:
                run += 1
    return run, left


if __name__ == "__main__":
    print(*counts(), sep="\n")
