"""Ten things that a newcomer does, each tried and timed: ``python benchmarks/first_hour.py``.

Runs in an empty folder with what a reader of the site has: the package, and ``data`` of a checkout.
Writes ``docs/first-hour.md`` and the times, ``results/first_hour.json``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tables
from measurement import write_measurement

ROOT = Path(__file__).resolve().parent.parent


TASKS: list[tuple[str, str, str, str]] = [
    (
        "Relax the example and look at the picture",
        "command-line.md#the-picture-of-a-relaxation",
        "sh",
        "ase-nnp relax --plot relaxed.png",
    ),
    (
        "Relax a structure of your own with an error bar",
        "calculator.md",
        "python",
        """\
from ase.build import add_adsorbate, fcc111
from ase.optimize import BFGS
from ase_nnp import NNPCalculator

atoms = fcc111("Pd", (2, 2, 3), vacuum=7)
add_adsorbate(atoms, "H", 1.0, "fcc")
atoms.calc = NNPCalculator()
BFGS(atoms, logfile=None).run(fmax=0.05, steps=100)
print(atoms.get_potential_energy(), "+-", atoms.calc.results["energy_std"], "eV")
atoms.write("slab.traj")""",
    ),
    (
        "An adsorption energy with its reaction and interval",
        "adsorption.md",
        "sh",
        "ase-nnp adsorb Pd H --miller 111 --placements 8 --html report.html",
    ),
    (
        "Open an OC20 file and see what is in it",
        "datasets.md",
        "sh",
        "ase-nnp data stats data/oc20_toy",
    ),
    (
        "Turn it into a file that other programs read",
        "datasets.md",
        "sh",
        "ase-nnp data convert data/oc20_toy oc20.aselmdb",
    ),
    (
        "Ask which energy a model and a dataset hold",
        "energies.md",
        "python",
        """\
import ase_nnp

print(ase_nnp.NNPCalculator().energy_kind, ase_nnp.open_dataset("data/oc20_toy").energy_kind)""",
    ),
    (
        "Relax many structures, and again after a kill",
        "many-structures.md",
        "sh",
        "# Stop it with Ctrl-C, or kill it, and give the same command again: it goes on.\n"
        "ase-nnp relax data/toy.nnp data/oc20_toy --folder run --fmax 0.1 -o many.extxyz",
    ),
    (
        "Lattice constant and elastic constants",
        "command-line.md#properties",
        "sh",
        """\
ase build -x fcc Cu cu.xyz
ase-nnp relax cu.xyz --cell --fmax 0.005 -o cu.traj
ase-nnp elastic cu.traj""",
    ),
    (
        "Fine-tune on your own labels and compare before and after",
        "training.md",
        "sh",
        """\
python - <<END
from ase.build import bulk
from ase.calculators.emt import EMT
import ase_nnp

frames = []
for seed in range(40):
    frames.append(bulk("Cu", cubic=True))
    frames[-1].rattle(0.1, seed=seed)
    frames[-1].calc = EMT()                        # or your DFT
    frames[-1].get_forces()
ase_nnp.write_dataset("labels.extxyz", frames)
END
cat > run.yaml <<END
model: {start: data/toy.nnp}
data: {train: labels.extxyz}
epochs: 5
output: tuned
END
ase-nnp train run.yaml
ase-nnp evaluate data/toy.nnp tuned/model.nnp labels.extxyz""",
    ),
    (
        "Write a plugin and have it checked",
        "write-a-plugin.md",
        "sh",
        """\
ase-nnp plugin new morse
python -m pip install --no-deps --no-build-isolation --target here ./ase_nnp_morse
PYTHONPATH=here ase-nnp plugin check morse""",
    ),
]


def run(kind: str, code: str, folder: Path) -> float:
    """Run one task; return its seconds of CPU, the start of Python included."""
    script = folder / f"task.{'py' if kind == 'python' else 'sh'}"
    script.write_text(f"{'' if kind == 'python' else 'set -e' + chr(10)}{code}\n")
    words = [sys.executable if kind == "python" else "bash", script.name]
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment = {**os.environ, "PATH": os.pathsep.join(places)}

    before = os.times()
    subprocess.run(words, cwd=folder, env=environment, check=True)
    after = os.times()
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


def try_all(tasks: list[tuple[str, str, str, str]] = TASKS) -> list[float]:
    """Try the tasks in one folder, in their order; return the seconds of each."""
    times = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").symlink_to(ROOT / "data")
        for title, _, kind, code in tasks:
            print(f"== {title}", flush=True)
            times.append(run(kind, code, folder))
            print(f"   {times[-1]:.0f} CPU s", flush=True)
    return times


def page(tasks: list[tuple[str, str, str, str]] = TASKS) -> str:
    """Return the page of the tasks."""
    lines = [
        "# Ten things in the first hour",
        "",
        "In this order, in a folder with the `data` of a checkout; copy and run. All were tried",
        "and timed by `benchmarks/first_hour.py`, which wrote this page:",
        "<!-- value: first_hour total --><!-- end --> s of one core in all.",
        "",
    ]
    for number, (title, link, kind, code) in enumerate(tasks, 1):
        lines += [f"## {number}. {title}", ""]
        lines += ["<!-- run by: benchmarks/first_hour.py -->"]
        lines += [f"```{kind}", code, "```", ""]
        lines += [f"[Read on]({link}).", ""]
    lines += ["## How long each takes", "", "<!-- table: first_hour -->", "<!-- end -->"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try all tasks, write the times and the page."""
    times = try_all()
    rows = [
        [f"{n}. {task[0]}", f"{t:.0f}"]
        for n, (task, t) in enumerate(zip(TASKS, times, strict=True), 1)
    ]
    total = {"total": f"{sum(times):.0f}"}
    write_measurement("first_hour", ["task, with the start of Python", "CPU s"], rows, values=total)
    (ROOT / "docs" / "first-hour.md").write_text(tables.fill(page()))


if __name__ == "__main__":
    main()
