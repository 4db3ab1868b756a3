"""What tests of mapping and screening send to other processes, and the runs that they kill."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

sys.path.insert(0, str(Path(__file__).parent))

from lj_model import LennardJones


def count(atoms):
    """Number of atoms; a structure with a helium atom is refused."""
    if "He" in atoms.symbols:
        raise ValueError("no helium here")
    return len(atoms)


def deadly(atoms):
    """End the whole process at a structure with neon, every time."""
    if "Ne" in atoms.symbols:
        os._exit(3)
    return len(atoms)


def dies_once(atoms):
    """End the process the first time a structure with a mark is seen; a file remembers."""
    mark = atoms.info.get("mark")
    if mark and not Path(mark).exists():
        Path(mark).touch()
        os._exit(3)
    return len(atoms)


class SlowModel(LennardJones):
    """Lennard-Jones that takes its time, notes who computes, and cannot stand some elements.

    Neon ends the process. Every evaluation appends the number of its process to ``log``.
    """

    def __init__(self, pause: float = 0.0, log: str | None = None) -> None:
        super().__init__(0.4, 2.3, 6.0)
        self.pause, self.log = pause, log

    def energies(self, graph):
        if bool((graph.atomic_numbers == 10).any()):
            os._exit(3)
        if self.log is not None:
            with open(self.log, "a") as log:
                log.write(f"{os.getpid()}\n")
        time.sleep(self.pause)
        return super().energies(graph)


def slow_model(pause: float = 0.0, log=None) -> SlowModel:
    """Return the model in float64."""
    return SlowModel(pause, None if log is None else str(log)).to(torch.float64).eval()


def slabs(number: int) -> list[Atoms]:
    """Small slabs with an adsorbate, each of its own."""
    made = []
    for seed in range(number):
        slab = fcc111("Cu", (2, 2, 2), a=3.4 + 0.01 * (seed % 7), vacuum=6.0)
        slab.pbc = (True, True, False)
        add_adsorbate(slab, "O", 1.7, ("fcc", "ontop")[seed % 2])
        slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
        slab.rattle(0.08, seed=seed)
        slab.info["number"] = seed
        made.append(slab)
    return made


SETTINGS = {"fmax": 1e-3, "steps": 60, "chunk": 4}


def screen_slabs(folder, number: int, pause: float, log, shard=(0, 1), **options):
    """Screen slabs with the slow model."""
    from ase_nnp.workflows.screening import screen

    settings = {**SETTINGS, **options}
    return screen(slow_model(pause, log), slabs(number), folder, shard=shard, **settings)


def kill_workers(log: Path, done, kills: int, seed: int = 0) -> list[int]:
    """Kill the process that last evaluated, again and again; returns their numbers.

    Stops when ``kills`` processes were killed, or ``done()`` is true.
    """
    import signal

    rng, killed, seen = np.random.default_rng(seed), [], 0
    while len(killed) < kills and not done():
        time.sleep(0.01)
        lines = log.read_text().split() if log.exists() else []
        if len(lines) < seen:
            continue
        victim = int(lines[-1]) if lines else None
        if victim is None or victim in killed or victim == os.getpid():
            continue
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed.append(victim)
        seen = len(lines) + int(rng.integers(3, 20))
    return killed
