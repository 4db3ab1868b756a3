"""TensorNet beside torchmd-net: the same weights, energies and forces in turns.

    PYTHONPATH=TORCHMD_NET python benchmarks/tensornet.py [--turns 9] [--width 64]

Needs torchmd-net 3.1 and its warp. "Kernels" is its compact layout of tensors, "plain" its full
matrices, as releases 1 and 2 had them. Molecules in, energies and forces out, neighbor search
included, in single precision; CPU time, medians of turns. Energies of both are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from measurement import record_option, write_measurement

import ase_nnp

HEAD = ["molecules", "atoms", "ms", "torchmd-net, kernels", "plain", "kernels / here"]
HEAD += ["plain / here", "largest energy difference, eV"]
LAYOUTS = {"compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3"}


def peers(width: int, path: Path) -> dict[str, Callable[[list[Atoms]], torch.Tensor]]:
    """Return torchmd-net's two ways of computing one O(3) model, whose weights go to ``path``."""
    import torchmdnet.models.tensornet as theirs
    from torchmdnet.models.model import create_model

    config = {
        "model": "tensornet",
        "embedding_dimension": width,
        "num_layers": 2,
        "num_rbf": 32,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "silu",
        "cutoff_lower": 0.0,
        "cutoff_upper": 4.5,
        "max_z": 20,
        "max_num_neighbors": 64,
        "equivariance_invariance_group": "O(3)",
        "precision": 32,
        "static_shapes": False,
        "box_vecs": None,
        "derivative": True,
        "atom_filter": -1,
        "prior_model": None,
        "output_model": "Scalar",
        "reduce_op": "add",
        "output_mlp_num_layers": 0,
    }
    torch.manual_seed(0)
    model = create_model(config)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": config, "epoch": 0}, path)

    # Parts read the switch when they are made, functions by their names when they are called.
    if not theirs.OPT:
        raise SystemExit("torchmd-net found no warp: pip install warp-lang.")
    kernels = {name: getattr(theirs, name) for name in LAYOUTS}
    plain = deepcopy(model)
    for part in plain.modules():
        if hasattr(part, "opt"):
            part.opt = False

    def evaluate(fast: bool, structures: list[Atoms]) -> torch.Tensor:
        for name in LAYOUTS:
            setattr(theirs, name, kernels[name] if fast else getattr(theirs, f"_{name}"))
        numbers = torch.tensor(np.concatenate([a.numbers for a in structures]))
        positions = torch.tensor(
            np.concatenate([a.positions for a in structures]), dtype=torch.float32
        )
        batch = torch.repeat_interleave(torch.tensor([len(a) for a in structures]))
        charges = torch.zeros(len(structures))
        energy, _ = (model if fast else plain)(numbers, positions, batch, q=charges)
        return energy.detach()[:, 0]

    return {
        "kernels": lambda structures: evaluate(True, structures),
        "plain": lambda structures: evaluate(False, structures),
    }


def clusters() -> dict[str, list[Atoms]]:
    """Return the cases: one small and one larger molecule, and a batch."""
    rng = np.random.default_rng(0)
    small, large = molecule("C6H6"), molecule("C60")
    batch = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH3COOH", "isobutane") * 4]
    for atoms in (small, large, *batch):
        atoms.rattle(0.05, rng=rng)
    return {"benzene": [small], "C60": [large], "sixteen in a batch": batch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--width", type=int, default=64)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ckpt"
        ways = peers(args.width, path)
        model = ase_nnp.load_model("torchmdnet", checkpoint=path, device="cpu", dtype="float32")

    def ours(structures: list[Atoms]) -> torch.Tensor:
        return model.compute(model.make_graph(structures), ("energy", "forces"))["energy"].detach()

    rows = []
    for name, structures in clusters().items():
        programs = {"here": ours, **ways}
        energies = {way: run(structures) for way, run in programs.items()}
        apart = (energies["here"] - energies["kernels"]).abs().max()
        apart = max(apart, (energies["here"] - energies["plain"]).abs().max())
        spent: dict[str, list[float]] = {way: [] for way in programs}
        for turn in range(args.turns + 2):
            for way, run in programs.items():
                begin = time.process_time()
                for _ in range(3):
                    run(structures)
                if turn >= 2:  # kernels are compiled, memory is found
                    spent[way].append((time.process_time() - begin) / 3)
        middle = {way: 1e3 * statistics.median(some) for way, some in spent.items()}
        ratios = [
            statistics.median(np.divide(spent[way], spent["here"])) for way in ("kernels", "plain")
        ]
        cells = [f"{middle[way]:.1f}" for way in programs]
        ratios = [f"{ratio:.2f}" for ratio in ratios]
        rows.append([name, sum(map(len, structures)), *cells, *ratios, f"{float(apart):.0e}"])
        print(*rows[-1], sep=" | ", flush=True)
    if args.record:
        packages = ("torch", "torchmd-net", "warp-lang")
        write_measurement("tensornet", HEAD, rows, packages=packages)


if __name__ == "__main__":
    main()
