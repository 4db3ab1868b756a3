"""Write ``reference.json``: energies and forces of torchmd-net 3.1 for checkpoints made here.

    python make_reference.py            # with torchmd-net 3.1 and warp-lang, in float64

Each case keeps the hyper-parameters, the names and shapes of the package's own state dict, the
numbers of its constant tables, and what the package computes after ``load_model``. Weights follow a
formula (:func:`fill`), so that no file of weights is needed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

PLAIN = os.environ.get("PLAIN") == "1"
SHARED = {
    "embedding_dimension": 6,
    "num_layers": 2,
    "num_rbf": 5,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "cutoff_lower": 0.0,
    "cutoff_upper": 4.5,
    "max_z": 10,
    "max_num_neighbors": 64,
    "equivariance_invariance_group": "O(3)",
    "output_model": "Scalar",
    "reduce_op": "add",
    "prior_model": None,
    "atom_filter": -1,
    "precision": 64,
    "derivative": True,
    "output_mlp_num_layers": 0,
}
TWO = {"model": "tensornet2", "q_dim": 3, "q_weights": [0.2, 0.3, 0.5]}
WEIGHTED = {**TWO, "output_model": "ScalarPlusWeightedCoulomb"}
EV = {"distance_scale": 1e-10, "energy_scale": 1.602176634e-19}
HARTREE = {"distance_scale": 1e-10, "energy_scale": 4.3597447222071e-18}
NUMBERS = {"atomic_number": list(range(10))}
SHORT = {"cutoff_distance": 4.0, "max_num_neighbors": 64}
COULOMB = {"lower_switch_distance": 0.1, "upper_switch_distance": 0.3, "max_num_neighbors": 64}

#: Name, settings; "plain" cases are evaluated without the kernels.
CASES = {
    "two, O(3)": {**TWO},
    "two, SO(3)": {**TWO, "equivariance_invariance_group": "SO(3)"},
    "two, SO(3), plain": {**TWO, "equivariance_invariance_group": "SO(3)"},
    "two, older, plain": {**TWO, "model": "tensornet-nqe", "check_errors": True},
    "two, all pairs": {**WEIGHTED, "coulomb_cutoff": None, "output_mlp_num_layers": 1},
    "two, all pairs, plain": {
        **WEIGHTED,
        "coulomb_cutoff": None,
        "equivariance_invariance_group": "SO(3)",
    },
    "two, reaction field": {
        **WEIGHTED,
        "q_weights": [[0.1, 0.2, 0.3], [0.0, 0.5, 0.1], [0.3, 0.2, 0.1]],
        "coulomb_cutoff": 5.5,
        "rbf_type": "gauss",
    },
    "two, nuclei": {**TWO, "repulsion": True, "cutoff_lower": 0.5},
    "one, ZBL": {
        "model": "tensornet",
        "prior_model": ["ZBL"],
        "prior_args": [{**SHORT, **HARTREE, **NUMBERS}],
    },
    "one, D2": {
        "model": "tensornet",
        "prior_model": [{"D2": {**SHORT, **EV, **NUMBERS}}],
    },
    "one, Coulomb": {
        "model": "tensornet",
        "prior_model": "Coulomb",
        "prior_args": {**COULOMB, **EV},
    },
    "two, four priors": {
        **WEIGHTED,
        "coulomb_cutoff": 5.5,
        "prior_model": ["Atomref", "ZBL", "D2", "Coulomb"],
        "prior_args": [
            {"max_z": 10, "trainable": True, "enable": True},
            {**SHORT, **EV, **NUMBERS},
            {**SHORT, **EV, **NUMBERS, "cutoff_distance": 6.0},
            {**COULOMB, **EV},
        ],
    },
}
#: None of its sides is shorter than twice the longest cutoff.
BOX = [[13.0, 0.0, 0.0], [1.0, 14.0, 0.0], [-2.0, 1.5, 13.5]]


def structures() -> list[dict]:
    """Return molecules with charges, and one over the edge of a box."""
    from ase.build import molecule

    rng = np.random.default_rng(3)
    made = []
    for name, charge in (("CH3OH", 0), ("CH3OH", 1), ("CH3NO2", -1), ("HF", 0), ("CH3OH", 0)):
        atoms = molecule(name)
        atoms.rattle(0.1, rng=rng)
        made.append(
            {
                "numbers": atoms.numbers.tolist(),
                "positions": atoms.positions.round(6).tolist(),
                "charge": charge,
                "charges": rng.normal(size=len(atoms)).round(3).tolist(),
                "cell": None,
            }
        )
    made[-1]["cell"] = BOX
    # Two molecules, each at another end of the box.
    shift = 12.0 - np.array([0.0, 0.0, 3.0])
    second = (np.array(made[-1]["positions"]) * [1, -1, 1] + shift).round(6).tolist()
    for key in ("numbers", "charges"):
        made[-1][key] = made[-1][key] * 2
    made[-1]["positions"] = made[-1]["positions"] + second
    return made


def fill(tensors: dict[str, torch.Tensor], constants: dict[str, list]) -> dict[str, torch.Tensor]:
    """Return tensors of a formula, but for those whose numbers are given."""
    filled = {}
    for number, name in enumerate(sorted(tensors)):
        shape = tensors[name].shape
        count = int(np.prod(shape))
        values = 0.4 * torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + number)
        filled[name] = values.reshape(shape)
        if name in constants:
            filled[name] = torch.tensor(constants[name], dtype=tensors[name].dtype).reshape(shape)
    return filled


def evaluate(model, one: dict, name: str) -> dict | None:
    """Return energy and forces, None where the package has none."""
    periodic = one["cell"] is not None
    # The package leaves the box out of D2 and of pairs without an end.
    if periodic and ("all pairs" in name or "prior" in name or "D2" in name or "Coulomb" in name):
        return None
    energy, forces = model(
        torch.tensor(one["numbers"]),
        torch.tensor(one["positions"]),
        torch.zeros(len(one["numbers"]), dtype=torch.long),
        box=torch.tensor(one["cell"]) if periodic else None,
        q=torch.tensor([float(one["charge"])]),
        extra_args={"partial_charges": torch.tensor(one["charges"])},
    )
    return {
        "energy": round(float(energy), 10),
        "forces": forces.detach().numpy().round(10).tolist(),
    }


def main() -> None:
    """Compute one layout, and the other in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    if PLAIN:  # the package looks for its kernels once, when it is imported
        import torchmdnet.extensions.warp_ops as kernels

        del kernels.fn_message_passing
    import torchmdnet.models.tensornet as theirs
    from torchmdnet.models.model import create_model, load_model

    assert theirs.OPT is not PLAIN
    made = structures()
    cases: dict[str, dict] = {}
    for name, own in CASES.items():
        if name.endswith("plain") is not PLAIN:
            continue
        settings = {**SHARED, **own}
        fresh = create_model({**settings, "model": own["model"].replace("-nqe", "2")})
        state = fresh.state_dict()
        learned = {k for k, _ in fresh.named_parameters()}
        constants = {k: v.tolist() for k, v in state.items() if k not in learned}
        constants |= {"mean": -0.3, "std": 1.7}
        constants = {k: v for k, v in constants.items() if not k.endswith("initial_atomref")}
        filled = fill(state, constants)

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.ckpt"
            content = {"state_dict": {f"model.{k}": v for k, v in filled.items()}}
            torch.save({**content, "hyper_parameters": settings}, path)
            model = load_model(str(path))
        results = [evaluate(model, one, name) for one in made]
        shapes = {k: list(v.shape) for k, v in state.items()}
        cases[name] = {
            "settings": settings,
            "shapes": shapes,
            "constants": constants,
            "integers": [k for k, v in state.items() if v.dtype == torch.int64],
            "results": results,
        }
    print(json.dumps({"structures": made, "cases": cases}))


if __name__ == "__main__":
    import subprocess

    if "--one" in sys.argv:
        main()
    else:
        whole: dict = {"cases": {}}
        for plain in ("0", "1"):
            said = subprocess.run(
                [sys.executable, __file__, "--one"],
                env={**os.environ, "PLAIN": plain},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()[-1]
            part = json.loads(said)
            whole["structures"] = part["structures"]
            whole["cases"] |= part["cases"]
        path = Path(__file__).with_name("reference.json")
        path.write_text(json.dumps(whole) + "\n")
        print(f"{path}: {path.stat().st_size} bytes")
