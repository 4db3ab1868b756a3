"""A relaxation or a dynamics in a folder, in a process of its own that tests may kill."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms
from killed_forks import fork_repeatedly

sys.path.insert(0, str(Path(__file__).parent))


def model(pause: float):
    from lj_model import LennardJones

    class Slow(LennardJones):
        def energies(self, graph):
            time.sleep(pause)
            return super().energies(graph)

    return Slow(0.4, 2.3, 6.0).to(torch.float64).eval()


def structures():
    slabs = []
    for seed in range(8):
        slab = fcc111("Cu", (2, 2, 2), a=3.3 + 0.02 * seed, vacuum=6.0)
        slab.pbc = (True, True, False)
        add_adsorbate(slab, "O", 1.7, "fcc")
        slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
        slab.rattle(0.08, seed=seed)
        slabs.append(slab)
    crystal = bulk("Cu", a=3.6, cubic=True)
    crystal.rattle(0.15, seed=1)
    return [*slabs, crystal]


def run(kind: str, folder: Path, pause: float, every: float, given=None):
    from ase_nnp.workflows.batched import relax_many, run_dynamics

    given = structures() if given is None else given

    options = {
        "folder": folder, "checkpoint_every": every, "batch": 10**6, "max_atoms": 40,
        "progress": lambda now: print("step", flush=True),
    }  # fmt: skip
    if kind == "relax":
        return relax_many(model(pause), given, optimizer="FIRE", fmax=1e-5, steps=250, **options)
    return run_dynamics(
        model(pause), given, "langevin", steps=150, temperature_K=300, timestep_fs=2.0,
        interval=3, **options,
    )  # fmt: skip


def contents(folder: Path, outcomes):
    """Everything a run leaves behind, for comparison."""
    from ase.io import read

    left = []
    for outcome in outcomes:
        frames = read(folder / f"{outcome.index:06d}.traj", ":")
        left.append(
            (
                outcome.index,
                outcome.status,
                outcome.steps,
                outcome.energy,
                [frame.info["step"] for frame in frames],
                np.array([frame.positions for frame in frames]),
                np.array([frame.get_momenta() for frame in frames]),
            )
        )
    return left


if __name__ == "__main__":
    import ase_nnp.workflows.batched  # noqa: F401  imported once, for all forks

    kind, folder, pause, every, count = sys.argv[1:]
    fork_repeatedly(lambda: run(kind, Path(folder), float(pause), float(every)), int(count))
