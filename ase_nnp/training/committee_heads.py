"""A committee in one model: several read-outs trained together with it, by a likelihood."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.training.graph_loader import GraphBatch
from ase_nnp.uncertainty.methods.last_layer import _locate
from ase_nnp.uncertainty.methods.shallow import ShallowEnsemble

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CommitteeHeads"]

#: Rate of the heads, in units of the last layer's weights; and by what part of its logarithm the
#: common level follows each batch.
RATE, FOLLOW = 0.02, 0.1
#: eV an atom; the least spread that the likelihood can ask for.
FLOOR = 1e-4


class CommitteeHeads:
    r"""M read-outs :math:`w + \delta_m` around the model's own, :math:`\sum_m \delta_m = 0`.

    Their mean is the model itself, so that its energies and forces are those of a run without a
    committee. The differences start at random and follow the Gaussian likelihood of each batch,

    .. math:: \log s^2 + (E - \bar E)^2 / s^2, \qquad s^2 = \mathrm{Var}_m(\delta_m \cdot \Phi)

    with the features of the same pass (Kellner and Ceriotti 2024, arXiv:2402.16621). Where no
    structure of the training set says anything, the heads stay as different as they began, but for
    the common level.

    Parameters
    ----------
    model
        A potential with a linear last layer.
    train
        Structures to find the layer on.
    count, seed
        M, and the seed of the beginning.

    Raises
    ------
    ConfigError
        The energy is not shown to be linear in any layer's weights.
    """

    def __init__(self, model: Potential, train: Sequence[Atoms], count: int, seed: int = 0) -> None:
        # Dropout would hide that the energy is linear in the weights.
        training = model.training
        model.eval()
        try:
            layer = _locate(model, [train[0], train[len(train) - 1]])
        except UncertaintyError as error:
            raise ConfigError(f"heads: {count} needs a linear last layer: {error}") from error
        finally:
            model.train(training)
        self.layer, self.model = layer, model
        weight = layer.weight(model).detach().double()
        self.unit = float(weight.square().mean().sqrt()) or 1.0

        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(count, weight.numel(), generator=generator, dtype=torch.float64)
        self.z = start.to(weight.device).requires_grad_(True)
        self.adam = torch.optim.Adam([self.z], lr=RATE)
        self.level = 1.0
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def shifts(self) -> Tensor:
        """Differences (M, d) from the model's own read-out; they sum to zero."""
        return self.level * self.unit * (self.z - self.z.mean(dim=0))

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The model's results, keeping the features of the pass."""
        with self.layer.watch(self.model) as caught:
            result = dict(self.model.compute(graph, properties))
        _, total = self.layer.read(caught, graph, result["energy"], differentiable=False)
        self._seen = (total.double(), result["energy"].detach().double())
        return result

    def take_step(self, batch: GraphBatch, rate: float, world_size: int = 1) -> None:
        """Move the heads down the likelihood of the batch that was just computed.

        Parameters
        ----------
        batch
            With energy labels; those that are missing count for nothing.
        rate
            Factor of the step, that of the schedule.
        world_size
            Processes whose gradients are summed.
        """
        if self._seen is None or "energy" not in batch.targets:
            return
        total, energy = self._seen
        self._seen = None
        label = batch.targets["energy"].double()
        known = ~torch.isnan(label)
        size = batch.graph.atoms_per_structure().double()[known]

        spread = (total[known] @ self.shifts.T).var(dim=1) + (FLOOR * size).square()
        missed = (label[known] - energy[known]).square()
        if not known.any():
            missed = spread = torch.ones_like(self.z[:1, 0]) + 0 * self.z[:1, 0]
        ratio = (missed / spread).mean()
        loss = (spread.log() + missed / spread).mean()
        (gradient,) = torch.autograd.grad(loss, self.z)
        means = torch.cat([gradient.flatten(), ratio.detach()[None]])
        if world_size > 1:
            torch.distributed.all_reduce(means)
        means /= world_size
        self.z.grad = means[:-1].view_as(self.z)
        # The best level of a Gaussian is known; by the gradient alone it would come too late, as
        # errors fall a hundredfold while a model is trained.
        self.level *= float(means[-1].clamp(1e-4, 1e4)) ** (FOLLOW / 2)
        for group in self.adam.param_groups:
            group["lr"] = RATE * rate
        self.adam.step()

    def committee(self, model: Potential) -> ShallowEnsemble:
        """Return the committee around a trained model: energies of all heads from one pass."""
        shifts = self.shifts.detach().cpu()
        return ShallowEnsemble([model], fitted=(self.layer, shifts), force_std="none")

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs."""
        return {
            "z": self.z.detach().cpu(),
            "scales": [self.unit, self.level],
            "adam": self.adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        with torch.no_grad():
            self.z.copy_(state["z"])
        self.unit, self.level = state["scales"]
        self.adam.load_state_dict(state["adam"])
