"""Active learning: the model walks, and asks an oracle where it is unsure.

As in Gradual Optimization Learning (Tsypin et al. 2023, arXiv:2311.06295), structures come from
trajectories of the present model itself, and only those are labeled at which a cheap signal says
that the model has left what it knows: a surrogate's energy that rises, as there, or the model's own
uncertainty that crosses a threshold. A trajectory ends at that structure.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ActiveResult", "Explorer", "active_learning", "label"]

Trainer = Callable[[list[Any]], Potential]


@dataclass(frozen=True)
class Explorer:
    """Trajectories of a model with error bars.

    Parameters
    ----------
    kind
        ``"relax"`` (FIRE) or ``"md"`` (Langevin).
    steps
        Of a trajectory that the model trusts to its end.
    threshold
        Of ``key``: the structure at which it is first exceeded is chosen. None: that of the model's
        own flag, of ``ood_score``.
    key
        What is watched. Default: ``"ood_score"`` without a threshold, the same score as the flag's;
        with one the largest norm of ``forces_std`` over atoms, eV/Angstrom.
    temperature
        Of molecular dynamics, K.
    timestep
        Of molecular dynamics, fs.
    ceiling
        Structures more uncertain than this are nonsense: they end a trajectory and teach nothing.
    surrogate
        Makes a cheap ASE calculator (a force field). Instead of the uncertainty, its energy is
        watched: a relaxation ends at the first structure at which it is higher than one step
        before, and that structure is chosen. The model then needs no error bars.
    """

    kind: Literal["relax", "md"] = "md"
    steps: int = 100
    threshold: float | None = 0.1
    key: str | None = None
    temperature: float = 600.0
    timestep: float = 2.0
    ceiling: float | None = None
    surrogate: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if self.surrogate is not None and self.kind != "relax":
            raise ConfigError(
                "A surrogate's energy falls along a relaxation and not along dynamics: "
                "kind='relax' goes with it."
            )

    def __call__(
        self, model: Potential, starts: Sequence[Atoms], seed: int = 0
    ) -> tuple[list[Atoms], list[Atoms]]:
        """Walk from each start; returns the structures chosen and all that were visited."""
        asks = self.surrogate is None and self.threshold != math.inf
        if asks and self.watched() not in model.outputs:
            raise ConfigError(
                f"Exploring watches '{self.watched()}', which the model does not give: fit error "
                "bars with ase_nnp.uncertainty.fit('auto', ...), or wrap('ensemble', [...])."
            )
        chosen: list[Atoms] = []
        visited: list[Atoms] = []
        for number, start in enumerate(starts):
            # Each start has random numbers of its own: what one walk does changes no other.
            last = self._walk(model, start, np.random.default_rng([seed, number]), visited)
            if last is not None:
                chosen.append(last)
        return chosen, visited

    def to_the_end(self) -> Explorer:
        """Return the same walks with nothing that stops them early."""
        return replace(self, threshold=math.inf, key=None, ceiling=None, surrogate=None)

    def watched(self) -> str:
        """The result that is watched."""
        return self.key or ("ood_score" if self.threshold is None else "forces_std_norm")

    def _walk(self, model: Potential, start: Atoms, rng: Any, visited: list[Atoms]) -> Any:
        from ase_nnp.calculator.calculator import NNPCalculator
        from ase_nnp.uncertainty.monitor import UncertaintyMonitor, UncertaintyWarning

        atoms = start.copy()
        atoms.calc = NNPCalculator(model)
        dynamics = self._dynamics(atoms, rng)
        dynamics.attach(lambda: visited.append(_bare(atoms)))
        kept: list[Atoms] = []
        if self.surrogate is not None:
            _stop_at_a_rise(dynamics, atoms, self.surrogate(), kept)
        elif self.threshold != math.inf:
            UncertaintyMonitor(
                dynamics,
                self.watched(),
                self.threshold,
                upper=self.ceiling,
                mode="stop",
                callback=lambda at, event: kept.append(_bare(at)),
            )

        limits = {"steps": self.steps} | ({"fmax": 0.02} if self.kind == "relax" else {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncertaintyWarning)
            try:
                for _ in dynamics.irun(**limits):
                    if kept:
                        break
            except StructureError:  # the model let atoms fly away: what was seen before counts
                return None
        return kept[0] if kept else None

    def _dynamics(self, atoms: Atoms, rng: Any) -> Any:
        from ase import units

        if self.kind == "relax":
            from ase.optimize import FIRE

            return FIRE(atoms, logfile=None)
        from ase.md.langevin import Langevin

        # Maxwell and Boltzmann: each component is normal with variance m kT.
        width = np.sqrt(atoms.get_masses() * units.kB * self.temperature)
        atoms.set_momenta(width[:, None] * rng.standard_normal((len(atoms), 3)))
        return Langevin(
            atoms,
            self.timestep * units.fs,
            temperature_K=self.temperature,
            friction=0.02 / units.fs,
            fixcm=False,
            rng=rng,
        )


def _stop_at_a_rise(dynamics: Any, atoms: Atoms, surrogate: Any, kept: list[Atoms]) -> None:
    """Keep the first structure at which the surrogate's energy is higher than a step before."""
    energies: list[float] = []

    def look() -> None:
        # A copy: the surrogate must not become the calculator that moves the atoms.
        twin = _bare(atoms)
        twin.calc = surrogate
        energies.append(float(twin.get_potential_energy()))
        if not kept and len(energies) > 1 and energies[-1] > energies[-2]:
            kept.append(_bare(atoms))

    dynamics.attach(look)


def _bare(atoms: Atoms) -> Atoms:
    twin: Atoms = atoms.copy()
    twin.calc = None
    return twin


def label(structures: Sequence[Atoms], oracle: Callable[[], Any]) -> list[Atoms]:
    """Return the structures with energy, forces and, where it has one, stress of an oracle.

    Parameters
    ----------
    oracle
        Makes an ASE calculator, such as ``EMT`` or ``lambda: Vasp(...)``; one is used for all.
    structures
        What the oracle labels.
    """
    from ase.calculators.calculator import PropertyNotImplementedError
    from ase.calculators.singlepoint import SinglePointCalculator

    calculator = oracle()
    done = []
    for one in structures:
        atoms = one.copy()
        atoms.calc = calculator
        # As the oracle gives them: constraints must not touch labels.
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(apply_constraint=False),
        }
        if atoms.cell.rank == 3 and atoms.pbc.any():
            with suppress(PropertyNotImplementedError, NotImplementedError):
                results["stress"] = atoms.get_stress(apply_constraint=False)
        atoms.calc = SinglePointCalculator(atoms, **results)
        done.append(atoms)
    return done


@dataclass
class ActiveResult:
    """The last model, all labeled structures, and a row a round.

    A row holds ``round``, ``oracle_calls`` (so far, the first set not counted), ``chosen``,
    ``visited`` and what ``measure`` returned.
    """

    model: Potential
    labeled: list[Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)


def active_learning(
    train: Trainer,
    labeled: Sequence[Atoms],
    starts: Sequence[Atoms],
    oracle: Callable[[], Any],
    explorer: Explorer,
    *,
    rounds: int = 5,
    per_round: int = 10,
    select: Literal["uncertain", "random"] = "uncertain",
    measure: Callable[[Potential], dict[str, float]] | None = None,
    seed: int = 0,
) -> ActiveResult:
    """Train, walk, ask, and again.

    Parameters
    ----------
    train
        ``train(labeled) -> model`` with error bars on forces, such as an ensemble of
        :func:`~ase_nnp.training.fit` runs wrapped by :func:`ase_nnp.uncertainty.wrap`.
    labeled
        Structures with labels to begin with.
    starts
        Where trajectories begin.
    oracle
        Makes the ASE calculator that labels.
    explorer
        How to walk and when to ask.
    rounds, per_round
        Rounds, and the most oracle calls in each; the round after which nothing was chosen is the
        last.
    select
        ``"random"`` takes as many structures from all that were visited, whatever their
        uncertainty: the baseline to compare with.
    measure
        Called with each model; its numbers go into the rows.
    seed
        Of the choices made at random.

    Returns
    -------
    ActiveResult
    """
    # Where chance chooses, every trajectory runs to its end.
    walk = explorer if select == "uncertain" else explorer.to_the_end()
    known = list(labeled)
    model = train(known)
    result = ActiveResult(model, known)
    calls = 0
    for number in range(rounds + 1):
        row: dict[str, Any] = {"round": number, "oracle_calls": calls}
        if measure is not None:
            row |= measure(model)
        result.rounds.append(row)
        if number == rounds:
            break

        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(starts))
        begin = [starts[int(k)] for k in order]
        chosen, visited = walk(model, begin, seed=seed + number)
        if select == "random":
            picks = rng.choice(len(visited), size=min(per_round, len(visited)), replace=False)
            chosen = [visited[int(k)] for k in picks]
        chosen = chosen[:per_round]
        row |= {"chosen": len(chosen), "visited": len(visited)}
        if not chosen:
            break

        known = [*known, *label(chosen, oracle)]
        calls += len(chosen)
        model = train(known)
        result.model, result.labeled = model, known
    return result
