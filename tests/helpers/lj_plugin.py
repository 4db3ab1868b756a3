"""Lennard-Jones: the smallest complete plugin, and the template for a new one."""

from __future__ import annotations

from ase_nnp import ModelFamily, hookimpl


@hookimpl
def register_models(register):
    register(
        ModelFamily(
            name="lj",
            build=_build,
            summary="Lennard-Jones pair potential, for tests and tutorials",
            cite="https://doi.org/10.1098/rspa.1924.0082",
            defaults={"epsilon": 0.4, "sigma": 2.3, "cutoff": 6.0},
        )
    )


def _build(config):
    from lj_model import LennardJones  # torch is imported here, not when families are listed

    return LennardJones(**config)
