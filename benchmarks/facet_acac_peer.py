"""MACE on the acetylacetone split of ``facet_acac.py``, by its own training program.

    python benchmarks/facet_acac_peer.py DATA_FOLDER OUT_FOLDER --env ENV --epochs 55

ENV is an environment (``python -m venv``) with ``mace-torch==0.3.16``. The 450 frames of the
split are learned from; the other 50 are the peer's validation set, by which it picks its weights.
Settings are those its documentation gives for small molecules, with an exponential learning rate
because so few epochs would not let its default (wait for a plateau of 50) come down. Both weights
that the peer leaves (stage one and stage two) are tested at 300 K and 600 K; figures go to
OUT_FOLDER/peer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
from ase.io import read, write

TEST = """
import json, sys
import numpy as np
import torch
import mace
from ase.io import read
from mace.calculators import MACECalculator

torch.set_num_threads(1)
calculator = MACECalculator(model_paths=sys.argv[1], device="cpu", default_dtype="float32")
result = {"parameters": sum(p.numel() for p in calculator.models[0].parameters())}
for name in ("held_300K", "dev_600K"):
    energy, force = [], []
    for atoms in read(f"{name}.xyz", ":"):
        energy.append(calculator.get_potential_energy(atoms) - atoms.info["REF_energy"])
        force.append(calculator.get_forces(atoms) - atoms.arrays["REF_forces"])
    result[name] = [1e3 * float(np.sqrt(np.mean(np.square(x)))) for x in (energy, force)]
print(json.dumps(result))
"""


def relabel(frames):
    """Put the labels where the peer looks for them."""
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--env", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=55)
    parser.add_argument("--hidden", default="48x0e + 48x1o")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--end-lr", type=float, default=1e-3, help="where stage two starts")
    parser.add_argument("--watch", type=int, default=5, help="epochs between validations")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    frames = read(args.data / "train_300K.xyz", ":")
    order = np.random.default_rng(args.seed).permutation(len(frames))
    parts = {
        "train": [frames[i] for i in order[:450]],
        "held_300K": [frames[i] for i in order[450:]],
        "dev_600K": read(args.data / "dev_600K.xyz", ":"),
    }
    for name, part in parts.items():
        write(args.out / f"{name}.xyz", relabel(part))
    free = {
        int(a.numbers[0]): float(a.get_potential_energy())
        for a in read(args.data / "isolated_atoms.xyz", ":")
    }
    second = (3 * args.epochs) // 4
    options = {
        "name": "peer",
        "model": "MACE",
        "train_file": "train.xyz",
        "valid_file": "held_300K.xyz",
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "E0s": str(free),
        "hidden_irreps": args.hidden,
        "r_max": 5.0,
        "batch_size": 5,
        "valid_batch_size": 50,
        "lr": args.lr,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": (args.end_lr / args.lr) ** (1 / second),
        "energy_weight": 1.0,
        "forces_weight": 100.0,
        "start_swa": second,
        "swa_lr": args.end_lr / 2,
        "swa_energy_weight": 1000.0,
        "ema_decay": 0.99,
        "max_num_epochs": args.epochs,
        "eval_interval": args.watch,
        "error_table": "TotalRMSE",
        "device": "cpu",
        "default_dtype": "float32",
        "seed": args.seed,
        "plot": False,
    }
    python = args.env.absolute() / "bin" / "python"
    command = [str(args.env.absolute() / "bin" / "mace_run_train"), "--ema", "--swa", "--amsgrad"]
    command += ["--restart_latest", *(f"--{key}={value}" for key, value in options.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(args.out / "train.log", "a") as log:
        subprocess.run(command, cwd=args.out, env=environment, check=True, stdout=log, stderr=log)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {"epochs": args.epochs, "cpu_min": (used.ru_utime + used.ru_stime) / 60}
    for stage, file in (("stage one", "peer.model"), ("stage two", "peer_stagetwo.model")):
        run = [str(python), "-W", "ignore", "-c", TEST, file]
        text = subprocess.run(
            run, cwd=args.out, env=environment, check=True, capture_output=True, text=True
        ).stdout
        result[stage] = json.loads(text.strip().splitlines()[-1])
    (args.out / "peer.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
