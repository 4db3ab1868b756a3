"""Values of a configuration are of the kind that their annotations say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

import ase_nnp
from ase_nnp import ConfigError
from ase_nnp.registry.kinds import check_kinds

KINDS = {
    "width": int,
    "cutoff": float,
    "smooth": bool,
    "dims": Sequence[int] | None,
    "pair": tuple[int, ...],
    "how": Literal["sum", "mean"],
    "other": object,
}
GOOD = {
    "width": [-1, 0, 10_000, np.int64(3)],
    "cutoff": [5, 5.0, np.float32(1), -1e300],
    "smooth": [True, False],
    "dims": [None, [], [3, 4], (1,)],
    "pair": [[1, 2]],
    "how": ["sum"],
    "other": ["x", None],
    "unknown": ["x"],
}
WRONG = {
    "width": [None, "x", "", [], {}, 1.0, True, 10_001, 10**30, -2, float("inf")],
    "cutoff": [None, "5", [5.0], True, float("nan"), float("-inf")],
    "smooth": [0, None, "yes"],
    "dims": [3, "ab", [None], [[1]], [1.5], [10**12]],
    "pair": [None, {1: 2}],
    "how": ["max", None, ["sum"]],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k in GOOD for v in GOOD[k]])
def test_a_value_of_its_kind_is_taken(key, value):
    check_kinds("Toy", {key: value}, KINDS)


@pytest.mark.parametrize(("key", "value"), [(k, v) for k in WRONG for v in WRONG[k]])
def test_another_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^Toy: {key} is .*; wanted: "):
        check_kinds("Toy", {key: value}, KINDS)


def test_some_whole_numbers_are_to_be_smaller_still():
    check_kinds("Toy", {"width": 4}, KINDS, {"width": 4})
    with pytest.raises(ConfigError, match="width is 5; wanted: a whole number up to 4"):
        check_kinds("Toy", {"width": 5}, KINDS, {"width": 4})


NESTED = {
    "escaip": [{"knn_k": "x"}, {"hidden_size": 10**12}, {"mlp_dropout": None, "num_layers": []}],
    "sevennet": [{"channel": 10**12}, {"lmax": 40}, {"radial_basis": {"bessel_basis_num": 1e12}}],
    "matgl": [
        {"model": "M3GNet", "hyperparameters": {"max_n": 10**12}},
        {"model": "CHGNet", "hyperparameters": {"atom_conv_hidden_dims": [None]}},
        {"model": "SO3Net", "hyperparameters": {"lmax": "x"}},
        {"hyperparameters": {"activation_type": "magic"}},
        {"model": "QET", "hyperparameters": {"cutoff": 0}},
    ],
}


@pytest.mark.slow  # the imports of other packages
@pytest.mark.parametrize(("family", "config"), [(f, c) for f in NESTED for c in NESTED[f]])
def test_families_that_build_what_they_are_told_look_first(family, config):
    pytest.importorskip(
        {"sevennet": "sevenn"}.get(family, "torch" if family == "escaip" else family)
    )
    inner = list(config.get("hyperparameters") or config.get("radial_basis") or config)[-1]
    with pytest.raises(ConfigError, match=rf"{inner} is .*wanted"):
        ase_nnp.build_model(family, config, device="cpu")
