"""Functions that test_mapping.py and test_screening.py send to other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ase_nnp.workflows.screening import screen


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


class Slowly:
    """Note each evaluation in a file, then take a moment."""

    def __init__(self, log, pause):
        self.log, self.pause = log, pause

    def __call__(self, atoms):
        with open(self.log, "a") as log:
            log.write(f"{atoms.info['number']}\n")
        time.sleep(self.pause)
        twin = atoms.copy()
        twin.info["square"] = atoms.info["number"] ** 2
        return twin


def screen_slowly(structures, folder, log, pause, shard, lease):
    """Be a worker of a screening run; that workers die is here never a structure's fault."""
    work = Slowly(log, pause)
    screen(work, structures, folder, shard=shard, block=2, lease=lease, attempts=100)
