"""What our path costs beside the calculators that CHGNet and SevenNet bring themselves.

Energy, forces and stress through ASE; both programs take turns in one process, positions move
before each call, and the CPU time of one call is compared with that of the other's next to it.

    python benchmarks/peers.py [--repeats 7] [--models chgnet sevennet] [--atoms 66 216]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from measurement import record_option, write_measurement

import ase_nnp


def slab() -> Atoms:
    atoms = fcc111("Cu", (4, 4, 4), vacuum=8.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    return atoms


STRUCTURES = {
    66: ("CO on Cu(111), 66 atoms", slab),
    216: ("Si, 216 atoms", lambda: bulk("Si", cubic=True) * 3),
}


def own_chgnet():
    from chgnet.model import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def own_sevennet():
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


OWN: dict[str, Callable[[], object]] = {"chgnet": own_chgnet, "sevennet": own_sevennet}


def quietly(function: Callable[[], object]) -> object:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return function()


def once(atoms: Atoms, calculator: object) -> tuple[float, tuple[float, np.ndarray, np.ndarray]]:
    """CPU seconds of one energy, forces and stress, and the three."""
    twin = atoms.copy()
    twin.calc = calculator
    start = time.process_time()
    results = twin.get_potential_energy(), twin.get_forces(), twin.get_stress()
    return time.process_time() - start, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(OWN), choices=list(OWN))
    parser.add_argument("--atoms", nargs="+", type=int, default=[66, 216], choices=[66, 216])
    record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("torch", "ase", "chgnet", "sevenn", "vesin")
    print(", ".join(f"{p} {version(p)}" for p in packages))
    table = []
    for name in options.models:
        ours = ase_nnp.NNPCalculator(name, device="cpu")
        theirs = quietly(OWN[name])
        for label, make in (STRUCTURES[count] for count in options.atoms):
            atoms = make()
            rows, apart = [], np.zeros(3)
            for turn in range(-2, options.repeats):  # the first calls compile
                atoms.rattle(0.02, seed=turn + 10)
                pair = [(ours, 0), (theirs, 1)][:: 1 if turn % 2 else -1]
                times, results = [0.0, 0.0], [None, None]
                for calculator, place in pair:
                    times[place], results[place] = once(atoms, calculator)
                if turn >= 0:
                    rows.append(times)
                    gaps = [np.abs(a - b).max() for a, b in zip(*results, strict=True)]
                    apart = np.maximum(apart, gaps)
            mine, own = (statistics.median(r[k] for r in rows) for k in (0, 1))
            ratio = statistics.median(a / b for a, b in rows)
            print(
                f"{name:9} {label:24} ours {1000 * mine:7.0f} ms, theirs {1000 * own:7.0f} ms, "
                f"ratio {ratio:.3f} (medians of {len(rows)}); largest differences "
                f"E {apart[0]:.1e} eV, F {apart[1]:.1e} eV/A, S {apart[2]:.1e} eV/A^3",
                flush=True,
            )
            gaps = ", ".join(f"{value:.1e}" for value in apart)
            table.append([name, label, 1000 * mine, 1000 * own, ratio, gaps])
    if options.record:
        head = ["model", "structure", "here, ms", "own calculator, ms", "ratio"]
        head += ["largest differences: E (eV), F (eV/Å), stress (eV/Å^3)"]
        write_measurement("peers", head, table, packages=packages)


if __name__ == "__main__":
    main()
