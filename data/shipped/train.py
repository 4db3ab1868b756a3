"""Train the shipped model on labeled structures: energies, forces, stresses of crystals.

    python data/shipped/train.py OUT_FOLDER --labels LABELS... [--epochs 30] [--minutes 60]

Each of LABELS is a folder that ``label.py`` and its like fill, or one dataset; structures with a
``kind`` (those of ``label_wide.py``) are taken as often as WEIGHTS says. A run that was stopped
goes on from OUT_FOLDER/state.pt; the averaged weights are written to OUT_FOLDER/model.nnp. With
``--minutes`` the schedule ends after that much time at the latest.
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
from ase import Atoms
from ase.io import read
from torch.nn import functional as F
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
    return read(source, ":") if source.suffix == ".extxyz" else list(ase_nnp.open_dataset(source))


def trusted(atoms: Atoms) -> bool:
    """Whether the label can be believed: no two atoms too near, or a pair, which has its own."""
    return atoms.info.get("kind") in (None, "pair") or nearest(atoms) >= NEAREST


def new_frames(sources: list[Path], known: set[Path]) -> tuple[set[Path], list[Atoms]]:
    """Frames of shards that were not there before: labelling may go on while training runs."""
    paths = [p for s in sources for p in (sorted(s.glob("train-*.extxyz")) if s.is_dir() else [s])]
    paths = [p for p in paths if p not in known]
    found = [a for p in paths for a in load_frames(p) if trusted(a)]
    return known | set(paths), found


def batches(count: int, size: int, seed: list[int]) -> list[np.ndarray]:
    """All numbers below ``count``, in random order, in parts of about ``size``."""
    order = np.random.default_rng(seed).permutation(count)
    return np.array_split(order, math.ceil(count / size))


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


def graphs_of(model, frames: list[Atoms]) -> list[AtomGraph]:
    """Graphs with what is to be learned in ``extra``; a stress that is not there is NaN."""
    graphs = []
    for atoms in frames:
        results = atoms.calc.results
        stress = np.full(6, np.nan)
        if atoms.pbc.all() and "stress" in results:
            stress = np.asarray(results["stress"]).reshape(-1)
        xx, yy, zz, yz, xz, xy = stress
        full = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        graph = model.make_graph(atoms)
        extra = {
            "energy": torch.tensor([results["energy"]], dtype=torch.float64),
            "forces": torch.tensor(np.asarray(results["forces"]), dtype=model.dtype),
            "stress": torch.tensor(full[None], dtype=model.dtype),
        }
        graphs.append(graph.replace(extra=extra))

    return graphs


def as_often(
    graphs: list[AtomGraph], frames: list[Atoms], weights: dict[str | None, int]
) -> list[AtomGraph]:
    """Graphs repeated as the weights say of the kinds of their frames."""
    counts = [weights.get(a.info.get("kind"), 2) for a in frames]
    return [g for g, count in zip(graphs, counts, strict=True) for _ in range(count)]


def near_l1(found: torch.Tensor, wanted: torch.Tensor, bend: float) -> torch.Tensor:
    """Mean absolute error, quadratic below ``bend``; the few violent frames do not rule."""
    return F.huber_loss(found, wanted, delta=bend) / bend


def loss_of(model, batch: AtomGraph, energy_weight: float) -> torch.Tensor:
    """Losses of energies an atom, force components and stresses."""
    known = torch.isfinite(batch.extra["stress"]).flatten(1).all(1)
    wanted = ("energy", "forces", "stress") if known.any() else ("energy", "forces")
    out = model.compute(batch, wanted)
    wrong = (out["energy"] - batch.extra["energy"]) / batch.atoms_per_structure()
    loss = energy_weight * near_l1(wrong, torch.zeros_like(wrong), 0.01)
    loss = loss + near_l1(out["forces"], batch.extra["forces"], 0.03)
    if known.any():
        # A strain of 0.2 % makes some 0.002 eV/A^3, of which a few per cent matter.
        part = near_l1(out["stress"][known], batch.extra["stress"][known], 0.0005)
        loss = loss + 20 * part * known.float().mean()
    return loss


def errors(model, graphs: list[AtomGraph], size: int = 16) -> list[float]:
    """Mean absolute errors: energy in meV an atom, force components in meV/Angstrom."""
    energy, force = [], []
    training = model.training
    model.eval()
    for i in range(0, len(graphs), size):
        batch = AtomGraph.collate(graphs[i : i + size])
        out = model.compute(batch, ("energy", "forces"))
        wrong = (out["energy"] - batch.extra["energy"]) / batch.atoms_per_structure()
        energy.append(wrong.detach().abs())
        force.append((out["forces"] - batch.extra["forces"]).detach().abs().flatten())
    model.train(training)
    return [round(1e3 * float(torch.cat(x).mean()), 2) for x in (energy, force)]


def main() -> None:
    """Train from the start, or from where it was stopped."""
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
    parser.add_argument("--watch", type=int, default=1000, help="steps between tests")
    parser.add_argument("--start", type=Path, help="a model to start from")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    known, found = new_frames(args.labels, set())
    frames, watch_frames = split(found)

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

    while True:
        passed = (time.time() - start) / 60 / args.minutes
        progress = max(step / total, passed)
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
            batch = AtomGraph.collate([train[i] for i in order.pop()])
            loss = loss_of(model, batch, low * (high / low) ** progress)
            model.zero_grad()
            loss.backward()
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
        if last or step % args.watch == 0:
            used = time.time() - start
            line = {"step": step, "of": total, "minutes": round(used / 60, 2)}
            line |= {"loss": float(np.mean(losses or [0])), "watched": errors(averaged, watch)}
            losses = []
            known, more = new_frames(args.labels, known)
            if more:
                more = split(more)[0]
                train += as_often(graphs_of(model, more), more, weights)
                count += len(more)
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
