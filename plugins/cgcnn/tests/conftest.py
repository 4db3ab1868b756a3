"""Both networks once more, atom by atom in numpy: slow, obvious and independent of torch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch


def softplus(x):
    return np.logaddexp(0.0, x)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def batch_norm(w, name, x):
    scale = w[f"{name}.weight"] / np.sqrt(w[f"{name}.running_var"] + 1e-5)
    return (x - w[f"{name}.running_mean"]) * scale + w[f"{name}.bias"]


def layer_norm(w, name, x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def neighbors(atoms, i, cutoff, reach=3):
    """(distance, j) of all atoms around atom i through every image, nearest first."""
    images = range(-reach, reach + 1)
    shifts = [(a, b, c) for a in images for b in images for c in images]
    shifts = [s for s in shifts if all(p or n == 0 for p, n in zip(atoms.pbc, s, strict=True))]
    pairs = []
    for j in range(len(atoms)):
        for shift in shifts:
            vector = atoms.positions[j] + shift @ np.asarray(atoms.cell) - atoms.positions[i]
            distance = np.linalg.norm(vector)
            if 0.01 < distance <= cutoff:
                pairs.append((distance, j))
    return sorted(pairs)


def message(w, name, norm, target, source, edge):
    z = batch_norm(w, norm, linear(w, name, np.concatenate([target, source, edge])))
    gate, core = np.split(z, 2)
    return sigmoid(gate) * softplus(core)


def crystal_value(w, features, atoms, *, n_conv, n_h, radius, step=0.2, slots=12):
    """Raw output of the 2018 model."""
    atoms = atoms.copy()
    atoms.pbc = True
    centers = np.arange(0, radius + step, step)
    v = [linear(w, "embedding", features[z]) for z in atoms.numbers]
    lists = []
    for i in range(len(atoms)):
        near = neighbors(atoms, i, radius)[:slots]
        lists.append(near + [(radius + 1.0, 0)] * (slots - len(near)))
    for k in range(n_conv):
        c = f"convs.{k}"
        new = []
        for i, near in enumerate(lists):
            total = np.zeros_like(v[i])
            for d, j in near:
                edge = np.exp(-(((d - centers) / step) ** 2))
                total = total + message(w, f"{c}.fc_full", f"{c}.bn1", v[i], v[j], edge)
            new.append(softplus(v[i] + batch_norm(w, f"{c}.bn2", total)))
        v = new
    x = softplus(linear(w, "conv_to_fc", softplus(np.mean(v, axis=0))))
    for k in range(n_h - 1):
        x = softplus(linear(w, f"fcs.{k}", x))
    return linear(w, "fc_out", x)


def slab_energy(w, features, atoms, *, layers, depth, cutoff, cap=50):
    """Raw output of the OC20 model; images as atoms.pbc says."""
    offset = w["distance_expansion.offset"]
    width = offset[1] - offset[0]
    x = [linear(w, "embedding_fc", features[z]) for z in atoms.numbers]
    lists = [neighbors(atoms, i, cutoff)[:cap] for i in range(len(atoms))]
    for k in range(layers):
        c = f"convs.{k}"
        new = []
        for i, near in enumerate(lists):
            total = np.zeros_like(x[i])
            for d, j in near:
                edge = np.exp(-0.5 * ((d - offset) / width) ** 2)
                total = total + message(w, f"{c}.lin1", f"{c}.bn1", x[i], x[j], edge)
            new.append(softplus(layer_norm(w, f"{c}.ln1", total) + x[i]))
        x = new
    y = softplus(linear(w, "conv_to_fc.0", np.mean(x, axis=0)))
    for k in range(depth - 1):
        y = softplus(linear(w, f"fcs.{2 * k}", y))
    return linear(w, "fc_out", y)[0]


def numpy_weights(model):
    return {k: v.detach().double().numpy() for k, v in model.state_dict().items()}


def randomise(model, seed=0):
    """Weights and running statistics that leave no term of the formulas at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("bn1.weight", "bn2.weight", "ln1.weight", "running_var")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif name.endswith(("bias", "running_mean")):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="session")
def plain():
    return SimpleNamespace(
        crystal_value=crystal_value,
        slab_energy=slab_energy,
        weights=numpy_weights,
        randomise=randomise,
    )
