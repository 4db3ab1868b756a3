"""A search for adsorption minima in a folder, in forks that tests may kill."""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import fcc111
from ase.calculators.emt import EMT
from killed_forks import fork_repeatedly


def search(folder: Path | None, told=None):
    from ase_nnp import from_ase
    from ase_nnp.workflows.adsorption.search import adsorb

    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    return adsorb(slab, "O", from_ase(EMT), placements=8, folder=folder, progress=told)


if __name__ == "__main__":
    import ase_nnp.workflows.adsorption.search  # noqa: F401  imported once, for all forks

    fork_repeatedly(
        lambda: search(Path(sys.argv[1]), lambda *_: print("step", flush=True)), int(sys.argv[2])
    )
