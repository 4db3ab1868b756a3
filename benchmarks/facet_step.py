"""CPU time of whole training steps of Facet, beside another commit of this repository.

    python benchmarks/facet_step.py DATA_FOLDER --beside c01556d [--turns 9]

A step is the forward pass, the loss, backward, the bound of the gradient, Muon with AdamW and the
average of the weights: that of ``facet_acac.py`` (five molecules of DATA_FOLDER/train_300K.xyz,
energies and forces) and that of the shipped model (its sizes and five of its labels, stresses too).
Each commit runs in a process of its own and both take turns on the same batches, from the same
weights; the first rounds warm up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from imports import environment_of
from measurement import record_option, write_measurement
from turns import Worker, serve, take_turns

ROOT = Path(__file__).resolve().parents[1]
HEAD = ["training step", "atoms", "edges", "before, ms", "now", "before / now", "quartiles"]
HEAD += ["of it optimizers and average: before", "now", "losses of the first steps differ by"]
WARM = 3


def work(case: str, data: str) -> None:
    """Answer each question with the CPU time of one step."""
    import torch
    from ase.io import read

    sys.path[:0] = [f"{os.environ['TREE']}/benchmarks", f"{os.environ['TREE']}/data/shipped"]
    import facet_acac
    import train
    from small_training import follow

    import ase_nnp
    from ase_nnp.training.optimizers import muon_with_adamw

    torch.set_num_threads(1)
    config = facet_acac.CONFIG if case == "acac" else train.CONFIG
    source = f"{ROOT}/data/shipped/adsorbates.extxyz.xz"
    frames = read(f"{data}/train_300K.xyz" if case == "acac" else source, ":400")
    # Most labels of the shipped model are slabs; the smallest cells among them would say nothing.
    frames = [a for a in frames if case == "acac" or 20 <= len(a) <= 60][:40]
    model = ase_nnp.build_model("facet", config, seed=0, device="cpu", dtype="float32")
    properties = ("energy", "forces") if case == "acac" else ("energy", "forces", "stress")
    model.train()
    averaged = ase_nnp.build_model("facet", config, seed=0, device="cpu", dtype="float32")
    optimizers = muon_with_adamw(model.parameters(), lr=1e-3)

    def answer(seed: int) -> dict[str, Any]:
        some = [frames[(5 * seed + k) % len(frames)] for k in range(5)]
        batch = ase_nnp.AtomGraph.collate([model.make_graph(a) for a in some])
        energy = torch.tensor([a.get_potential_energy() for a in some])
        forces = torch.cat([torch.tensor(a.get_forces(), dtype=torch.float32) for a in some])
        start = time.process_time()
        out = model.compute(batch, properties)
        missed = (out["energy"] - energy) / batch.atoms_per_structure()
        loss = (out["forces"] - forces).square().mean() + missed.square().mean()
        if "stress" in properties:
            loss = loss + out["stress"].square().mean()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        middle = time.process_time()
        for optimizer in optimizers:
            optimizer.step()
        follow(averaged, model, seed + 1, 0.995)
        end = time.process_time()
        return {
            "step": 1e3 * (end - start),
            "optimizers": 1e3 * (end - middle),
            "loss": float(loss.detach()),
            "atoms": batch.num_atoms,
            "edges": batch.num_edges,
        }

    serve(answer)


def compare(case: str, data: str, environments: dict[str, dict[str, str]], turns: int) -> list[Any]:
    """Return the row of one case."""
    workers = {}
    for which, environment in environments.items():
        os.environ.update(environment)
        workers[which] = Worker(sys.executable, Path(__file__).resolve(), case, data)
    rounds = take_turns(workers, turns, WARM)
    for worker in workers.values():
        worker.close()

    then, now = rounds["before"], rounds["now"]
    ratios = sorted(a["step"] / b["step"] for a, b in zip(then, now, strict=True))
    differences = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(then, now, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    row = [case, now[-1]["atoms"], now[-1]["edges"]]
    row += [round(statistics.median(r["step"] for r in part)) for part in (then, now)]
    row += [f"**{middle:.2f}**", f"{low:.2f} to {high:.2f}"]
    row += [round(statistics.median(r["optimizers"] for r in part), 1) for part in (then, now)]
    return [*row, f"{max(differences):.0e}"]


def main() -> None:
    """Measure both cases."""
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder with train_300K.xyz of acetylacetone")
    parser.add_argument("--beside", metavar="REVISION", required=True)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--cases", nargs="+", default=["acac", "shipped"])
    record_option(parser)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder, tree = Path(name), Path(name) / "tree"
        add = ["git", "worktree", "add", "--detach", "--quiet", str(tree), args.beside]
        subprocess.run(add, check=True, cwd=ROOT)
        try:
            environments = {
                which: {**environment_of(place, [], folder / which), "TREE": str(place)}
                for which, place in (("before", tree), ("now", ROOT))
            }
            rows = []
            for case in args.cases:
                rows.append(compare(case, args.data, environments, args.turns))
                print(*rows[-1], flush=True)
        finally:
            remove = ["git", "worktree", "remove", "--force", str(tree)]
            subprocess.run(remove, check=True, cwd=ROOT)
    if args.record:
        write_measurement("facet_step", HEAD, rows)


if __name__ == "__main__":
    main()
