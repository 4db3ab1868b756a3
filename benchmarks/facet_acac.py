"""Train Facet on the acetylacetone set: energies and forces at 300 K, tested at 600 K.

    python benchmarks/facet_acac.py DATA_FOLDER OUT_FOLDER --epochs 300 --minutes 60

DATA_FOLDER holds train_300K.xyz, dev_600K.xyz and isolated_atoms.xyz; 450 shuffled training frames
are learned from, the other 50 are watched and choose nothing. A run that was stopped goes on from
OUT_FOLDER/state.pt; its schedule ends with the epochs or the minutes, whichever come first.
``--start MODEL`` begins a new schedule at weights that this script wrote, on the same frames for
the same seed; minutes and epochs are counted on from theirs. The averaged weights are written to
OUT_FOLDER/model.nnp, the course to OUT_FOLDER/log.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from ase.io import read
from measurement import record_option, write_measurement
from small_training import follow, set_rate, take_step

import ase_nnp
from ase_nnp import AtomGraph
from ase_nnp.training.optimizers import muon_with_adamw

CONFIG = {
    "species": [1, 6, 8],
    "hidden_irreps": ["64x0e + 32x1o + 16x2e"] * 2,
    "outs_per_node": 64,
    "avg_num_neighbors": 12.0,
    "edge_embed": {"r_max": 5.0},
    # A free shift moves by the learning rate a step: at first more than an energy's error.
    "rescale": {"shift_trainable": False, "global_shift_trainable": False},
}


def load(model, frames):
    """Graphs, with energies and forces to learn in ``extra``."""
    graphs = []
    for atoms in frames:
        graph = model.make_graph(atoms)
        energy = torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)
        forces = torch.tensor(atoms.get_forces(), dtype=model.dtype)
        graphs.append(graph.replace(extra={"energy": energy, "forces": forces}))
    return graphs


def rmse(model, graphs, size=50):
    """Energy (meV a structure) and force (meV/A) errors, root mean square."""
    energy, force = [], []
    model.eval()
    for i in range(0, len(graphs), size):
        batch = AtomGraph.collate(graphs[i : i + size])
        out = model.compute(batch, ("energy", "forces"))
        energy.append((out["energy"] - batch.extra["energy"]).double())
        force.append((out["forces"] - batch.extra["forces"]).double().flatten())
    return [1e3 * float(torch.cat(x).square().mean().sqrt()) for x in (energy, force)]


def set_references(model, data, frames):
    """Give the model the energies of free atoms, and the mean binding energy an atom."""
    atoms = read(data / "isolated_atoms.xyz", ":")
    free = {a.numbers[0]: a.get_potential_energy() for a in atoms}
    binding = [
        (a.get_potential_energy() - sum(free[z] for z in a.numbers)) / len(a) for a in frames
    ]
    model.set_energy_scale(free, shift=float(np.mean(binding)), scale=1.0)


def center(model, graphs, size=50):
    """Shift the energy of every atom so that the mean error of the training frames is zero.

    Averaged weights need it: an average of float32 numbers as large as the energies of free atoms
    stops following them.
    """
    missed, atoms = 0.0, 0
    model.eval()
    for i in range(0, len(graphs), size):
        batch = AtomGraph.collate(graphs[i : i + size])
        out = model.compute(batch, ("energy",))["energy"].detach()
        missed += float((batch.extra["energy"] - out).sum())
        atoms += batch.num_atoms
    with torch.no_grad():
        model.energy_scale.global_shift += missed / atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="weights to go on from, instead of fresh ones")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON, over CONFIG")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--energy-weight", type=float, nargs=2, default=(10.0, 100.0))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="CPU time of the run")
    parser.add_argument("--watch", type=int, default=10, help="epochs between tests")
    record_option(parser)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    frames = read(args.data / "train_300K.xyz", ":")
    order = np.random.default_rng(args.seed).permutation(len(frames))
    train_frames, held_frames = ([frames[i] for i in part] for part in (order[:450], order[450:]))

    before, epochs_before = 0.0, 0
    if args.start:
        model = ase_nnp.load_model(args.start, device="cpu")
        if model.provenance.get("seed") != args.seed:
            raise SystemExit(f"{args.start}: the frames of seed {args.seed} are not those it saw")
        before = 60 * model.provenance["cpu_min"]
        epochs_before = model.provenance["epoch"]
    else:
        config = {**CONFIG, **args.config}
        model = ase_nnp.build_model("facet", config, seed=args.seed, device="cpu", dtype="float32")
    train, held = load(model, train_frames), load(model, held_frames)
    dev = load(model, read(args.data / "dev_600K.xyz", ":"))

    if not args.start:
        set_references(model, args.data, train_frames)

    model.train()
    averaged = copy.deepcopy(model)
    optimizers = muon_with_adamw(model.parameters(), lr=args.lr)
    steps = math.ceil(len(train) / args.batch)
    first, step, used = 0, 0, 0.0
    state_file = args.out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state.get("before", 0.0) != before:
            raise SystemExit(f"{state_file} belongs to a run with another --start.")
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, step, used = state["epoch"], state["step"], state["used"]
    start = time.process_time()

    for epoch in range(first, args.epochs):
        model.train()
        order = np.random.default_rng([args.seed, epochs_before + epoch]).permutation(len(train))
        losses = []
        for part in np.array_split(order, steps):
            passed = (used + time.process_time() - start) / 60 / args.minutes
            progress = min(1.0, max(step / (steps * args.epochs), passed))
            warm = min(1.0, (step + 1) / (2 * steps))
            set_rate(optimizers, args.lr * warm * 0.5 * (1 + math.cos(math.pi * progress)) + 1e-6)
            low, high = args.energy_weight
            weight = low * (high / low) ** progress
            batch = AtomGraph.collate([train[i] for i in part])
            labels = batch.extra["energy"], batch.extra["forces"]
            losses.append(take_step(model, optimizers, batch, *labels, weight))
            step += 1
            follow(averaged, model, step, args.ema)
        spent = used + time.process_time() - start
        last = epoch + 1 == args.epochs or spent > 60 * args.minutes
        if (epoch + 1) % args.watch == 0 or last:
            line = {
                "epoch": epochs_before + epoch + 1,
                "cpu_min": round((before + spent) / 60, 2),
                "loss": np.mean(losses),
            }
            center(averaged, train)
            line["held_300K"], line["dev_600K"] = rmse(averaged, held), rmse(averaged, dev)
            print(json.dumps(line), flush=True)
            with open(args.out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            state = {"model": model.state_dict(), "averaged": averaged.state_dict()}
            state |= {
                "optimizers": [o.state_dict() for o in optimizers],
                "epoch": epoch + 1,
                "step": step,
                "before": before,
            }
            torch.save(state | {"used": spent}, args.out / "state.part")
            (args.out / "state.part").replace(state_file)
            ase_nnp.save_model(
                averaged, args.out / "model.nnp", trained_on="AcAc train_300K", **line
            )
        if last:
            break
    if args.record:
        record(args.out)


def record(folder):
    """Write the course of the training, and the end of the peer where it was trained too.

    A run with ``--start`` shows the whole course where the lines of the run before stand first.
    """
    head = ["Facet, epochs", "CPU min", "E, 300 K", "F, 300 K", "E, 600 K", "F, 600 K"]
    lines = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    # The first, the next after twice that, four times ..., and the end.
    shown, wanted = [], lines[0]["epoch"]
    for line in lines:
        if line["epoch"] >= wanted or line is lines[-1]:
            shown.append(line)
            wanted *= 2
    rows = [[r["epoch"], r["cpu_min"], *r["held_300K"], *r["dev_600K"]] for r in shown]

    names = ("cpu_min", "E_300K", "F_300K", "E_600K", "F_600K")
    ends = {"facet": rows[-1]}
    if (folder / "peer.json").exists():
        peer = json.loads((folder / "peer.json").read_text())
        errors = peer["stage two"]
        name = f"MACE, {peer['epochs']} epochs"
        rows.append([name, peer["cpu_min"], *errors["held_300K"], *errors["dev_600K"]])
        ends["mace"] = rows[-1]
    values = {
        f"{who}_{name}": value
        for who, row in ends.items()
        for name, value in zip(names, row[1:], strict=True)
    }
    write_measurement("facet_acac", head, rows, values=values)


if __name__ == "__main__":
    main()
