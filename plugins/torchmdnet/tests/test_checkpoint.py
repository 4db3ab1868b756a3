"""Checkpoints: numbers of torchmd-net itself, both layouts of its weights, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

import ase_nnp
from ase_nnp.errors import CheckpointError, ConfigError, UnsafeFileError
from ase_nnp_torchmdnet.checkpoint import newer_layout

SETTINGS = {
    "model": "tensornet",
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
    "lr": 1e-3,
}

# Methanol's energy and the force on its first atom, as torchmd-net 3.1.0 gives them in float64 with
# its kernels for the weights that `weights` makes: group, functions, lower cutoff, charge, E, F.
# Without the kernels it gives the same but for the sign of F_z of the SO(3) models.
TORCHMD_NET = [
    ("O(3)", "expnorm", 0.0, 0, 1.494765166, -0.010457594, -0.043101385, 0.000000000),
    ("O(3)", "expnorm", 0.0, 1, 1.494635476, -0.010494400, -0.043149094, 0.000000000),
    ("O(3)", "gauss", 0.0, -1, 1.459844967, -0.015251535, -0.014686422, 0.000000000),
    ("SO(3)", "expnorm", 0.0, 0, 1.494763903, -0.010458840, -0.043103994, 0.000005869),
    ("SO(3)", "expnorm", 0.0, 1, 1.494764104, -0.010458926, -0.043103920, 0.000005851),
    ("O(3)", "expnorm", 0.5, 0, 1.527221977, -0.023708309, -0.016615100, 0.000000000),
]


def weights(config):
    """Weights that need no file: a sine of the place of each number, tensor by tensor by name."""
    known = {k: v for k, v in config.items() if k in ase_nnp.list_models()["torchmdnet"].defaults}
    model = ase_nnp.build_model("torchmdnet", known, seed=0, device="cpu", dtype="float64")
    names = sorted(name for name, _ in model.named_parameters())
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    for number, name in enumerate(names):
        count = tensors[name].numel()
        values = 0.4 * torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + number)
        tensors[name] = values.reshape(tensors[name].shape)
    for own in ("references", "scale", "mean"):
        del tensors[own]
    return tensors


def older_layout(tensors):
    """The inverse of what is tested: three numbers of a channel side by side."""
    changed = dict(tensors)
    for name, value in tensors.items():
        layers = ("linears_scalar.1.", "linears_scalar.2.")
        first, last = layers if "embedding" in name else (layers[1], layers[1])
        if first in name or last in name:
            parts = value.chunk(3)
            changed[name] = torch.stack(parts, dim=1).reshape(value.shape)
    return changed


def write(path, tensors, **settings):
    content = {
        "state_dict": {f"model.{k}": v for k, v in tensors.items()},
        "hyper_parameters": {**SETTINGS, **settings},
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "optimizer_states": [],
    }
    torch.save(content, path)
    return path


def values(model, charge=0):
    atoms = molecule("CH3OH")
    atoms.info["charge"] = charge
    result = ase_nnp.predict(model, [atoms], ("energy", "forces"), progress=False)[0]
    return result["energy"], result["forces"]


@pytest.mark.parametrize("row", TORCHMD_NET, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}-{row[3]}")
@pytest.mark.parametrize("old", [False, True], ids=["release3", "release2"])
def test_a_checkpoint_gives_the_numbers_of_torchmd_net(tmp_path, row, old):
    group, functions, lower, charge, wanted, *force = row
    config = {
        "equivariance_invariance_group": group,
        "rbf_type": functions,
        "cutoff_lower": lower,
    }
    tensors = weights({**SETTINGS, **config})
    if old:  # the key by which torchmd-net tells them
        tensors, config = older_layout(tensors), {**config, "check_errors": True}
    path = write(tmp_path / "model.ckpt", tensors, **config)
    model = ase_nnp.load_model(path, device="cpu", dtype="float64")
    energy, forces = values(model, charge)
    if old:  # without the kernels of release 3, methanol's mirror image: z is its mirror plane
        force[2] *= -1
    assert energy == pytest.approx(wanted, abs=1e-7)
    assert np.abs(forces[0] - force).max() < 1e-7


def test_the_two_layouts_are_the_same_numbers_in_another_order():
    tensors = weights(SETTINGS)
    again = newer_layout(older_layout(tensors))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_names_of_the_second_release_and_its_fixed_box_are_known(tmp_path):
    tensors = {
        k.replace("output_network.layers.", "output_network."): v
        for k, v in weights(SETTINGS).items()
    }
    tensors["representation_model.distance.box"] = torch.zeros(3, 3)
    tensors["mean"], tensors["std"] = torch.tensor(0.0), torch.tensor(1.0)
    one = write(tmp_path / "old.ckpt", tensors)
    two = write(tmp_path / "new.ckpt", weights(SETTINGS))
    one, two = (values(ase_nnp.load_model(p, device="cpu", dtype="float64")) for p in (one, two))
    assert one[0] == two[0]


def test_mean_unit_and_energies_of_atoms_are_added(tmp_path):
    tensors = weights(SETTINGS)
    plain = values(ase_nnp.load_model(write(tmp_path / "a.ckpt", tensors), dtype="float64"))
    atomref = torch.arange(10.0, dtype=torch.float64)[:, None]
    scaled = {
        **tensors,
        "std": torch.tensor(2.0, dtype=torch.float64),
        "mean": torch.tensor(-3.0, dtype=torch.float64),
        "prior_model.0.atomref.weight": atomref,
        "prior_model.0.initial_atomref": atomref,
    }
    prior = {"prior_model": ["Atomref"], "prior_args": [{"max_z": 10}]}
    path = write(tmp_path / "b.ckpt", scaled, **prior)
    model = ase_nnp.load_model("torchmdnet", checkpoint=path, unit="kcal/mol", dtype="float64")
    energy, forces = values(model)
    unit = 0.0433641  # eV
    # Carbon 6, oxygen 8 and four times hydrogen 1, in kcal/mol as everything else.
    assert energy == pytest.approx(unit * (2 * plain[0] - 3 + 6 + 8 + 4), rel=1e-6)
    assert forces == pytest.approx(2 * unit * plain[1], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "equivariant-transformer"}, "equivariant-transformer"),
        ({"model": "tensornet3"}, "tensornet3"),
        ({"model": "tensornet2"}, "q_dim"),
        ({"output_model": "DipoleMoment"}, "DipoleMoment"),
        ({"reduce_op": "mean"}, "mean"),
        ({"prior_model": ["ZBL"], "prior_args": [{}]}, "ZBL"),
        ({"prior_model": [{"D2": {"cutoff_distance": 10.0}}]}, "D2"),
        ({"output_model": "ScalarPlusWeightedCoulomb"}, "ScalarPlusWeightedCoulomb"),
        ({"prior_model": "Atomref", "prior_args": {"max_z": 10}}, "Atomref"),
        ({"atom_filter": 1}, "atom_filter"),
        ({"embedding_dimension": 8}, "shape"),
    ],
)
def test_another_kind_of_checkpoint_is_refused_by_name(tmp_path, settings, said):
    path = write(tmp_path / "model.ckpt", weights(SETTINGS), **settings)
    with pytest.raises(CheckpointError, match=said):
        ase_nnp.load_model("torchmdnet", checkpoint=path, device="cpu")


class Ask:
    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    path = write(tmp_path / "model.ckpt", weights(SETTINGS), callbacks=Ask())
    with pytest.raises(UnsafeFileError, match="print"):
        ase_nnp.load_model("torchmdnet", checkpoint=path, device="cpu")
    assert capsys.readouterr().out == ""


def test_an_unknown_unit_is_refused(tmp_path):
    path = write(tmp_path / "model.ckpt", weights(SETTINGS))
    for unit in ("kcal/kg", "meter", "__file__"):
        with pytest.raises(ConfigError, match="unit"):
            ase_nnp.load_model("torchmdnet", checkpoint=path, unit=unit)
