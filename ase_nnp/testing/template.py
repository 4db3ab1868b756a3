"""A complete plugin as files: what ``ase-nnp plugin new`` writes."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from ase_nnp.errors import ConfigError

__all__ = ["write_plugin"]

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "@PACKAGE@"
version = "0.1.0"
description = "@NAME@ for ase_nnp"
requires-python = ">=3.11"
dependencies = ["ase_nnp>=0.1,<0.2"]

[project.entry-points.ase_nnp]
@NAME@ = "@PACKAGE@"

[tool.pytest.ini_options]
testpaths = ["tests"]
""",
    "README.md": """\
# @NAME@

A model family for `ase_nnp`. Say here which paper it follows, what differs from it, and where
weights come from and under which license.

    pip install -e .
    ase-nnp models show @NAME@
    ase-nnp plugin check @NAME@

Then it is a calculator like any other:

    import ase_nnp
    atoms.calc = ase_nnp.NNPCalculator(ase_nnp.build_model("@NAME@", seed=0))
""",
    "@PACKAGE@/__init__.py": '''\
"""The @NAME@ family. This module imports no torch: it is read when models are listed."""

from __future__ import annotations

from ase_nnp import ModelFamily, hookimpl


@hookimpl
def register_models(register):
    """Offer the family."""
    register(
        ModelFamily(
            name="@NAME@",
            summary="A smooth pair potential with learned parameters per element",
            build=_build,
            defaults={"cutoff": 5.0, "num_basis": 8},
            # What users can read before the model is loaded: `ase-nnp models show @NAME@`.
            cite="",  # https://doi.org/...
            bibtex="",  # "@article{...}"; what ase_nnp.cite("@NAME@") gives
            license="not stated",
            cutoff=5.0,
            elements=range(1, 101),
            energy_kind="total",  # or "adsorption", "formation", "none"
            functional="none: fresh weights",
            training_data="none: fresh weights",
        )
    )


def _build(config):
    from .model import Model

    return Model(**config)
''',
    "@PACKAGE@/model.py": '''\
"""The model. Replace the body of ``energies``; forces and stress follow from it."""

from __future__ import annotations

import torch
from torch import nn

from ase_nnp import AtomGraph, Conservative


class Model(Conservative):
    """Learned pair energies in a Gaussian basis, smooth at the cutoff.

    Parameters
    ----------
    cutoff
        Angstrom.
    num_basis
        Gaussians between 0 and the cutoff.
    """

    elements = frozenset(range(1, 101))

    def __init__(self, cutoff: float, num_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.species = nn.Embedding(101, num_basis)
        # Constants are float64, so that the model in float64 is truly double.
        centers = torch.linspace(0, cutoff, num_basis, dtype=torch.float64)
        self.register_buffer("centers", centers, persistent=False)

    def energies(self, graph: AtomGraph) -> torch.Tensor:
        """Return energies (B,) in eV."""
        source, target = graph.edge_index
        r = graph.edge_vectors().norm(dim=-1)  # (E,)
        basis = torch.exp(-2.0 * (r[:, None] - self.centers) ** 2)  # (E, K)
        z = graph.atomic_numbers
        pair = (self.species(z[source]) * self.species(z[target]) * basis).sum(-1)
        pair = pair * (1 - (r / self.cutoff) ** 2) ** 3
        return pair.new_zeros(graph.num_structures).index_add(0, graph.batch[target], pair)
''',
    "tests/test_@NAME@.py": '''\
"""Physics that any potential owes."""

from ase_nnp.testing import conformance

test_conformance = conformance("@NAME@")
''',
    ".github/workflows/test.yml": """\
name: test
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
      - run: pip install pytest -e .
      - run: pytest
""",
}


def write_plugin(name: str, folder: Path) -> list[Path]:
    """Write a plugin called ``name`` below ``folder``; return the files.

    Raises
    ------
    ConfigError
        The name is no word, or the folder is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a plugin: lower-case letters, digits and underscores, please."
        )

    package = f"ase_nnp_{name}"
    root = folder / package
    if root.exists():
        raise ConfigError(f"{root} is there already; choose another name or folder.")

    written = []
    for place, text in FILES.items():
        path = root / place.replace("@PACKAGE@", package).replace("@NAME@", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@PACKAGE@", package).replace("@NAME@", name))
        written.append(path)

    return written
