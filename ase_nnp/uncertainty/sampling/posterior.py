"""The posterior of a model's weights: Gaussian likelihood with learned noise, Gaussian prior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

__all__ = ["Posterior"]


class Posterior(nn.Module):
    r"""Potential energy ``U = -log p(theta) - (N/n) sum log p(d | theta)`` of a minibatch.

    Energies, force components and stress components are Gaussian about the prediction, each kind
    with one noise scale. A scale s is sampled too, as log s, with an exponential prior whose mean
    is the error expected (Thaler et al. 2023, arXiv:2212.07959).

    Parameters
    ----------
    model
        The potential whose parameters are sampled; those with ``requires_grad``.
    num_data
        Structures in the training set, N.
    noise
        Error expected of each kind that has labels: ``{"energy": 0.02, "forces": 0.06}`` in eV,
        eV/Angstrom. Also the starting scale.
    prior_std
        Of the Gaussian prior on the weights; None for a flat prior.
    prior_mean
        ``"zero"``, or ``"start"`` for the weights as they are now.
    learn_noise
        Sample the noise scales; otherwise they stay as given.
    """

    def __init__(
        self,
        model: Potential,
        num_data: int,
        noise: Mapping[str, float],
        *,
        prior_std: float | None = 1.0,
        prior_mean: str = "zero",
        learn_noise: bool = True,
    ) -> None:
        super().__init__()
        if num_data < 1 or not noise or min(noise.values()) <= 0:
            raise UncertaintyError("Needs num_data >= 1 and a positive noise for each kind.")
        strange = set(noise) - {"energy", "forces", "stress"}
        if strange:
            raise UncertaintyError(f"No likelihood for {sorted(strange)}.")
        if prior_mean not in ("zero", "start"):
            raise UncertaintyError(f"prior_mean must be 'zero' or 'start', not {prior_mean!r}.")

        self.model, self.num_data, self.prior_std = model, num_data, prior_std
        self.expected = dict(noise)
        self.log_noise = nn.ParameterDict(
            {
                k: nn.Parameter(torch.tensor(math.log(v), dtype=torch.float64), learn_noise)
                for k, v in noise.items()
            }
        )
        self._center = [
            p.detach().clone() if prior_mean == "start" else torch.zeros_like(p)
            for p in self.sampled()
        ]

    def sampled(self) -> list[nn.Parameter]:
        """The model's parameters that are sampled."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def noise(self) -> dict[str, float]:
        """The noise scales now, eV and eV/Angstrom."""
        return {k: float(v.detach().exp()) for k, v in self.log_noise.items()}

    def negative_log_prior(self) -> Tensor:
        """Of weights and noise scales, up to a constant."""
        total = torch.zeros((), dtype=torch.float64)
        if self.prior_std is not None:
            for p, center in zip(self.sampled(), self._center, strict=True):
                total = total + ((p - center) ** 2).sum() / (2 * self.prior_std**2)
        for k, log_scale in self.log_noise.items():
            if log_scale.requires_grad:  # density of log s: s exp(-s / mean)
                total = total + log_scale.exp() / self.expected[k] - log_scale
        return total

    def negative_log_likelihood(
        self, prediction: Mapping[str, Tensor], labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Summed over the labels of a batch."""
        total = torch.zeros((), dtype=torch.float64)
        for k, log_scale in self.log_noise.items():
            if k not in labels:
                raise UncertaintyError(f"The batch has no label '{k}', but a noise was given.")
            # Thousands of squares are summed, in float64 whatever the model's precision.
            error = (prediction[k] - labels[k]).double()
            square = (error**2).sum()
            total = total + square / (2 * (2 * log_scale).exp()) + error.numel() * log_scale
        return total

    def forward(self, graph: AtomGraph, labels: Mapping[str, Tensor]) -> Tensor:
        """Estimate U from a minibatch."""
        prediction = self.model.compute(graph, tuple(self.log_noise))

        # An unbiased estimate over the whole set, of which the minibatch is a part.
        likelihood = self.negative_log_likelihood(prediction, labels)
        return self.num_data / graph.num_structures * likelihood + self.negative_log_prior()
