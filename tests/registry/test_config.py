"""A configuration that cannot be meant ends in an error that names the key."""

from __future__ import annotations

import pytest

import ase_nnp
from ase_nnp import ConfigError, ModelFamily
from ase_nnp.errors import PluginError
from ase_nnp.registry.config import build_from, changes, resolve_config


def build(config):
    return [1.0] * config["width"] + [config["scale"] / 2]


FAMILY = ModelFamily(
    name="toy", summary="", build=build, defaults={"width": 3, "scale": 1.0, "kind": None}
)


def test_what_a_family_raises_for_a_value_names_key_value_and_default():
    config = {**FAMILY.defaults, "width": "x" * 500, "scale": 2, "kind": "a"}
    with pytest.raises(ConfigError) as caught:
        build_from(FAMILY, config)
    text = str(caught.value)
    # The other changed keys are of the kind that they should be.
    assert text.startswith("'toy' cannot be built with width='xxx")
    assert "(default 3): TypeError: " in text
    assert "scale" not in text
    assert len(text) < 300
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_fault_of_the_family_alone_is_no_fault_of_a_configuration():
    broken = ModelFamily(name="toy", summary="", build=lambda config: config["none"], defaults={})
    with pytest.raises(KeyError):
        build_from(broken, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused_wherever_it_stands(value):
    with pytest.raises(ConfigError, match=r"'toy': kind.inner is NaN or infinite"):
        resolve_config(FAMILY, {"kind": {"inner": [[1.0, value]]}})


def test_a_key_within_a_key_is_named_alone():
    usual = {"embed": {"size": 3, "kind": "a"}, "free": {}, "width": 2}
    given = {"embed": {"size": "x", "kind": "b"}, "free": {}, "width": 4}
    assert changes(given, usual) == "embed.size='x' (default 3)"
    assert changes({"free": {"deep": 1}}, usual) == "free.deep=1 (default None)"
    assert not changes({"embed": {"size": 3}, "width": 2}, usual)


@pytest.mark.parametrize("made", [None, ase_nnp.Potential, [1.0], "model"])
def test_what_is_built_is_a_potential(made):
    broken = ModelFamily(name="toy", summary="", build=lambda config: made)
    with pytest.raises(PluginError, match=r"'toy': build\(config\) returned .*a Potential"):
        build_from(broken, {})


@pytest.mark.parametrize("elements", [["Cu"], {"Cu"}, [29], "Cu"])
def test_its_elements_are_a_set_of_atomic_numbers(elements):
    model = ase_nnp.Potential()
    model.elements = elements
    broken = ModelFamily(name="toy", summary="", build=lambda config: model)
    with pytest.raises(PluginError, match=r"elements of the model is .*atomic numbers was wanted"):
        build_from(broken, {})


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [("cgcnn", "property", 0), ("torchmdnet", "cutoff_upper", "x"), ("mpnn", "elements", 3)],
)
def test_every_family_ends_in_such_an_error(family, key, value):
    with pytest.raises(ConfigError, match=key):
        ase_nnp.build_model(family, {key: value}, device="cpu")
