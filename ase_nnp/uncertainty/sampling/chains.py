"""Running chains, one or several in parallel processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.sampling import optimizers
from ase_nnp.uncertainty.sampling.posterior import Posterior
from ase_nnp.uncertainty.sampling.schedules import Schedule, constant_step, kept_steps
from ase_nnp.uncertainty.sampling.schedules import polynomial_step as _polynomial

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ChainSettings", "labels_of", "run_chain", "run_chains"]


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """How to sample.

    Parameters
    ----------
    sampler
        ``"psgld"``, ``"sgld"``, ``"sghmc"`` or ``"baoa"``.
    steps, burn_in, samples
        Steps of a chain, those cut off its start, and how many of the rest to keep, drawn with a
        chance proportional to the step size.
    step_size, last_step_size
        Falls as ``(b + t)^-0.33`` from the first to the second; constant without the second.
    batch_size
        Structures in a minibatch.
    temperature
        Of the posterior; below 1 it is cold.
    friction
        Of ``sghmc`` and ``baoa``.
    noise, prior_std, prior_mean, learn_noise
        As in :class:`Posterior`.
    """

    sampler: str = "psgld"
    steps: int = 480
    burn_in: int = 160
    samples: int = 8
    step_size: float = 4e-7
    last_step_size: float | None = 1e-7
    batch_size: int = 20
    temperature: float = 1.0
    friction: float = 1.0
    noise: Mapping[str, float] = field(default_factory=lambda: {"energy": 0.02, "forces": 0.06})
    prior_std: float | None = 1.0
    prior_mean: str = "zero"
    learn_noise: bool = True

    def schedule(self) -> Schedule:
        """Step size over time."""
        if self.last_step_size is None:
            return constant_step(self.step_size)
        return _polynomial(self.step_size, self.last_step_size, self.steps)

    def make(self, params: Sequence[Tensor], num_data: int, seed: int) -> optimizers.Sampler:
        """Return the sampler."""
        h, t = self.step_size, self.temperature
        if self.sampler == "psgld":
            return optimizers.pSGLD(params, h, num_data, t, seed=seed)
        if self.sampler == "sgld":
            return optimizers.SGLD(params, h, t, seed=seed)
        if self.sampler in ("sghmc", "baoa"):
            kind = optimizers.SGHMC if self.sampler == "sghmc" else optimizers.BAOA
            return kind(params, h, t, self.friction, seed=seed)
        raise UncertaintyError(
            f"No sampler is named '{self.sampler}'. There are: psgld, sgld, sghmc, baoa."
        )


def labels_of(
    structures: Sequence[Atoms], names: Sequence[str], like: AtomGraph
) -> dict[str, Tensor]:
    """Labels of structures from their calculators, as tensors in the graph's precision."""
    labels: dict[str, Tensor] = {}
    for name in names:
        try:
            if name == "energy":
                array = np.array([a.get_potential_energy() for a in structures])
            elif name == "forces":
                array = np.concatenate([a.get_forces(apply_constraint=False) for a in structures])
            else:
                array = np.stack([a.get_stress(voigt=False) for a in structures])
        except Exception as error:  # a calculator may raise anything
            raise UncertaintyError(
                f"A training structure has no label '{name}': {error}"
            ) from error
        labels[name] = torch.as_tensor(array).to(like.positions)
    return labels


def run_chain(
    model: Potential, structures: Sequence[Atoms], settings: ChainSettings, seed: int = 0
) -> dict[str, Tensor]:
    """Sample the weights of a copy of ``model``, starting where it is.

    Returns
    -------
    dict
        Of each sampled parameter the samples, (S, ...), and under ``noise.*`` the noise scales.
    """
    # The start belongs to the caller, and other chains begin from it too.
    model = copy.deepcopy(model).train()
    posterior = Posterior(
        model,
        len(structures),
        settings.noise,
        prior_std=settings.prior_std,
        prior_mean=settings.prior_mean,
        learn_noise=settings.learn_noise,
    )
    if not posterior.sampled():
        raise UncertaintyError("The model has no parameters that could be sampled.")

    schedule = settings.schedule()
    keep = set(kept_steps(schedule, settings.steps, settings.burn_in, settings.samples, seed))
    sampler = settings.make(list(posterior.parameters()), len(structures), seed)
    rng = np.random.default_rng(seed)

    graphs = [model.make_graph(atoms) for atoms in structures]
    labels = [
        labels_of([a], list(settings.noise), g) for a, g in zip(structures, graphs, strict=True)
    ]
    size = min(settings.batch_size, len(structures))
    order = np.zeros(0, dtype=np.int64)
    kept: list[dict[str, Tensor]] = []

    for step in range(settings.steps):
        # Without replacement: minibatch noise is smaller than that of independent draws.
        if len(order) < size:
            order = rng.permutation(len(structures))
        chosen, order = order[:size], order[size:]
        batch = AtomGraph.collate([graphs[i] for i in chosen])
        target = {k: torch.cat([labels[i][k] for i in chosen]) for k in settings.noise}
        for group in sampler.param_groups:
            group["lr"] = schedule(step)

        sampler.zero_grad()
        posterior(batch, target).backward()
        sampler.step()
        if step in keep:
            sample = {k: p for k, p in model.named_parameters() if p.requires_grad}
            sample |= {f"noise.{k}": v.exp() for k, v in posterior.log_noise.items()}
            kept.append({k: v.detach().clone() for k, v in sample.items()})
    return {k: torch.stack([s[k] for s in kept]) for k in kept[0]}


def _run_pickled(job: bytes) -> dict[str, Any]:
    # One chain a process: more threads would compete for the cores.
    torch.set_num_threads(1)
    model, structures, settings, seed = pickle.loads(job)  # our own bytes, from run_chains
    return {k: v.cpu().numpy() for k, v in run_chain(model, structures, settings, seed).items()}


def run_chains(
    models: Potential | Sequence[Potential],
    structures: Sequence[Atoms],
    settings: ChainSettings,
    *,
    chains: int = 3,
    workers: int = 1,
    executor: Executor | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Run several chains, each with its own seed.

    Parameters
    ----------
    models
        One start for all chains, or one for each (better: chains that start together tell little
        about each other).
    chains
        Their number, where one start is given.
    workers
        Processes of this machine; 1 runs one chain after the other. A script that asks for more
        needs ``if __name__ == "__main__":``.
    executor
        Any ``concurrent.futures.Executor`` instead.
    structures
        Labeled training structures.
    settings
        Of the chains.
    seed
        Of the noise.

    Returns
    -------
    dict
        Each parameter's samples, (C, S, ...).
    """
    starts = [models] * chains if isinstance(models, Potential) else list(models)

    jobs = [(m, list(structures), settings, seed + i) for i, m in enumerate(starts)]

    if executor is None and workers == 1:
        results = [run_chain(*job) for job in jobs]
    else:
        # Spawned, not forked: a fork inherits torch's threads in a state that nobody knows.
        pool = (
            nullcontext(executor)
            if executor is not None
            else ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"))
        )
        with pool as running:
            assert running is not None
            samples = list(running.map(_run_pickled, [pickle.dumps(job) for job in jobs]))
        results = [{k: torch.from_numpy(v) for k, v in one.items()} for one in samples]
    return {k: torch.stack([r[k].cpu() for r in results]) for k in results[0]}
