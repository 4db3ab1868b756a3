"""Models whose radial networks became splines give the numbers they gave before."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import ase_nnp
from ase_nnp.errors import CheckpointError, ConfigError, PredictionError
from ase_nnp.models import splinify
from ase_nnp.models.files import model_hash
from ase_nnp.models.radial import RadialSplines, spline_pieces
from ase_nnp.uncertainty.files import load_uncertainty

TINY = {
    "species": [6, 8, 13],
    "hidden_irreps": ["8x0e + 4x1o + 4x2e", "8x0e + 4x1o"],
    "outs_per_node": 8,
    "node_embed": {"embed_dim": 8},
    "edge_embed": {"r_max": 4.0},
}
#: Radial functions that are linear in the basis, and networks of it.
RADIAL = {"linear": {}, "network": {"inner_dims": [8], "use_bias": True}}


def tiny(kind: str = "linear", dtype: str = "float64", **more):
    message = {"interaction": {"message": {"radial_weight": RADIAL[kind]}}}
    return ase_nnp.build_model(
        "facet", {**TINY, **message, **more}, seed=0, device="cpu", dtype=dtype
    ).freeze()


@cache
def splined(kind: str = "linear", dtype: str = "float64"):
    return splinify(tiny(kind, dtype))


def crystal() -> Atoms:
    atoms = bulk("Al", cubic=True)
    atoms.numbers[:2] = 6, 8
    atoms.rattle(0.1, seed=7)
    return atoms


def forces(model) -> np.ndarray:
    return ase_nnp.predict(model, [crystal()], ("energy", "forces"), progress=False)[0]["forces"]


def splines_of(function, intervals: int, cutoff: float) -> RadialSplines:
    made = RadialSplines(1, intervals).double()
    values = function(np.linspace(0.0, cutoff, intervals + 1))[:, None]
    made.pieces.copy_(spline_pieces(values))
    return made


def test_errors_of_splines_of_a_sine_fall_as_the_fourth_power_of_the_step():
    # Inside, a spline interpolates with slopes of a higher order (de Boor, chapter IV): what is
    # left is Hermite's, h^4 / 384 of the value and sqrt(3) h^3 / 216 of the slope.
    cutoff, errors = 5.0, []
    d = torch.linspace(1.0, 4.0, 6001, dtype=torch.float64)[:, None].requires_grad_()
    for intervals in (40, 80):
        step = cutoff / intervals
        value = splines_of(np.sin, intervals, cutoff)(d, cutoff)
        (slope,) = torch.autograd.grad(value.sum(), d)
        errors.append(
            [float(one.detach().abs().max()) for one in (value - d.sin(), slope - d.cos())]
        )
        assert errors[-1] == pytest.approx([step**4 / 384, 3**0.5 * step**3 / 216], rel=0.05)
    assert np.divide(*errors) == pytest.approx([16, 8], rel=0.05)


def test_splines_of_a_cubic_are_the_cubic_with_two_derivatives():
    made = splines_of(lambda x: 2 - x + 0.5 * x**2 - 0.25 * x**3, 7, 3.0)
    d = torch.tensor([[0.1], [1.234], [2.99]], dtype=torch.float64, requires_grad=True)
    value = made(d, 3.0)
    (slope,) = torch.autograd.grad(value.sum(), d, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), d)
    assert torch.allclose(value, 2 - d + 0.5 * d**2 - 0.25 * d**3, atol=1e-13)
    assert torch.allclose(slope, -1 + d - 0.75 * d**2, atol=1e-12)
    assert torch.allclose(curvature, 1 - 1.5 * d, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", RADIAL)
def test_forces_stay_within_the_tolerance(kind, dtype):
    model = tiny(kind, dtype)
    made = splined(kind, dtype)
    assert made.dtype == model.dtype
    assert made.provenance["forces_within"] <= 1e-5
    assert np.abs(forces(made) - forces(model)).max() < 1e-5
    assert made.provenance["splinified_from"] == model_hash(model) != model_hash(made)


def test_a_splined_model_is_saved_and_loaded(tmp_path):
    made = splined("network")
    ase_nnp.save_model(made, tmp_path / "splined.nnp")
    again = ase_nnp.load_model(tmp_path / "splined.nnp", device="cpu", dtype="float64")
    assert model_hash(again) == model_hash(made)
    assert again.provenance["splinified_from"] == made.provenance["splinified_from"]
    assert np.array_equal(forces(again), forces(made))


def test_curvatures_between_small_strains_stay():
    def curvature(model) -> float:
        strained = []
        for strain in (-1e-3, 0.0, 1e-3):
            atoms = crystal()
            atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
            strained.append(atoms)
        results = ase_nnp.predict(model, strained, ("energy",), progress=False)
        low, middle, high = (float(r["energy"]) for r in results)
        return (high - 2 * middle + low) / 1e-6

    model = tiny()
    assert curvature(splined()) == pytest.approx(curvature(model), rel=1e-2)


def test_matrices_are_trained_and_splines_are_not():
    made = deepcopy(splined("network")).train()
    results = made(made.make_graph([crystal()]))
    (results["forces"] ** 2).sum().backward()
    trained = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert "layers.0.conv.radial.kernels.0" in trained
    assert "basis.pieces" not in dict(made.named_parameters())


def test_what_cannot_be_splined_is_refused():
    pairs = ase_nnp.build_model("zbl", {}, device="cpu")
    with pytest.raises(ConfigError, match=r"declares no radial networks.*facet"):
        splinify(pairs)
    with pytest.raises(ConfigError, match="has them already"):
        splinify(splined())
    with pytest.raises(ConfigError, match="tolerance must be positive"):
        splinify(tiny(), tolerance=0.0)
    with pytest.raises(PredictionError, match=r"change forces of 'facet' by \d"):
        splinify(tiny(), tolerance=1e-15)


@pytest.mark.slow
def test_error_bars_of_the_original_are_refused():
    with pytest.raises(ConfigError, match="Error bars around a model belong to its weights"):
        splinify(ase_nnp.load_model(device="cpu"))
    shipped = ase_nnp.load_model(uncertainty=False, device="cpu")
    path = files("ase_nnp_facet") / "weights" / "facet-metals-2.uq"
    with pytest.raises(CheckpointError, match="was fitted for another model"):
        load_uncertainty(path, splinify(shipped))
