"""A search for adsorption minima in a folder, in forks that tests may kill."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ase.build import fcc111
from ase.calculators.emt import EMT


def search(folder: Path | None, told=None):
    from ase_nnp import from_ase
    from ase_nnp.workflows.adsorption.search import adsorb

    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    return adsorb(slab, "O", from_ase(EMT), placements=8, folder=folder, progress=told)


def tries(folder: Path, count: int) -> None:
    """Run ``count`` times, each in a fork whose number is printed, for somebody else to kill."""
    import ase_nnp.workflows.adsorption.search  # noqa: F401  imported once, for all forks

    for _ in range(count):
        child = os.fork()
        if child == 0:
            try:
                search(folder, lambda *_: print("step", flush=True))
                os._exit(0)
            finally:
                os._exit(1)
        print(f"child {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"end {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    tries(Path(sys.argv[1]), int(sys.argv[2]))
