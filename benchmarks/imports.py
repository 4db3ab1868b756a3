"""CPU seconds of what every user waits for: the import, the list of models, the first calculator.

    python benchmarks/imports.py
    python benchmarks/imports.py --beside 7a9ce3f~1 --without eeacsf mpnn --turns 9

The first prints the least of five runs in fresh interpreters. With ``--beside`` a checkout of
another commit is measured in turns with this one, and ``--without`` measures this one without some
plugins besides; medians. Each sees the same packages and only its own plugins.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from measurement import record_option, write_measurement

ROOT = Path(__file__).resolve().parents[1]
QUIET = (
    "import contextlib, io\n"
    "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): "
)
CASES = {
    "import ase_nnp": "import ase_nnp",
    "ase-nnp models": "from ase_nnp.cli import main\n" + QUIET + "main(['models'])",
    "import torch": "import torch",
    "NNPCalculator()": "import ase_nnp; ase_nnp.NNPCalculator(device='cpu')",
}


def cpu_seconds(code: str, environment: dict[str, str] | None = None) -> float:
    """CPU time of a piece of code in a fresh interpreter, whose own start is included."""
    timed = f"{code}\nimport time, sys; print(time.process_time(), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", timed],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env=environment,
    )
    return float(done.stderr.split()[-1])


def environment_of(tree: Path, without: list[str], folder: Path) -> dict[str, str]:
    """Return an environment in which a checkout counts as installed, with these plugins less."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name']}-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")

    # What comes first on the path hides the installed distribution of the same name.
    lines = []
    for group, entries in project["entry-points"].items():
        lines.append(f"[{group}]")
        lines += [f"{name} = {where}" for name, where in entries.items() if name not in without]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    places = [folder, tree, *sorted((tree / "plugins").iterdir())]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}


def beside(revision: str, without: list[str], turns: int) -> list[list[object]]:
    """Return a row for each case: medians of both checkouts, and of ours without some plugins."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "tree"
        add = ["git", "worktree", "add", "--detach", "--quiet", str(tree), revision]
        subprocess.run(add, check=True, cwd=ROOT)
        try:
            environments = [
                environment_of(tree, [], folder / "then"),
                environment_of(ROOT, without, folder / "less"),
                environment_of(ROOT, [], folder / "now"),
            ]
            rows: list[list[object]] = []
            for case in ("import ase_nnp", "ase-nnp models"):
                for environment in environments:  # compiles what was never imported
                    cpu_seconds(CASES[case], environment)
                seen = [[cpu_seconds(CASES[case], e) for e in environments] for _ in range(turns)]
                middle = [statistics.median(column) for column in zip(*seen, strict=True)]
                ratios = [row[2] / row[1] for row in seen]
                rows.append([case, *(round(m, 3) for m in middle), statistics.median(ratios)])
                print(*rows[-1], flush=True)
        finally:
            remove = ["git", "worktree", "remove", "--force", str(tree)]
            subprocess.run(remove, check=True, cwd=ROOT)
    return rows


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", metavar="REVISION", help="a commit to compare with")
    parser.add_argument("--without", nargs="*", default=[], help="plugins that one column lacks")
    parser.add_argument("--turns", type=int, default=9)
    record_option(parser)
    args = parser.parse_args()
    if args.beside is None:
        for name, code in CASES.items():
            print(f"{name:20} {min(cpu_seconds(code) for _ in range(5)):6.3f} s")
        return

    rows = beside(args.beside, args.without, args.turns)
    if args.record:
        head = ["CPU s, a fresh interpreter", f"at {args.beside}", "now, without these plugins"]
        write_measurement("imports", [*head, "now", "now / without, medians of turns"], rows)


if __name__ == "__main__":
    main()
