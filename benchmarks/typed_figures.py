"""Find figures in a document that were typed: neither made from a file, nor stated with a source.

A line ``<!-- source: ... -->`` above a paragraph, a list or a table says where its figures come
from: a paper, a definition or default, the tolerance of a test, arithmetic. Readers do not see it.
Figures in code are not looked at.
"""

from __future__ import annotations

import re

#: Lengths, temperatures and steps of time are mostly settings, so that their units are not here.
UNITS = (
    "ms|µs|s|min|seconds?|minutes?|hours?|eV|meV|meV/atom|meV/Å|eV/Å|GPa|THz"
    "|bytes|kB|MB|MiB|GB|GiB|times|CPU (?:ms|s|min|seconds?|minutes?)"
)
NUMBER = r"(?<![\w.-])\d+\.\d+(?![\w.-])"
#: In a row of a table: a number with a unit, a share, or two numbers with decimals.
IN_TABLES = re.compile(rf"\d (?:{UNITS})(?![\w³^])|\d ?%|{NUMBER}.*\|.*{NUMBER}")
#: In a sentence also a number with two decimals, in powers of ten, or a count out of a count.
IN_PROSE = re.compile(
    rf"\d (?:{UNITS})(?![\w³^])|\d ?%|\de-\d|(?<![\w.-])\d+\.\d\d+(?![\w.-])|\d of \d"
)
#: What looks like a measured figure and is none.
STATED = [
    r"90 % (?:\w+ )?(?:interval|error)s?",  # the level that all intervals have
    r"(?:doi|arXiv):\S+",
    r"(?i:python|torch|ase|fairchem-core|matgl|mace-torch|torch-sim|dftd3|warp)[ (]+[\d.]+",
]
SOURCED = re.compile(r"^<!-- source: .*? -->\n(?:[^\n]+\n?)+", flags=re.MULTILINE)
MADE = re.compile(r"<!-- (?:table|value): .*?-->.*?<!-- end -->", flags=re.DOTALL)
CODE = re.compile(r"^ *```.*?^ *```$|`[^`]*`", flags=re.DOTALL | re.MULTILINE)


def typed_figures(text: str) -> list[str]:
    """Return the rows of tables and the lines of text that hold typed figures."""
    text = SOURCED.sub("", MADE.sub("", CODE.sub("", text)))
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(\[[^\]]*\])\([^)\s]*\)", r"\1", text)
    for pattern in STATED:
        text = re.sub(pattern, "", text)

    lines = text.splitlines()
    return [x for x in lines if (IN_TABLES if x.startswith("|") else IN_PROSE).search(x)]
