"""No corner where crystals are perfect, and something beneath the network at short range."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import ase_nnp
from ase_nnp_facet.settings import SMOOTH, resolve

CRYSTALS = {
    "fcc": bulk("Cu", "fcc", a=3.63),
    "bcc": bulk("Mo", "bcc", a=3.16),
    "diamond": bulk("C", "diamond", a=3.57),
    "rocksalt": bulk("NaCl", "rocksalt", a=5.6),
}


def shear_modulus(model, atoms, size):
    """Slope of the stress under a shear of ``size``, by central differences."""
    stresses = []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[1, 2] += 0.5 * sign * size
        strain[2, 1] += 0.5 * sign * size
        moved = atoms.copy()
        moved.set_cell(atoms.cell @ strain, scale_atoms=True)
        stresses.append(ase_nnp.predict(model, [moved], ("stress",))[0]["stress"])
    return (np.ravel(stresses[0]) - np.ravel(stresses[1])) / (2 * size)


def curvatures(kind, name, eps="auto"):
    """Slopes of the stress at strains of 0.1 and 2 %, of a small fresh model."""
    config = {
        "hidden_irreps": ["16x0e + 8x1o + 8x2e"] * 2,
        "edge_embed": {"r_max": 5.0},
        "self_connection": {"kind": kind},
        "norm_eps": eps,
    }
    model = ase_nnp.build_model("facet", config, seed=0, dtype="float64", device="cpu")
    return [shear_modulus(model, CRYSTALS[name], size) for size in (1e-3, 2e-2)]


@pytest.mark.parametrize("name", CRYSTALS)
def test_curvature_of_a_perfect_crystal_is_the_same_at_small_and_at_larger_strain(name):
    small, large = curvatures("s2-polynomial", name)
    assert np.abs(small - large).max() < 0.05 * np.abs(small).max()


@pytest.mark.parametrize("name", ["fcc", "bcc"])
@pytest.mark.parametrize("kind", ["s2-mlp-mixer", "gate", "linear"])
def test_the_other_self_connections_have_no_corner_either(kind, name):
    small, large = curvatures(kind, name)
    assert np.abs(small - large).max() < 0.3 * np.abs(small).max()


def test_the_published_norm_has_the_corner():
    small, large = curvatures("s2-polynomial", "fcc", 1e-6)
    assert np.abs(small - large).max() > 0.9 * np.abs(small).max()


def test_the_norm_is_smooth_by_default_as_published_in_parity_mode_and_as_the_file_says():
    assert resolve({})["norm_eps"] == SMOOTH
    assert resolve({"reference": True})["norm_eps"] == 1e-6
    assert resolve({"norm_eps": 0.3})["norm_eps"] == 0.3
    # files from before the number was stored hold None
    assert resolve({"norm_eps": None})["norm_eps"] == 1e-2
    published = {"norm_eps": None, "self_connection": {"kind": "s2-mlp-mixer"}}
    assert resolve(published)["norm_eps"] == 1e-6


def test_a_model_holds_the_number_it_was_built_with(tmp_path, tiny):
    ase_nnp.save_model(tiny(), tmp_path / "m.nnp")
    assert ase_nnp.load_model(tmp_path / "m.nnp", device="cpu").config["norm_eps"] == SMOOTH


def test_a_prior_beneath_is_added_saved_and_differentiated(tmp_path):
    pytest.importorskip("ase_nnp_zbl")
    options = {"seed": 0, "dtype": "float64", "device": "cpu"}
    alone = ase_nnp.build_model("facet", {"edge_embed": {"r_max": 5.0}}, **options)
    config = {"edge_embed": {"r_max": 5.0}, "prior": {"family": "zbl", "config": {"inner": 0.3}}}
    both = ase_nnp.build_model("facet", config, **options)
    core = ase_nnp.build_model("zbl", {"inner": 0.3}, dtype="float64", device="cpu")
    ase_nnp.save_model(both, tmp_path / "m.nnp")
    again = ase_nnp.load_model(tmp_path / "m.nnp", device="cpu", dtype="float64")

    squeezed = [Atoms("CuO", [[0, 0, 0], [0, 0, 1.0]]), bulk("Ni", cubic=True, a=2.4)]
    names = ("energy", "forces", "stress")
    parts = [ase_nnp.predict(m, squeezed, names) for m in (alone, core, both, again)]
    for one, two, total, loaded in zip(*parts, strict=True):
        for name in one.keys() & set(names):
            np.testing.assert_allclose(total[name], one[name] + two[name], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(loaded[name], total[name], rtol=1e-6, atol=1e-4)
    assert parts[1][0]["energy"] > 10


def test_what_cannot_lie_beneath_is_refused(tiny):
    pytest.importorskip("ase_nnp_zbl")
    with pytest.raises(ase_nnp.ConfigError, match="cannot lie beneath"):
        tiny(edge_embed={"r_max": 3.0}, prior={"family": "zbl"})
