r"""Thermodynamic integration between two potentials, all points in one batch of replicas.

.. math:: F_B - F_A = \int_0^1 \langle E_B - E_A \rangle_\lambda \, d\lambda, \quad
          E_\lambda = (1 - \lambda) E_A + \lambda E_B
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.units import fs, kB
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.uncertainty.statistics.observables import blocking_error
from ase_nnp.workflows.doubts import unknown_places
from ase_nnp.workflows.vibrations.hessian import free_atoms

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["FreeEnergyDifference", "integrate"]

Array = NDArray[np.float64]
#: Steps between looks at the models' flags.
EVERY = 50


@dataclass(frozen=True)
class FreeEnergyDifference:
    """The free energy of one potential above another.

    Attributes
    ----------
    value, std
        eV; the statistical error, by blocking at each point.
    lambdas, weights
        Where the integrand was sampled, and what each point counts.
    means, errors
        Mean of E_B - E_A at each point and its statistical error, eV.
    unknown
        Share of the states looked at, every fiftieth after equilibration, that the flag of one of
        the two models is raised for; 0 where neither has one. No statistical error says so.
    """

    value: float
    std: float
    lambdas: Array
    weights: Array
    means: Array
    errors: Array
    unknown: float = 0.0


def integrate(
    atoms: Atoms,
    first: Any,
    second: Any,
    lambdas: int | Sequence[float] = 7,
    *,
    temperature: float,
    steps: int = 5000,
    equilibration: int = 500,
    timestep: float = 2.0,
    friction: float = 0.02,
    replicas: int = 1,
    seed: int = 0,
) -> FreeEnergyDifference:
    """Return F of the second potential less that of the first, at constant volume.

    Parameters
    ----------
    atoms
        Where all replicas begin; left as it is. What FixAtoms holds stays.
    first, second
        Anything that :func:`~ase_nnp.load_model` takes; energies of one kind.
    lambdas
        Number of Gauss-Legendre points, or points from 0 to 1 for the trapezoidal rule.
    temperature
        K.
    steps, equilibration
        Of Langevin dynamics at each point, and how many of them go before.
    timestep
        fs.
    friction
        1/fs.
    replicas
        Independent ones at each point; all move in one batch.
    seed
        Of the noise.

    Notes
    -----
    Langevin dynamics in the BAOAB splitting (Leimkuhler and Matthews 2013,
    doi:10.1093/amrx/abs010), whose configurations are exact for harmonic wells at any step.
    """
    points, weights = _points(lambdas)
    if not temperature > 0 or steps < 16 or equilibration < 0 or replicas < 1:
        raise ConfigError(
            f"temperature = {temperature}, steps = {steps}, equilibration = {equilibration}, "
            f"replicas = {replicas}: positive, at least 16, 0 and 1."
        )
    if not timestep > 0 or not friction > 0:
        raise ConfigError(f"timestep = {timestep}, friction = {friction}: positive.")
    models = load_model(first), load_model(second)
    if models[0].energy_kind != models[1].energy_kind:
        raise ConfigError("The two potentials' energies mean different things.")

    share = np.repeat(points, replicas)[:, None, None]
    moving = [atoms.copy() for _ in range(len(share))]
    predictors = Predictor(models[0]), Predictor(models[1])
    watch = _Watch(models, equilibration)
    differences = _sampled(
        moving,
        predictors,
        share,
        steps + equilibration,
        temperature,
        timestep,
        friction,
        seed,
        watch,
    )[equilibration:]

    per_point = differences.reshape(steps, len(points), replicas)
    means = per_point.mean(axis=(0, 2))
    errors = np.array(
        [
            np.sqrt(np.sum([blocking_error(per_point[:, k, r]) ** 2 for r in range(replicas)]))
            / replicas
            for k in range(len(points))
        ]
    )
    value, std = float(weights @ means), float(np.sqrt((weights**2) @ errors**2))
    return FreeEnergyDifference(value, std, points, weights, means, errors, watch.share)


def _points(lambdas: int | Sequence[float]) -> tuple[Array, Array]:
    if isinstance(lambdas, (int, np.integer)):
        if lambdas < 1:
            raise ConfigError(f"lambdas = {lambdas}: at least 1 point.")
        nodes, weights = np.polynomial.legendre.leggauss(int(lambdas))
        return (nodes + 1) / 2, weights / 2
    points = np.asarray(lambdas, dtype=np.float64)
    if len(points) < 2 or points[0] != 0 or points[-1] != 1 or not (np.diff(points) > 0).all():
        raise ConfigError(f"lambdas = {points.tolist()}: points that rise from 0 to 1.")
    gaps = np.diff(points) / 2
    return points, np.append(gaps, 0) + np.append(0, gaps)


def _sampled(
    moving: list[Atoms],
    predictors: tuple[Predictor, Predictor],
    share: Array,
    steps: int,
    temperature: float,
    timestep: float,
    friction: float,
    seed: int,
    watch: _Watch,
) -> Array:
    """Return E_B - E_A of every replica at every step, (steps, replicas)."""
    generator = np.random.default_rng(seed)
    masses = moving[0].get_masses()[:, None]
    free = np.zeros((len(masses), 1), dtype=bool)
    free[free_atoms(moving[0])] = True
    thermal = np.sqrt(kB * temperature / masses) * free
    positions = np.array([atoms.positions for atoms in moving])
    velocities = thermal * generator.standard_normal(positions.shape)

    step, decay = timestep * fs, np.exp(-friction * timestep)
    kept = np.sqrt(1 - decay**2)
    differences = np.zeros((steps, len(moving)))
    forces, _ = _mixed(moving, predictors, share)
    for k in range(steps):
        velocities += 0.5 * step * forces / masses * free
        positions += 0.5 * step * velocities
        noise = generator.standard_normal(positions.shape)
        velocities = decay * velocities + kept * thermal * noise
        positions += 0.5 * step * velocities
        for atoms, moved in zip(moving, positions, strict=True):
            atoms.positions[:] = moved
        forces, differences[k] = _mixed(moving, predictors, share)
        velocities += 0.5 * step * forces / masses * free
        watch.look(k, moving)
    return differences


class _Watch:
    """How many states the flags of two models are raised for, now and then after a first step."""

    def __init__(self, models: Sequence[Potential], first: int) -> None:
        self.models, self.first = models, first
        self.seen = self.unknown = 0

    def look(self, step: int, moving: list[Atoms]) -> None:
        if step >= self.first and (step - self.first) % EVERY == 0:
            strange = [set(unknown_places(model, moving)) for model in self.models]
            self.seen += len(moving)
            self.unknown += len(set().union(*strange))

    @property
    def share(self) -> float:
        return self.unknown / self.seen if self.seen else 0.0


def _mixed(
    moving: list[Atoms], predictors: tuple[Predictor, Predictor], share: Array
) -> tuple[Array, Array]:
    """Return the forces of every replica's mixture, and the difference of the energies."""
    rows = [predictor(moving, ("energy", "forces"), progress=False) for predictor in predictors]
    forces = [np.array([row["forces"] for row in one]) for one in rows]
    energies = [np.array([float(row["energy"]) for row in one]) for one in rows]
    return (1 - share) * forces[0] + share * forces[1], energies[1] - energies[0]
