"""Small models of these tests, importable by other processes too."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def toy_family():
    """Register the pair model of these tests as the family ``toy``; return its name."""
    from ase_nnp import ModelFamily, hookimpl
    from ase_nnp.registry.installed import installed

    def build(config):
        from toy_models import Pair

        return Pair(**config)

    @hookimpl
    def register_models(register):
        defaults = {"width": 6, "hidden": 0, "seed": 0, "dropout": 0.0}
        register(ModelFamily(name="toy", summary="for tests", build=build, defaults=defaults))

    registry = installed()
    registry.add_plugin("toy", lambda: SimpleNamespace(register_models=register_models))
    assert "toy" not in registry.broken, registry.broken
    return "toy"


@pytest.fixture(scope="module")
def truth():
    """What the labels are from."""
    from toy_models import Pair

    return Pair(seed=9).double()


@pytest.fixture(scope="module")
def train(truth):
    """Molecules with noisy labels."""
    from toy_models import label, molecules

    return label(molecules(25, seed=1), truth, noise=0.02)


@pytest.fixture(scope="module")
def held_back(truth):
    """Others of the same kind."""
    from toy_models import label, molecules

    return label(molecules(20, seed=2), truth, noise=0.02, seed=5)
