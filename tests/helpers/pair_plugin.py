"""A tiny family with weights to train: a network of pair distances, quick enough for tests."""

from __future__ import annotations

from ase_nnp import ModelFamily, hookimpl


def _build(config):
    from pair_model import Pairs

    return Pairs(**config)


@hookimpl
def register_models(register):
    register(
        ModelFamily(
            name="pairs",
            summary="A network of pair distances, for tests of training",
            build=_build,
            defaults={"cutoff": 4.0, "width": 16, "element_references": None, "scale": 1.0},
        )
    )
