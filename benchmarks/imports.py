"""CPU seconds of what every user waits for: the import, the list of models, the first calculator.

    python benchmarks/imports.py

Each is the least of five runs in a fresh interpreter.
"""

from __future__ import annotations

import subprocess
import sys

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


def cpu_seconds(code: str) -> float:
    """Least CPU time of five runs of a piece of code, the interpreter's own start included."""
    timed = f"{code}\nimport time, sys; print(time.process_time(), file=sys.stderr)"
    figures = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", timed], capture_output=True, text=True, check=True, cwd="/"
        )
        figures.append(float(done.stderr.split()[-1]))
    return min(figures)


def main() -> None:
    """Print one line a case."""
    for name, code in CASES.items():
        print(f"{name:20} {cpu_seconds(code):6.3f} s")


if __name__ == "__main__":
    main()
