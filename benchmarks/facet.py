"""Facet beside MACE (128x0e + 128x1o) and SevenNet-0: CPU time and memory.

    python benchmarks/facet.py --mace-env A --sevennet-env B [--relax] [--scaling] [--json]

A and B are environments (``python -m venv``) with ``torch==2.13.0`` and ``mace-torch==0.3.16``
or ``sevenn==0.13.0``; without one that package is left out. Every program computes energy, forces
and stress in processes of its own, one a case, on one thread, through its own ASE calculator,
neighbor list included. Atoms move before every call and the programs take turns; figures are
medians of process CPU time, and peak resident memory.

``--relax``: the shipped Facet and SevenNet-0 relax ten perturbed crystals until no force is above
0.02 eV/A, each along its own path. No trained MACE comes with its package, and an untrained one
leads nowhere, so ``mace`` and the second Facet row compute the structures of the shipped model's
path: the same number of steps from the same starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from measurement import record_option, write_measurement
from turns import peak_mib

HERE = Path(__file__).resolve()
RELAXING = ("shipped", "sevennet")  # they are trained, the others not
SLAB = HERE.parents[2] / "shared/data_real/oc20_samples/co_on_AlCuSe_dft.json"
SIZES = {"si64": 2, "si512": 4, "si1000": 5, "si4096": 8}


def structure(case, slab):
    from ase.build import add_adsorbate, bulk, fcc111, molecule
    from ase.io import read

    if case in SIZES:
        atoms = bulk("Si", cubic=True).repeat(SIZES[case])
    elif slab:
        atoms = read(slab)
        atoms.set_constraint()
    else:
        atoms = fcc111("Cu", (4, 4, 4), vacuum=8.0, periodic=True)
        add_adsorbate(atoms, molecule("CO"), 1.9, "ontop")
    atoms.rattle(0.05, seed=0)
    return atoms


def crystals():
    from ase.build import bulk

    made = []
    for k, (symbol, a) in enumerate(
        [("Cu", 3.6), ("Pd", 3.9), ("Ag", 4.1), ("Ni", 3.5), ("Pt", 3.9)] * 2
    ):
        atoms = bulk(symbol, "fcc", a=a, cubic=True).repeat((2, 2, 1 + k // 5))
        atoms.rattle(0.1, seed=k)
        made.append(atoms)
    return made


def shipped():
    import ase_nnp

    calculator = ase_nnp.NNPCalculator(device="cpu", uncertainty=None)
    return calculator, sum(p.numel() for p in calculator.model.parameters())


def relax(calculator):
    """Relax copies of all crystals; return the structures on the way."""
    from ase.optimize import FIRE

    path = []
    for atoms in crystals():
        atoms.calc = calculator
        run = FIRE(atoms, logfile=None)
        path += [atoms.copy() for _ in run.irun(fmax=0.02, steps=300)]
        if not run.converged(atoms.get_forces().ravel()):
            raise SystemExit(f"{atoms} did not relax in 300 steps.")
    return path


def follow(calculator, path):
    """Energy and forces of each structure, as an optimizer asks for them."""
    for atoms in path:
        atoms.calc = calculator
        atoms.get_forces()


def facet(config):
    import ase_nnp

    model = ase_nnp.build_model("facet", config, seed=0, device="cpu").freeze()
    return ase_nnp.NNPCalculator(model), sum(p.numel() for p in model.parameters())


def published():
    from ase_nnp_facet.settings import PUBLISHED

    return {**PUBLISHED["facet-s"], "resid_init": "ones"}


def mace():
    import numpy as np
    import torch
    from mace import modules  # isort: skip  (before e3nn, which it prepares)
    from e3nn import o3
    from mace.calculators import MACECalculator

    torch.manual_seed(0)
    elements = [z for z in range(1, 95) if not 84 <= z <= 88]
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=6.0, num_bessel=10, num_polynomial_cutoff=5, max_ell=3, num_interactions=2,
        interaction_cls=block, interaction_cls_first=block, num_elements=len(elements),
        hidden_irreps=o3.Irreps("128x0e + 128x1o"), MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(elements)), avg_num_neighbors=61.96, atomic_numbers=elements,
        correlation=3, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip
    count = sum(p.numel() for p in model.parameters())
    return MACECalculator(models=[model.float()], device="cpu", default_dtype="float32"), count


def sevennet():
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator("7net-0", device="cpu")
    return calculator, sum(p.numel() for p in calculator.model.parameters())


MAKE = {
    "shipped": shipped,
    "facet": lambda: facet({}),
    "facet-s": lambda: facet(published()),
    "mace": mace,
    "sevennet": sevennet,
}


def worker(kind, case, slab):
    """Answer each line on stdin with the CPU time of one call, as JSON."""
    warnings.simplefilter("ignore")
    import torch
    from ase.io import read, write

    torch.set_num_threads(1)
    calculator, parameters = MAKE[kind]()
    path = []
    if case != "relax":
        atoms = structure(case, slab)
    for number, _ in enumerate(sys.stdin):
        if case != "relax":
            atoms.rattle(0.01, seed=number)
            start = time.process_time()
            calculator.calculate(atoms, ["energy", "forces", "stress"], ["positions"])
        elif kind in RELAXING:
            start = time.process_time()
            path = relax(calculator)
        else:
            path = path or read(slab, ":")
            start = time.process_time()
            follow(calculator, path)
        spent = time.process_time() - start
        if kind == "shipped" and not number:
            write(slab, path)
        peak = peak_mib()
        answer = {"ms": 1e3 * spent, "mb": peak, "parameters": parameters, "steps": len(path)}
        print("@" + json.dumps(answer), flush=True)


#: What the table calls cases and programs.
WORDS = {
    "si64": "Si, 64 atoms",
    "slab": "CO on AlCuSe, 34 atoms",
    "facet": "facet (default)",
    "facet-s": "facet-s, radius graph",
    "mace": "MACE 0.3.16, 128x0e + 128x1o",
    "sevennet": "SevenNet-0",
}


class Program:
    def __init__(self, kind, case, slab, args):
        python = {"mace": args.mace_env, "sevennet": args.sevennet_env}.get(kind)
        path = str(Path(python) / "bin/python") if python else sys.executable
        env = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", MKL_NUM_THREADS="1")
        env["PYTHONDONTWRITEBYTECODE"] = ""
        command = [path, str(HERE), "--worker", kind, case]
        command += ["--slab", str(slab)] if slab else []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
        )
        self.ms, self.last = [], {}

    def turn(self, keep=True):
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(self.process.stderr.read()[-2000:]) from None
        while not (line := self.process.stdout.readline()).startswith("@"):
            if not line:
                raise SystemExit(self.process.stderr.read()[-2000:])
        self.last = json.loads(line[1:])
        if keep:
            self.ms.append(self.last["ms"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mace-env")
    parser.add_argument("--sevennet-env")
    parser.add_argument("--slab", type=Path, default=SLAB if SLAB.exists() else None)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=["si64", "slab"])
    parser.add_argument("--relax", action="store_true", help="ten crystals, to the end")
    parser.add_argument("--scaling", action="store_true", help="Facet alone, 64 to 4096 atoms")
    parser.add_argument("--json", action="store_true")
    record_option(parser)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker, args.slab)
        return
    kinds = ["facet", "facet-s"]
    kinds += ["mace"] * bool(args.mace_env) + ["sevennet"] * bool(args.sevennet_env)
    plan = [(case, kinds, args.repeat, 2) for case in args.cases]
    if args.relax:
        plan.append(("relax", ["shipped", *kinds], 1, 0))
    plan += [(case, ["facet"], 1, 1) for case in SIZES] if args.scaling else []
    rows = []
    folder = tempfile.TemporaryDirectory()
    for case, names, repeat, warm in plan:
        slab = Path(folder.name) / "path.extxyz" if case == "relax" else args.slab
        programs = {name: Program(name, case, slab, args) for name in names}
        for number in range(repeat + warm):
            for program in programs.values():
                program.turn(keep=number >= warm)
        for name, program in programs.items():
            row = {"case": case, "program": name, "cpu_ms": statistics.median(program.ms)}
            row |= {"peak_mb": program.last["mb"], "parameters": program.last["parameters"]}
            row["structures"] = program.last["steps"] or 1
            rows.append(row)
            program.close()
        first = rows[-len(names)]["cpu_ms"]
        for row in rows[-len(names) :]:
            row["times_first"] = row["cpu_ms"] / first
        if not args.json:
            table(rows[-len(names) :], header=len(rows) == len(names))
    if args.record:
        record(rows)
    if args.json:
        print(json.dumps({"python": platform.python_version(), "rows": rows}))


def record(rows):
    """Write the table of single calls."""
    head = ["case", "program", "parameters", "CPU ms", "times the first", "peak MB"]
    keys = ("parameters", "cpu_ms", "times_first", "peak_mb")
    cells = [
        [WORDS.get(row["case"], row["case"]), WORDS[row["program"]], *(row[key] for key in keys)]
        for row in rows
        if row["case"] != "relax"
    ]
    write_measurement("facet", head, cells, packages=("torch", "ase", "sevenn"))


def table(rows, header):
    if header:
        print("| case | program | parameters | structures | CPU ms | times the first | peak MB |")
        print("|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['case']} | {r['program']} | {r['parameters']} | {r['structures']} "
            f"| {r['cpu_ms']:.0f} | {r['times_first']:.2f} | {r['peak_mb']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
