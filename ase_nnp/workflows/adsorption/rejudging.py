"""The best minima of a search, evaluated by another calculator: AdsorbML's ML+SP and ML+RX.

Lan et al. (2023), doi:10.1038/s41524-023-01121-5: a model ranks placements, and density-functional
theory (here any judge) computes the best k of them: single points, or relaxations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import ConfigError
from ase_nnp.workflows.adsorption.references import References
from ase_nnp.workflows.adsorption.result import AdsorptionResult
from ase_nnp.workflows.adsorption.stages import Stages

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["Judged", "Rejudgement", "rejudge"]


@dataclass(frozen=True)
class Judged:
    """A minimum as model and judge see it.

    Attributes
    ----------
    rank
        In the model's ranking, 0 first.
    site
        Where the model has it.
    model_energy, judge_energy
        Adsorption energies, eV; None where the judge failed.
    judge_std, judge_unknown
        Of the judge's energy, eV, where it has an error bar; structures in it, by formula, that
        the judge's own flag is raised for.
    steps
        That the judge's relaxation took; 0 for single points.
    atoms
        As the judge left it.
    """

    rank: int
    site: str
    model_energy: float
    judge_energy: float | None
    steps: int
    atoms: Atoms = field(repr=False)
    judge_std: float | None = None
    judge_unknown: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the structure."""
        names = ("rank", "site", "model_energy", "judge_energy", "judge_std", "steps")
        return {name: getattr(self, name) for name in names} | {
            "judge_unknown": list(self.judge_unknown)
        }


@dataclass(frozen=True)
class Rejudgement:
    """What a judge says of a ranking.

    Attributes
    ----------
    system
        Of the search.
    judged
        In the model's order.
    reaction
        Of both energies; each with its own gas-phase energies.
    """

    system: str
    judged: list[Judged]
    reaction: str

    @property
    def best(self) -> Judged | None:
        """The most stable one for the judge."""
        done = [one for one in self.judged if one.judge_energy is not None]
        return min(done, key=lambda one: one.judge_energy or 0.0) if done else None

    def oc20_dense(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return it as :func:`ase_nnp.metrics.adsorbml_metrics` takes ML results."""
        configs = {
            f"rank_{one.rank}": {
                "ml_energy": one.model_energy,
                "ml+dft_energy": one.judge_energy,
                "ionic_steps": one.steps + 1,
            }
            for one in self.judged
        }
        return {self.system: configs}


def rejudge(
    result: AdsorptionResult,
    calculator: Any,
    *,
    best: int = 5,
    steps: int = 0,
    fmax: float = 0.05,
) -> Rejudgement:
    """Evaluate the best minima of a search with another calculator.

    Parameters
    ----------
    result
        Of :func:`~ase_nnp.workflows.adsorption.adsorb`.
    calculator
        What :func:`~ase_nnp.load_model` takes, or any ASE calculator.
    best
        How many minima, the model's most stable first.
    steps
        0: single points of adsorbate on slab, slab and molecules as the model left them (ML+SP).
        Otherwise all of them are relaxed by the judge, in at most so many steps (ML+RX).
    fmax
        Where these relaxations end, eV/Angstrom.

    Raises
    ------
    ConfigError
        The search was made by a model of adsorption energies, whose references the judge lacks.
    """
    if best < 1 or steps < 0:
        raise ConfigError(f"best = {best}, steps = {steps}: at least 1, and 0 or more.")
    judge = as_potential(calculator)
    if not result.gas and judge.energy_kind == "total":
        raise ConfigError(
            "The search's model gives adsorption energies and has no gas-phase molecules, which "
            "a judge of total energies needs."
        )
    chosen = result.minima[:best]
    adslabs, slab, gas = [one.atoms for one in chosen], result.slab, dict(result.gas)
    taken = [0] * len(chosen)
    failed: set[int] = set()
    if steps and chosen:
        adslabs, slab, gas, taken, failed = _relaxed(judge, adslabs, slab, gas, steps, fmax)

    own = judge.energy_kind == "adsorption"
    references = References(
        result.reference, result.reaction, {} if own else result.amounts, gas, own=own
    )
    good = [k for k in range(len(chosen)) if k not in failed]
    values = references.energies(judge, [adslabs[k] for k in good], slab) if good else []
    found = dict(zip(good, values, strict=True))
    judged = [
        Judged(k, one.geometry.site, one.energy, None, taken[k], adslabs[k])
        if k not in found
        else Judged(
            k,
            one.geometry.site,
            one.energy,
            float(found[k]),
            taken[k],
            adslabs[k],
            found[k].std,
            found[k].unknown,
        )
        for k, one in enumerate(chosen)
    ]
    return Rejudgement(result.system, judged, result.reaction)


def as_potential(calculator: Any) -> Potential:
    """Return a potential from what :func:`~ase_nnp.load_model` takes, or an ASE calculator."""
    from ase_nnp.calculator.calculator import NNPCalculator
    from ase_nnp.models.files import load_model
    from ase_nnp.models.from_ase import from_ase

    if hasattr(calculator, "get_potential_energy") and not isinstance(calculator, NNPCalculator):
        return from_ase(calculator)
    return load_model(calculator)


def _relaxed(
    judge: Potential,
    adslabs: Sequence[Atoms],
    slab: Atoms,
    gas: Mapping[str, Atoms],
    steps: int,
    fmax: float,
) -> tuple[list[Atoms], Atoms, dict[str, Atoms], list[int], set[int]]:
    """All structures relaxed by the judge, from where the model left them."""
    stages = Stages(judge, None, None)
    outcomes = stages.relax("judge", [*adslabs, slab, *gas.values()], fmax=fmax, steps=steps)
    count = len(adslabs)
    relaxed = [outcome.atoms for outcome in outcomes]
    failed = {k for k in range(count) if outcomes[k].status == "failed"}
    molecules = dict(zip(gas, relaxed[count + 1 :], strict=True))
    taken = [outcome.steps for outcome in outcomes[:count]]
    return relaxed[:count], relaxed[count], molecules, taken, failed
