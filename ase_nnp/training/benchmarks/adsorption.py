"""Adsorption energies of reactions: CatBench's sets, its classes of relaxations, and sites.

A reaction's energy is the sum of its structures' energies times their stoichiometry, with error
bars that know what cancels. Single points on the reference's structures are the default; relaxing
them in the model first (CatBench's way, Moon et al. 2025) raises the error of most models, and is
what sorts reactions into CatBench's classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import DatasetError
from ase_nnp.files.identity import structure_digest
from ase_nnp.models.potential import Potential
from ase_nnp.training.benchmarks.judged import Judgment, answer_of, judge
from ase_nnp.training.benchmarks.relaxed import Relaxed, relax_parts
from ase_nnp.training.benchmarks.report import BenchmarkReport
from ase_nnp.uncertainty.observables import Observable

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Reaction", "adsorption_benchmark", "classify", "reactions_of", "site_metrics"]

#: CatBench's thresholds: Angstrom, relative change of a bond, eV.
DISPLACEMENT, BOND_CHANGE, ENERGY = 0.5, 0.2, 2.0


@dataclass(frozen=True)
class Reaction:
    """One adsorption: its structures with their stoichiometry, and the reference's energy, eV."""

    name: str
    adsorbate: str
    energy: float
    parts: dict[str, Atoms]
    stoichiometry: dict[str, float]

    @property
    def adslab(self) -> str:
        """Name of the slab with the adsorbate."""
        return next(part for part in self.parts if part.endswith("star") and part != "star")


def reactions_of(dataset: Sequence[Atoms]) -> list[Reaction]:
    """Collect the reactions of a dataset of format ``reactions``.

    Raises
    ------
    DatasetError
        It has none with a stoichiometry and an adsorption energy.
    """
    structures: dict[str, dict[str, Atoms]] = defaultdict(dict)
    for atoms in dataset:
        if "reaction" in atoms.info and "part" in atoms.info:
            structures[str(atoms.info["reaction"])][str(atoms.info["part"])] = atoms

    reactions = []
    for name, parts in structures.items():
        stoichiometry = {
            part: float(atoms.info["stoichiometry"])
            for part, atoms in parts.items()
            if "stoichiometry" in atoms.info
        }
        stated = [a.info["adsorption_energy"] for a in parts.values() if _stated(a)]
        adslabs = [part for part in parts if part.endswith("star") and part != "star"]
        if stated and len(adslabs) == 1 and set(stoichiometry) == set(parts):
            adsorbate = str(parts[adslabs[0]].info.get("adsorbate", adslabs[0]))
            reactions.append(
                Reaction(name, adsorbate, float(stated[0]), dict(parts), stoichiometry)
            )
    if not reactions:
        raise DatasetError("no reaction with structures, stoichiometry and an adsorption energy")
    return reactions


def _stated(atoms: Atoms) -> bool:
    return atoms.info.get("adsorption_energy") is not None


def adsorption_benchmark(
    model: Potential,
    reactions: Sequence[Reaction],
    *,
    benchmark: str = "adsorption",
    name: str = "model",
    relax: bool = False,
    fmax: float = 0.05,
    steps: int = 999,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[BenchmarkReport, dict[str, Relaxed]]:
    """Compare a model's adsorption energies with the reference's.

    Parameters
    ----------
    model
        A potential of total energies.
    reactions
        From :func:`reactions_of`.
    benchmark, name
        For the report.
    relax
        Relax slabs and molecules in the model first, and sort reactions into CatBench's classes.
    fmax, steps
        Of the relaxation, eV/Angstrom.
    progress
        Called as ``progress(done, total)`` while relaxing.

    Returns
    -------
    report, relaxations
        The relaxations by reaction; empty for single points.
    """
    shared = _Shared()
    index = [{part: shared.add(atoms) for part, atoms in r.parts.items()} for r in reactions]
    relaxed: dict[str, Relaxed] = {}
    structures = shared.structures
    if relax:
        structures, runs = relax_parts(model, structures, fmax, steps, progress)
    judgments = judge(model, structures)

    answers = []
    for reaction, places in zip(reactions, index, strict=True):
        parts = [judgments[k] for k in places.values()]
        energy = _sum(reaction, {part: judgments[k] for part, k in places.items()})
        value = None if energy is None else energy.value
        # A single point moved nothing: it is far from the reference, or it is not.
        label = "" if value is None else _by_energy(value, reaction.energy)
        if relax:
            relaxed[reaction.name] = Relaxed.of(
                reaction.parts, {p: structures[k] for p, k in places.items()},
                {p: runs[k] for p, k in places.items()}, reaction.adslab,
            )  # fmt: skip
            label = classify(relaxed[reaction.name], value, reaction.energy, steps)
        answers.append(
            answer_of(reaction.name, reaction.adsorbate, reaction.energy, energy, parts, label)
        )
    metrics = site_metrics(reactions, [answer.prediction for answer in answers])
    report = BenchmarkReport(benchmark, "adsorption", name, answers=answers, metrics=metrics)
    normal = [abs(a.error) for a in answers if a.label == "normal"]
    report.metrics["mae_normal"] = float(np.mean(normal)) if normal else float("nan")
    return report, relaxed


class _Shared:
    """Structures that several reactions have in common are computed once."""

    def __init__(self) -> None:
        self.structures: list[Atoms] = []
        self._places: dict[str, int] = {}

    def add(self, atoms: Atoms) -> int:
        bare = atoms.copy()
        bare.info = {k: v for k, v in atoms.info.items() if k in ("charge", "spin")}
        key = structure_digest(bare)
        if key not in self._places:
            self._places[key] = len(self.structures)
            self.structures.append(bare)
        return self._places[key]


def _sum(reaction: Reaction, judgments: dict[str, Judgment]) -> Observable | None:
    total = Observable(0.0)
    for part, factor in reaction.stoichiometry.items():
        energy = judgments[part].energy
        if energy is None:
            return None
        total = total + factor * energy
    return total


def classify(relaxed: Relaxed, energy: float | None, reference: float, steps: int) -> str:
    """Return CatBench's class of a relaxation, the first of these that holds.

    ``unphysical_relaxation``: not converged, or a slab atom moved by more than 0.5 Angstrom;
    ``adsorbate_migration``: a distance of an adsorbate's atom to an atom within 6 Angstrom changed
    by more than a fifth; ``energy_anomaly``: 2 eV from the reference; ``normal``. (Its fifth class
    compares repeated runs, which are equal here.)
    """
    if energy is None or relaxed.steps >= steps or not relaxed.converged:
        return "unphysical_relaxation"
    if max(relaxed.slab_displacement, relaxed.substrate_displacement) > DISPLACEMENT:
        return "unphysical_relaxation"
    if relaxed.bond_change > BOND_CHANGE:
        return "adsorbate_migration"
    return _by_energy(energy, reference)


def _by_energy(energy: float, reference: float) -> str:
    return "energy_anomaly" if abs(energy - reference) > ENERGY else "normal"


def site_metrics(
    reactions: Sequence[Reaction], predictions: Sequence[float | None]
) -> dict[str, float]:
    """Return how well sites are ranked: reactions of one adsorbate on one slab are its sites.

    ``site_groups`` with two sites at least; ``site_best``, of how many the model's most stable
    site is the reference's; ``site_within_0.1``, of how many it lies within 0.1 eV of it;
    ``site_mae``, the mean absolute error of energies relative to each group's mean, eV.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    for reaction, prediction in zip(reactions, predictions, strict=True):
        if prediction is None or "star" not in reaction.parts:
            continue
        slab = structure_digest(_plain(reaction.parts["star"]))
        formula = reaction.parts[reaction.adslab].get_chemical_formula()
        groups[slab, reaction.adsorbate, formula].append((reaction.energy, prediction))

    best = within = 0
    errors: list[float] = []
    sites = [np.array(pairs) for pairs in groups.values() if len(pairs) > 1]
    for pairs in sites:
        gap = pairs[pairs[:, 1].argmin(), 0] - pairs[:, 0].min()
        best += gap == 0
        within += gap <= 0.1
        relative = pairs - pairs.mean(axis=0)
        errors += np.abs(relative[:, 1] - relative[:, 0]).tolist()
    if not sites:
        return {}
    return {
        "site_groups": float(len(sites)),
        "site_best": float(best),
        "site_within_0.1": float(within),
        "site_mae": float(np.mean(errors)),
    }


def _plain(atoms: Atoms) -> Atoms:
    plain: Atoms = atoms.copy()
    plain.info = {}
    return plain
