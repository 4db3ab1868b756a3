"""Speed over releases: one measurement a release in ``history/``, all of them in one picture.

    python benchmarks/history.py record      # `ase-nnp bench --json` -> history/VERSION.json
    python benchmarks/history.py draw        # history/*.json -> history.png

Releases are compared on whatever machine each was measured on; the file says which.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
HISTORY = HERE / "history"


def record(model: str) -> Path:
    """Measure the installed release and keep what was found."""
    command = [sys.executable, "-c", "from ase_nnp.cli import main; main()"]
    command += ["bench", model, "--device", "cpu", "--sizes", "8,32,72,128", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    content = {
        "version": version("ase_nnp"),
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, torch {version('torch')}",
        "model": model,
        "bench": json.loads(done.stdout),
    }
    HISTORY.mkdir(exist_ok=True)
    target = HISTORY / f"{content['version']}.json"
    target.write_text(json.dumps(content, indent=1) + "\n")
    return target


def draw() -> Path:
    """Draw milliseconds a structure against its size, one line a release."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for path in sorted(HISTORY.glob("*.json")):
        content = json.loads(path.read_text())
        (model,) = content["bench"]["models"]
        points = model["sizes"]
        label = f"{content['version']} ({content['date']}, {content['model']})"
        axes.loglog([p["atoms"] for p in points], [p["ms"] for p in points], "o-", label=label)
    axes.set(xlabel="atoms", ylabel="CPU ms a structure", title="Energy and forces, one structure")
    axes.legend()
    target = HERE / "history.png"
    figure.savefig(target, dpi=150)
    return target


def main() -> None:
    """Record or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["record", "draw"])
    parser.add_argument("--model", default="facet")
    options = parser.parse_args()
    print(record(options.model) if options.what == "record" else draw())


if __name__ == "__main__":
    main()
