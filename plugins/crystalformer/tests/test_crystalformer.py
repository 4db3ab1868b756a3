"""Conformance, lattice sums against sums written out, and the size of the paper's model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import conformance
from ase_nnp_crystalformer.lattice import lattice_sums, pairs_of

test_conformance = pytest.mark.slow(
    conformance("crystalformer")
)  # fast in tests/testing, for every family


def small(**config):
    config = {"width": 8, "heads": 2, "layers": 2, "hidden": 8, "num_basis": 6, **config}
    return ase_nnp.build_model("crystalformer", config, seed=0, device="cpu", dtype="float64")


def skewed():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.1 * np.triu(np.ones((3, 3)), 1)), scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return atoms


@pytest.mark.parametrize("sigma", [0.7, 1.4, 1.6])
def test_lattice_sums_are_those_over_all_images_to_ten_digits(sigma):
    atoms, reach = skewed(), 6
    graph = small(cutoff=12.0).make_graph(atoms)
    pairs = pairs_of(graph)
    inverse = torch.full((2, 1), sigma**-2, dtype=torch.float64)
    values = torch.exp(-pairs.distance)[:, None]
    log, mean = lattice_sums(pairs, inverse, values)
    for row, (i, j) in enumerate(itertools.product(range(2), repeat=2)):
        assert (int(pairs.center[row]), int(pairs.neighbor[row])) == (i, j)
        images = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
        away = atoms.positions[j] + images @ np.asarray(atoms.cell) - atoms.positions[i]
        r = np.linalg.norm(away, axis=1)
        weight = np.exp(-0.5 * (r / sigma) ** 2)
        assert float(log[row, 0]) == pytest.approx(np.log(weight.sum()), abs=1e-10)
        wanted = (weight * np.exp(-r)).sum() / weight.sum()
        assert float(mean[row, 0, 0]) == pytest.approx(wanted, abs=1e-10)


def test_attention_is_the_softmax_over_all_atoms_of_the_endless_crystal():
    """The sums of pairs against one long sum over atoms and images, as the paper begins."""
    model, atoms = small(cutoff=12.0), skewed()
    layer = model.blocks[0].attention
    graph = model.make_graph(atoms)
    x = torch.randn(2, 8, dtype=torch.float64)
    got = layer(x, pairs_of(graph))

    query, key, value = (part(x).view(2, 2, 4) for part in (layer.query, layer.key, layer.value))
    sigma = layer._widths(query)
    images = torch.tensor(list(itertools.product(range(-6, 7), repeat=3)), dtype=torch.float64)
    moved = images @ torch.tensor(np.asarray(atoms.cell))
    rows = []
    for i in range(2):
        heads = []
        for h in range(2):
            logits, values = [], []
            for j in range(2):
                r = (graph.positions[j] + moved - graph.positions[i]).norm(dim=1)
                phi = -0.5 * (r / sigma[i, h]) ** 2
                logits.append(query[i, h] @ key[j, h] / 2 + phi)
                basis = torch.exp(-0.5 * ((r[:, None] - layer.centers) / layer.centers[0]) ** 2)
                values.append(value[j, h] + basis @ layer.of_distance[h])
            share = torch.softmax(torch.cat(logits), 0)
            heads.append(share @ torch.cat(values))
        rows.append(torch.cat(heads))
    wanted = layer.out(torch.stack(rows))
    assert torch.allclose(got, wanted, rtol=0, atol=1e-10)


def test_a_supercell_of_any_shape_has_the_property_of_its_crystal():
    model, atoms = small(), skewed()
    large = make_supercell(atoms, [[2, 1, 0], [0, 1, 0], [0, 1, 1]])
    one, two = (
        ase_nnp.predict(model, [a], model.outputs, progress=False)[0][model.outputs[0]]
        for a in (atoms, large)
    )
    assert one == pytest.approx(two, abs=1e-9)


def test_atoms_that_are_too_far_apart_do_not_see_each_other():
    model = small(cutoff=9.0)
    pairs = pairs_of(model.make_graph(Atoms("HO", [[0, 0, 0], [0, 0, 20.0]])))
    log, mean = lattice_sums(pairs, torch.ones(2, 1, dtype=torch.float64), pairs.distance[:, None])
    assert log[:, 0].tolist() == [0.0, -np.inf, -np.inf, 0.0]
    assert torch.equal(mean, torch.zeros_like(mean))


def test_it_is_as_large_as_the_papers():
    """853 thousand parameters, 29.4 % of Matformer's 2.9 million."""
    model = ase_nnp.build_model("crystalformer", seed=0, device="cpu")
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(853e3, rel=0.01)
    assert count / 2.9e6 == pytest.approx(0.294, abs=0.003)


@pytest.mark.parametrize(
    "config",
    [{"width": 9}, {"layers": 0}, {"least": 1.0}, {"r_0": 4.0}, {"property": "energy"}],
)
def test_what_is_no_crystalformer_is_refused(config):
    with pytest.raises(ConfigError):
        small(**config)


@pytest.mark.slow
def test_it_learns_the_volume_of_crystals(tmp_path):
    from ase_nnp.training import Settings, fit

    rng = np.random.default_rng(0)
    frames = []
    for _ in range(80):
        atoms = bulk(["Cu", "Al", "Ag"][rng.integers(3)], "fcc", a=rng.uniform(3.4, 4.6))
        atoms.info["volume"] = atoms.get_volume()
        frames.append(atoms)
    settings = Settings(
        epochs=40,
        losses={"energy": None, "forces": None, "scalars": {"volume": {}}},
        batch={"structures": 8},
        optimizer={"lr": 2e-3},
        progress=False,
    )
    config = {"property": "volume", "unit": "A^3", "width": 32, "heads": 4, "layers": 2}
    fresh = ase_nnp.build_model("crystalformer", config, seed=0, device="cpu", hidden=64)
    result = fit(fresh, frames[:64], frames[64:], settings, folder=tmp_path)
    got = ase_nnp.predict(result.model, frames[64:], ("volume",), progress=False)
    error = [abs(g["volume"] - a.info["volume"]) for g, a in zip(got, frames[64:], strict=True)]
    assert np.mean(error) < 0.15 * np.std([a.info["volume"] for a in frames])
