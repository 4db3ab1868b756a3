r"""Chains over the last linear layer alone: they mix, where chains over all weights do not.

Energies and forces are linear in the weights of a linear read-out, so a training set enters the
posterior only through sums of products of its rows, :math:`G_k = R_k^T R_k` and
:math:`b_k = R_k^T y_k` for each kind of label k. A step then costs a product with a d x d matrix
whatever the size of the set, the gradient is that of all data, and coordinates in which the
posterior is round (a Cholesky factor of its precision) let one step cross it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.last_layer import _locate, linear_problem
from ase_nnp.uncertainty.sampling.optimizers import BAOA

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["LastLayerPosterior", "run_last_layer_chains"]

#: In round coordinates every curvature is about 1: far below the stable limit of 2.
STEP, FRICTION = 0.5, 1.0
#: How far apart chains start, in standard deviations: R-hat tells only what starts apart.
DISPERSION = 3.0
#: Of the fixed-point equation for the noise, which converges by a factor a round.
EVIDENCE_ROUNDS = 20


@dataclass(frozen=True)
class Statistics:
    """What a training set says of linear weights, for one kind of label."""

    gram: Tensor  # (d, d)
    cross: Tensor  # (d,)
    square: float
    count: int


class LastLayerPosterior:
    r"""Gaussian likelihood of a linear read-out, Gaussian prior, noise scales with their prior.

    The same posterior as :class:`~ase_nnp.uncertainty.sampling.posterior.Posterior` with all other
    weights fixed, up to a constant.

    Parameters
    ----------
    problem
        Rows (n, d) and targets (n,) of each kind of label, for weights counted from zero.
    noise
        Expected error of each kind, eV and eV/Angstrom.
    prior_std
        Of the weights, about zero.
    learn_noise
        Whether noise scales are sampled.
    """

    def __init__(
        self,
        problem: Mapping[str, tuple[Tensor, Tensor]],
        noise: Mapping[str, float],
        prior_std: float = 1.0,
        learn_noise: bool = True,
    ) -> None:
        if not noise or min(noise.values()) <= 0 or prior_std <= 0:
            raise UncertaintyError(
                "Needs a positive noise for each kind, and a positive prior_std."
            )
        self.noise, self.prior_std, self.learn_noise = dict(noise), prior_std, learn_noise
        self.statistics = {
            kind: Statistics(
                rows.T @ rows, rows.T @ target, float(target.square().sum()), len(target)
            )
            for kind, (rows, target) in problem.items()
        }

        # Round coordinates are those of the noise that the labels show: from an expected error that
        # is wrong by a factor the first kicks would throw the chains out.
        self.middle = dict(noise)
        self.lower, self.center = self._solve()
        for _ in range(EVIDENCE_ROUNDS if learn_noise else 0):
            self.middle = {kind: self._evident(kind) for kind in self.statistics}
            self.lower, self.center = self._solve()
        # A noise scale of n labels is known to 1 / sqrt(2 n) of itself.
        counts = [2.0 * one.count for one in self.statistics.values()]
        self.stretch = torch.tensor(counts, dtype=torch.float64).sqrt()

    def _solve(self) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor of the precision at the middle noise, and the mean."""
        width = len(next(iter(self.statistics.values())).cross)
        precision = torch.eye(width, dtype=torch.float64) / self.prior_std**2
        pull = torch.zeros(width, dtype=torch.float64)
        for kind, one in self.statistics.items():
            precision += one.gram / self.middle[kind] ** 2
            pull += one.cross / self.middle[kind] ** 2
        lower = torch.linalg.cholesky(precision)
        return lower, torch.cholesky_solve(pull[:, None], lower)[:, 0]

    def _evident(self, kind: str) -> float:
        """Return the noise that maximizes the evidence (MacKay 1992), from that before it."""
        one, before = self.statistics[kind], self.middle[kind]
        fit = self.center @ one.gram @ self.center - 2 * self.center @ one.cross + one.square
        used = torch.trace(torch.cholesky_solve(one.gram, self.lower)) / before**2
        free = max(one.count - float(used), 1.0)
        # Rounding alone may leave less than nothing of labels that are fitted exactly.
        return max(math.sqrt(max(float(fit), 0.0) / free), 1e-3 * self.noise[kind])

    def weights(self, round_weights: Tensor) -> Tensor:
        """From round coordinates (..., d) to weights."""
        flat = torch.linalg.solve_triangular(
            self.lower.T, round_weights.reshape(-1, round_weights.shape[-1]).T, upper=True
        )
        weights: Tensor = self.center + flat.T.reshape(round_weights.shape)
        return weights

    def scales(self, round_scales: Tensor) -> Tensor:
        """From round coordinates (..., K) to noise scales."""
        middle = torch.tensor([self.middle[k] for k in self.statistics], dtype=torch.float64)
        return middle * torch.exp(round_scales / self.stretch)

    def energy(self, round_weights: Tensor, round_scales: Tensor) -> Tensor:
        """-log posterior of C chains, (C,), up to a constant."""
        weights, scales = self.weights(round_weights), self.scales(round_scales)
        total = 0.5 * weights.square().sum(-1) / self.prior_std**2
        for number, (kind, one) in enumerate(self.statistics.items()):
            scale = scales[..., number]
            fit = (weights @ one.gram * weights).sum(-1) - 2 * weights @ one.cross + one.square
            total = total + fit / (2 * scale.square()) + one.count * torch.log(scale)
            if self.learn_noise:  # exponential prior, as density of the logarithm
                total = total + scale / self.noise[kind] - torch.log(scale)
        return total


def run_last_layer_chains(
    model: Potential,
    structures: Sequence[Atoms],
    noise: Mapping[str, float],
    *,
    chains: int = 4,
    steps: int = 3000,
    burn_in: int = 1000,
    samples: int = 100,
    temperature: float = 1.0,
    prior_std: float = 1.0,
    learn_noise: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Sample the weights of the last linear layer, all others as they are.

    Parameters
    ----------
    model
        A trained potential with a linear read-out.
    structures
        Labeled training structures; each is evaluated once.
    noise
        Expected error of each kind of label: ``{"energy": 0.02, "forces": 0.06}``.
    chains, steps, burn_in, samples
        Chains, started apart; steps of each, those cut off its start, and how many of the rest are
        kept, evenly.
    temperature
        Of the posterior; below 1 it is cold.
    prior_std, learn_noise
        As in :class:`LastLayerPosterior`.
    seed
        Of starts and noise.

    Returns
    -------
    dict
        The layer's samples (C, S, ...) under its parameter's name, and the noise scales (C, S)
        under ``noise.*``: as :func:`~ase_nnp.uncertainty.sampling.chains.run_chains` gives them.

    Raises
    ------
    UncertaintyError
        The model has no linear last layer, a label is missing, or a setting cannot be meant.
    """
    if not 0 <= burn_in < steps or not 1 <= samples <= steps - burn_in or chains < 1:
        raise UncertaintyError("Needs burn_in < steps, and 1 to steps - burn_in samples.")
    layer = _locate(model, structures)
    weight = layer.weight(model)
    start = weight.detach().double().cpu().reshape(-1)
    problem = {
        kind: (rows, missed + rows @ start)  # what the layer has to give, not what is left
        for kind, (rows, missed) in linear_problem(model, layer, structures, noise).items()
    }
    posterior = LastLayerPosterior(problem, noise, prior_std, learn_noise)
    kept = _sample(posterior, chains, steps, burn_in, samples, temperature, seed)

    name = next(n for n, p in model.named_parameters() if p is weight)
    drawn = {name: kept[0].reshape(*kept[0].shape[:2], *weight.shape).to(weight.dtype)}
    return drawn | {f"noise.{k}": kept[1][..., i] for i, k in enumerate(posterior.statistics)}


def _sample(
    posterior: LastLayerPosterior,
    chains: int,
    steps: int,
    burn_in: int,
    samples: int,
    temperature: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return weights (C, S, d) and noise scales (C, S, K) of chains that move side by side."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (len(posterior.center), len(posterior.statistics))
    weights, scales = (
        DISPERSION * torch.randn(chains, n, generator=generator, dtype=torch.float64)
        for n in shapes
    )
    moving = [weights.requires_grad_()]
    if posterior.learn_noise:
        moving.append(scales.requires_grad_())
    else:
        scales = torch.zeros_like(scales)
    sampler = BAOA(moving, STEP, temperature, FRICTION, seed=seed + 1)

    keep = {burn_in + math.floor((k + 1) * (steps - burn_in) / samples) - 1 for k in range(samples)}
    rows: list[tuple[Tensor, Tensor]] = []
    for step in range(steps):
        sampler.zero_grad()
        posterior.energy(weights, scales).sum().backward()  # type: ignore[no-untyped-call]
        sampler.step()
        if step in keep:
            with torch.no_grad():
                rows.append((posterior.weights(weights), posterior.scales(scales)))
    return torch.stack([r[0] for r in rows], dim=1), torch.stack([r[1] for r in rows], dim=1)
