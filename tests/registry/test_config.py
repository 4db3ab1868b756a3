"""A configuration that cannot be meant ends in an error that names the key."""

from __future__ import annotations

import pytest

import ase_nnp
from ase_nnp import ConfigError, ModelFamily
from ase_nnp.registry.config import build_from, resolve_config


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


def test_a_value_that_is_nan_is_refused_wherever_it_stands():
    with pytest.raises(ConfigError, match=r"'toy': kind.inner is NaN"):
        resolve_config(FAMILY, {"kind": {"inner": [[1.0, float("nan")]]}})


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [("cgcnn", "property", 0), ("torchmdnet", "cutoff_upper", "x"), ("mpnn", "elements", 3)],
)
def test_every_family_ends_in_such_an_error(family, key, value):
    with pytest.raises(ConfigError, match=key):
        ase_nnp.build_model(family, {key: value}, device="cpu")
