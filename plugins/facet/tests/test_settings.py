"""Configurations: sizes of the published ones, and what is refused."""

from __future__ import annotations

import pytest

import ase_nnp
from ase_nnp_facet.settings import PUBLISHED, resolve

COUNTS = {
    "facet-s": 253_055,
    "enb183": 270_383,
    "facet-finetune": 315_239,
    "small": 374_559,
    "sevennet": 842_748,
    "sevennet-trimmed": 624_380,
    "sevennet-trimmed-energy-radius": 724_093,
}


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("name", COUNTS)
def test_published_configurations_have_their_published_sizes(name, reference):
    model = ase_nnp.build_model("facet", PUBLISHED[name], device="cpu", reference=reference)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]


def test_the_parts_of_facet_s_have_their_published_sizes():
    model = ase_nnp.build_model("facet", PUBLISHED["facet-s"], device="cpu")
    sizes = {k: v.numel() for k, v in model.reference_names().items()}
    radial = [v for k, v in sizes.items() if "LazyInMLP_0/Dense_0" in k and "interaction" in k]
    assert radial == [1536, 7680, 1792]
    assert sum(v for k, v in sizes.items() if k.startswith("rescale")) == 182
    assert sizes["node_embedding/embed/embedding"] == 5760
    assert sizes["head/Dense_0/kernel"] == 64


@pytest.mark.parametrize("name", ["sevennet", "sevennet-trimmed-energy-radius"])
def test_sevennet_variants_give_forces(name, structures):
    model = ase_nnp.build_model("facet", PUBLISHED[name], seed=0, device="cpu", dtype="float64")
    atoms = structures[2]
    force = ase_nnp.predict(model, [atoms])[0]["forces"][1, 0]
    ends = [atoms.copy(), atoms.copy()]
    for end, step in zip(ends, (1e-4, -1e-4), strict=True):
        end.positions[1, 0] += step
    high, low = (r["energy"] for r in ase_nnp.predict(model, ends, ("energy",)))
    assert abs(force) > 1e-5
    assert -(high - low) / 2e-4 == pytest.approx(force, rel=1e-3)


def test_a_misspelt_key_inside_a_section_is_named():
    with pytest.raises(ase_nnp.ConfigError, match=r"edge_embed\.rmax.*edge_embed\.r_max"):
        resolve({"edge_embed": {"rmax": 5.0}})


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_irreps": ["8x0e + 4x1o + 4x2o"]},
        {"hidden_irreps": ["8x1o"]},
        {"hidden_irreps": ["8x0e + 4x1o", "8x0e + 4x1e"]},
        {"self_connection": {"kind": "mlp-gate"}},
        {"self_connection": {"kind": "s2-mlp-mixer", "s2_grid": {"degree": 4}}},
        {"self_connection": {"kind": "s2-mlp-mixer", "mlp": {"num_heads": 3}}},
        {"self_connection": {"polynomial": {"order": 0}}},
        {"self_connection": {"polynomial": {"order": 40}}},
        {"edge_embed": {"radial_basis": {"kind": "fourier"}}},
        {"edge_embed": {"envelope": {"kind": "step"}}},
        {"edge_embed": 5.0},
        {"resid_init": "twos"},
    ],
)
def test_what_cannot_be_built_is_refused(config):
    with pytest.raises(ase_nnp.ConfigError):
        ase_nnp.build_model("facet", config, device="cpu")


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_irreps": ["8x0e + 1x33o"]},
        {"interaction": {"message": {"max_ell": 10**9}}},
        {"interaction": {"message": {"max_ell": -1}}},
    ],
    ids=str,
)
def test_degrees_without_end_are_refused(config):
    with pytest.raises(ase_nnp.ConfigError, match=r"degree|max_ell"):
        ase_nnp.build_model("facet", config, device="cpu")
