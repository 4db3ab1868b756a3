"""The default model: found among the installed ones, and behind ``relax`` without a name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

import ase_nnp
from ase_nnp import NNPCalculator, Pretrained, load_model
from ase_nnp.errors import ConfigError
from ase_nnp.models.default import default_pretrained
from ase_nnp.registry.installed import installed

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def offering(monkeypatch, lj_family, tmp_path):
    """Make a registry of one family whose pretrained models are those given."""
    ase_nnp.save_model(ase_nnp.build_model("lj", device="cpu"), tmp_path / "lj.nnp")

    def offer(*pretrained):
        from dataclasses import replace

        family = replace(lj_family, pretrained=pretrained)
        registry = SimpleNamespace(
            families={"lj": family},
            family=lambda name: family,
            uncertainties=installed().uncertainties,
        )
        monkeypatch.setattr("ase_nnp.models.default.installed", lambda: registry)
        monkeypatch.setattr("ase_nnp.models.files.installed", lambda: registry)

    def named(name, **more):
        return Pretrained(name=name, summary="", source=str(tmp_path / "lj.nnp"), **more)

    return SimpleNamespace(offer=offer, named=named, file=tmp_path / "lj.nnp")


def test_no_default_model_says_what_to_write(offering):
    offering.offer(offering.named("plain"))
    with pytest.raises(ConfigError, match="Which model"):
        NNPCalculator()


def test_two_default_models_are_both_named(offering):
    offering.offer(offering.named("one", default=True), offering.named("two", default=True))
    with pytest.raises(ConfigError, match=r"'one' of 'lj', 'two' of 'lj'"):
        NNPCalculator()


def test_the_one_default_model_is_what_a_calculator_without_a_name_uses(offering):
    offering.offer(offering.named("plain"), offering.named("mine", default=True))
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=1)
    expected = load_model(offering.file, device="cpu")
    nameless = copper.copy()
    copper.calc, nameless.calc = NNPCalculator(expected), NNPCalculator(device="cpu")
    assert nameless.get_potential_energy() == pytest.approx(copper.get_potential_energy())
    assert default_pretrained()[1].name == "mine"


def test_the_default_model_comes_with_its_uncertainty_unless_told_not_to(offering, tmp_path):
    from ase_nnp import uncertainty

    model = load_model(offering.file, device="cpu")
    train = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        train.append(atoms)
    uncertainty.save_uncertainty(uncertainty.fit("latent", model, train=train), tmp_path / "lj.uq")
    offering.offer(offering.named("mine", default=True, uncertainty=str(tmp_path / "lj.uq")))
    assert "ood_flag" in load_model(device="cpu").outputs
    assert "ood_flag" not in NNPCalculator(device="cpu", uncertainty=False).model.outputs


def test_options_without_a_name_are_refused():
    with pytest.raises(ConfigError, match="Which model"):
        NNPCalculator(checkpoint="somewhere.pt")


def test_relax_with_one_name_takes_it_as_structures_for_the_default_model(run, offering, tmp_path):
    offering.offer(offering.named("mine", default=True))
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=2)
    write(tmp_path / "cu.xyz", atoms)
    code, out, _ = run("relax", tmp_path / "cu.xyz", "-o", tmp_path / "r.extxyz", "--json")
    assert code == 0
    assert json.loads(out)["structures"][0]["converged"]
    assert np.allclose(read(tmp_path / "r.extxyz").get_forces(), 0, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scn"], "which structures"),
        (["one", "two", "three"], "found 3 names"),
        (["--plot", "picture.doc"], "a picture ends in"),
        (["--plot", "nowhere/picture.png"], "no folder"),
        (["--checkpoint", "x.pt", "DATA"], "give MODEL too"),
    ],
)
def test_relax_refuses_in_one_line(run, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"DATA": str(DATA / "oc20_toy")}
    code, _, err = run("relax", *(names.get(a, a) for a in arguments))
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert said in err


def test_a_picture_is_drawn_and_nothing_else_is_left(tmp_path):
    pytest.importorskip("matplotlib")
    from ase_nnp.workflows.picture import draw

    draw(bulk("Cu", cubic=True), tmp_path / "cu.png", "copper")
    from matplotlib.image import imread

    pixels = imread(tmp_path / "cu.png")
    assert pixels.ndim == 3
    assert pixels[..., :3].std() > 0.01  # not one color
    assert [p.name for p in tmp_path.iterdir()] == ["cu.png"]


def test_every_installed_default_is_alone():
    offered = [p for f in installed().families.values() for p in f.pretrained if p.default]
    assert len(offered) <= 1
