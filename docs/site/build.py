"""Build the site: ``python docs/site/build.py [FOLDER]`` (default ``build/site``).

Needs the extra ``docs`` and no network. A warning is an error.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stage import ROOT, stage


def main(words: list[str]) -> int:
    """Stage the sources and run Sphinx on them; return its exit code."""
    from sphinx.cmd.build import build_main

    target = Path(words[0]) if words else ROOT / "build" / "site"
    sources = target.with_name(f"{target.name}-sources")
    stage(sources)
    return int(build_main(["-q", "-W", "--keep-going", "-b", "html", str(sources), str(target)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
