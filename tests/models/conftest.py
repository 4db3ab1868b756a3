"""A model in another process."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def emt():
    from remote_models import model

    potential = model("emt")
    yield potential
    potential.close()
