"""Spreads of one model over repeated passes: dropout, and rotated copies of the structure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.ensemble import committee_outputs, reduce_members

__all__ = ["MonteCarloDropout", "RotationSpread"]

DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class _Passes(UncertainPotential):
    """Mean and spread over several passes of one model."""

    def __init__(
        self, members: Sequence[Potential], *, passes: int = 16, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(members, **options)
        if passes < 2:
            raise UncertaintyError(f"A spread needs two or more passes, not {passes}.")
        self.passes, self.seed = passes, seed
        self.outputs = committee_outputs(self.base.outputs)

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Mean and spread over the passes."""
        stress = any(p.startswith("stress") for p in properties)
        wanted = [k for k in self.base.outputs if stress or not k.startswith("stress")]
        results = [self.one_pass(graph, wanted, i) for i in range(self.passes)]
        stacked = {k: torch.stack([f[k].detach() for f in results]) for k in wanted}
        return reduce_members(stacked, graph.positions.dtype)

    def one_pass(
        self, graph: AtomGraph, properties: Collection[str], number: int
    ) -> Mapping[str, Tensor]:
        """Results of the pass of this number."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Passes and seed."""
        return {}, {**super().state()[1], "passes": self.passes, "seed": self.seed}


class MonteCarloDropout(_Passes):
    """Dropout left on (Gal and Ghahramani 2016), for models that were trained with it.

    The raw spread depends on the arbitrary dropout rate: calibrate it.
    """

    method = "dropout"

    def __init__(self, members: Sequence[Potential], **options: Any) -> None:
        super().__init__(members, **options)
        if not self._layers():
            raise UncertaintyError(
                f"{self.base.family or type(self.base).__name__} has no dropout layer with a rate "
                "above zero. Use 'latent' or an ensemble."
            )

    def _layers(self) -> list[nn.Module]:
        return [m for m in self.base.modules() if isinstance(m, DROPOUTS) and m.p > 0]

    def one_pass(
        self, graph: AtomGraph, properties: Collection[str], number: int
    ) -> Mapping[str, Tensor]:
        """One pass with dropout on; torch's global generator is put back."""
        devices = [graph.positions.device] if graph.positions.is_cuda else []
        with torch.random.fork_rng(devices=devices), _training(self._layers()):
            # The same masks in every call: a spread that changes by itself cannot be calibrated.
            torch.manual_seed(self.seed + number)
            return self.base.compute(graph, properties)


@contextmanager
def _training(layers: Sequence[nn.Module]) -> Iterator[None]:
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


class RotationSpread(_Passes):
    """Spread over random rotations of the structure, for models that are not equivariant.

    Forces and stress are rotated back. It measures broken symmetry only: an exactly equivariant
    model has a spread of zero.
    """

    method = "rotation"

    def one_pass(
        self, graph: AtomGraph, properties: Collection[str], number: int
    ) -> Mapping[str, Tensor]:
        """One pass of the structure turned at random."""
        from scipy.spatial.transform import Rotation

        rng = np.random.default_rng([self.seed, number])
        # Four normal numbers are a rotation that prefers no axis.
        quaternion = rng.standard_normal(4)
        turn = torch.as_tensor(Rotation.from_quat(quaternion).as_matrix()).to(graph.positions)
        turned = graph.replace(positions=graph.positions @ turn.T, cell=graph.cell @ turn.T)
        result = dict(self.base.compute(turned, properties))

        if "forces" in result:
            result["forces"] = result["forces"] @ turn
        if "stress" in result:
            result["stress"] = turn.T @ result["stress"] @ turn
        return result
