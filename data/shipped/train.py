"""Train the shipped model on labeled structures: energies, forces, stresses of crystals.

    python data/shipped/train.py OUT_FOLDER --labels LABELS... [--epochs 30] [--minutes 60]

Each of LABELS is a folder that ``label.py`` and its like fill, or one dataset, beside which
``label_atoms.py`` may have put energies of atoms; structures with a ``kind`` (those of
``label_wide.py``) are taken as often as WEIGHTS says. A run that was stopped goes on from
OUT_FOLDER/state.pt; the averaged weights are written to OUT_FOLDER/model.nnp. With ``--minutes``
the schedule ends after that much time at the latest. ``--processes`` share each batch.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.io import read
from train_losses import errors, graphs_of, loss_of
from wide_crystals import nearest

import ase_nnp
from ase_nnp import AtomGraph
from ase_nnp.training.optimizers import muon_with_adamw

CONFIG = {
    "species": [1, 6, 7, 8, 28, 29, 42, 45, 46, 47, 77, 78, 79],
    "hidden_irreps": ["128x0e + 64x1o + 32x2e"] * 2,
    "outs_per_node": 64,
    "avg_num_neighbors": 25.0,
    "edge_embed": {"r_max": 5.0},
    "prior": {"family": "zbl"},
}

#: How often an epoch takes a structure of a kind (None: the many labels of the first model). Small
#: strains and displacements decide constants and phonons, and their cells cost little. Every
#: adsorption energy contains a gas's, so an error of these molecules is an error of all of them.
WEIGHTS = {None: 1, "pair": 1, "strain": 8, "wave": 5, "shaken": 4, "eos": 4, "vacancy": 4}
WEIGHTS |= {"reference": 10, "crystal": 6, "adsorbate": 3, "site": 4, "path": 3}
#: Part of the sum of covalent radii below which the teacher itself is in doubt.
NEAREST = 0.65


def load_frames(source: Path, pattern: str = "train-*.extxyz") -> list[Atoms]:
    """Labeled structures of a folder's shards, or of a dataset."""
    if source.is_dir():
        return [a for path in sorted(source.glob(pattern)) for a in read(path, ":")]
    frames = read(source, ":") if source.suffix == ".extxyz" else list(ase_nnp.open_dataset(source))
    parts = source.with_name(source.name.split(".")[0] + ".atoms.npz")
    if parts.exists():
        with np.load(parts) as file:
            energies = np.split(file["energies"], np.cumsum(file["atoms"])[:-1])
        for atoms, own in zip(frames, energies, strict=True):
            atoms.calc.results["energies"] = own
    return frames


def trusted(atoms: Atoms) -> bool:
    """Whether the label can be believed: no two atoms too near, or a pair, which has its own."""
    return atoms.info.get("kind") in (None, "pair") or nearest(atoms) >= NEAREST


def batches(count: int, size: int, seed: list[int]) -> list[np.ndarray]:
    """All numbers below ``count``, in random order, in parts of about ``size``."""
    order = np.random.default_rng(seed).permutation(count)
    return np.array_split(order, math.ceil(count / size))


def own_part(graphs: list[AtomGraph], rank: int, processes: int) -> list[AtomGraph]:
    """What one process takes of a batch: all take about as many atoms, so that none waits long."""
    ordered = sorted(graphs, key=lambda g: -g.num_atoms)
    there_and_back = [*range(processes), *reversed(range(processes))]
    return [g for i, g in enumerate(ordered) if there_and_back[i % len(there_and_back)] == rank]


def share(model, progress: float, processes: int) -> float:
    """Average the gradients of all processes; return the progress of the first, for all to obey."""
    if processes == 1:
        return progress
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    first = torch.tensor([progress], dtype=torch.float64)
    dist.broadcast(first, 0)
    return float(first)


def split(frames: list[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """Training structures, and those of one system in twenty, which are only watched.

    Every pair of elements, every reference and every crystal is trained on: a repulsive core or
    the energy of hydrogen is no matter of generalization.
    """
    always = ("pair", "reference", "crystal")
    seen = [
        crc32(a.info["system"].encode()) % 20 == 0 and a.info.get("kind") not in always
        for a in frames
    ]
    train = [a for a, only_watched in zip(frames, seen, strict=True) if not only_watched]
    return train, [a for a, only_watched in zip(frames, seen, strict=True) if only_watched]


def references(frames: list[Atoms]) -> dict[int, float]:
    """Energy of each element by least squares, eV."""
    numbers = sorted({int(z) for a in frames for z in a.numbers})
    counts = np.array([[np.sum(a.numbers == z) for z in numbers] for a in frames], float)
    energies = np.array([a.get_potential_energy() for a in frames])
    weight = 1 / counts.sum(1)
    found, *_ = np.linalg.lstsq(counts * weight[:, None], energies * weight, rcond=1e-8)
    return dict(zip(numbers, found.tolist(), strict=True))


def as_often(
    graphs: list[AtomGraph], frames: list[Atoms], weights: dict[str | None, int]
) -> list[AtomGraph]:
    """Graphs repeated as the weights say of the kinds of their frames."""
    counts = [weights.get(a.info.get("kind"), 2) for a in frames]
    return [g for g, count in zip(graphs, counts, strict=True) for _ in range(count)]


def main() -> None:
    """Train in one process or several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--config", type=json.loads, default={}, help="JSON, over CONFIG")
    parser.add_argument("--weights", type=json.loads, default={}, help="JSON, over WEIGHTS")
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--energy-weight", type=float, nargs=2, default=(1.0, 10.0))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--atom-weight", type=float, nargs=2, default=(0.0, 0.0))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--watch", type=int, default=1000, help="steps between tests")
    parser.add_argument("--start", type=Path, help="a model to start from")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.processes == 1:
        train_one(0, args)
    else:
        (args.out / "meeting").unlink(missing_ok=True)
        torch.multiprocessing.spawn(train_one, (args,), nprocs=args.processes)


def train_one(rank: int, args: argparse.Namespace) -> None:
    """Train from the start, or from where it was stopped; the first process writes."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.processes > 1:
        meeting = f"file://{(args.out / 'meeting').resolve()}"
        dist.init_process_group("gloo", meeting, rank=rank, world_size=args.processes)
    frames, watch_frames = split([a for s in args.labels for a in load_frames(s) if trusted(a)])

    if args.start:
        # The weights go on; norm and prior are as asked for, whatever the start was trained with.
        begun = ase_nnp.load_model(args.start, device="cpu")
        config = {**begun.config, "norm_eps": "auto", **CONFIG, **args.config}
        model = ase_nnp.build_model("facet", config, device="cpu", dtype="float32")
        model.load_weights(begun.state_dict())
    else:
        config = {**CONFIG, **args.config}
        model = ase_nnp.build_model("facet", config, seed=args.seed, device="cpu", dtype="float32")
        model.set_energy_scale(references(frames))
    # A few hundred watched structures tell enough; all would take a fifth of the time.
    watch_frames = watch_frames[:: max(1, len(watch_frames) // 250)]
    train, watch = graphs_of(model, frames), graphs_of(model, watch_frames)
    count, atoms = len(train), sum(g.num_atoms for g in train)
    weights = WEIGHTS | args.weights
    train = as_often(train, frames, weights)
    print(f"{count} structures, {atoms} atoms; {len(watch)} watched", flush=True)

    model.train()
    averaged = copy.deepcopy(model)
    optimizers = muon_with_adamw(model.parameters(), lr=args.lr)
    total, step, used = math.ceil(len(train) / args.batch * args.epochs), 0, 0.0
    state_file = args.out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, used = state["step"], state["used"]
    start, losses, order = time.time() - used, [], []
    # Also of a run that goes on, or that had ended: it takes no step at the first one's rate.
    progress = max(step / total, used / 60 / args.minutes)

    while True:
        if not order:
            order = batches(len(train), args.batch, [args.seed, step])
        last = progress >= 1
        if not last:
            warm = min(1.0, (step + 1) / 200)
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = (
                    group["factor"] * args.lr * warm * (0.5 + 0.5 * math.cos(math.pi * progress))
                    + 1e-6
                )
            low, high = args.energy_weight
            taken = own_part([train[i] for i in order.pop()], rank, args.processes)
            energy_weight = low * (high / low) ** progress
            first, end = args.atom_weight
            atom_weight = first + (end - first) * progress
            loss = loss_of(model, AtomGraph.collate(taken), energy_weight, atom_weight)
            model.zero_grad()
            loss.backward()
            passed = (time.time() - start) / 60 / args.minutes
            progress = share(model, max((step + 1) / total, passed), args.processes)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            if torch.isfinite(norm):
                for optimizer in optimizers:
                    optimizer.step()
            step += 1
            decay = min(args.ema, step / (step + 10))
            with torch.no_grad():
                means, now = list(averaged.parameters()), list(model.parameters())
                torch._foreach_lerp_(means, now, 1.0 - decay)
            losses.append(float(loss.detach()))
        if rank == 0 and (last or step % args.watch == 0):
            used = time.time() - start
            line = {"step": step, "of": total, "minutes": round(used / 60, 2)}
            line |= {"loss": float(np.mean(losses or [0])), "watched": errors(averaged, watch)}
            losses = []
            print(json.dumps(line), flush=True)
            with open(args.out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            state = {"model": model.state_dict(), "averaged": averaged.state_dict()}
            state |= {
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
                "used": used,
            }
            torch.save(state, args.out / "state.part")
            (args.out / "state.part").replace(state_file)
            ase_nnp.save_model(averaged, args.out / "model.nnp", **{"structures": count, **line})
        if last:
            break


if __name__ == "__main__":
    main()
