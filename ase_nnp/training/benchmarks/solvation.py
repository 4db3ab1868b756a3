"""OC25's solvation energies: four single points a case, the error of what is left of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ase_nnp.errors import DatasetError
from ase_nnp.metrics.solvation import SOLVATION_PARTS, solvation_energy
from ase_nnp.models.potential import Potential
from ase_nnp.training.benchmarks.judged import answer_of, judge
from ase_nnp.training.benchmarks.report import BenchmarkReport

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["solvation_benchmark", "solvation_cases"]


def solvation_cases(frames: Sequence[Atoms]) -> dict[str, dict[str, Atoms]]:
    """Collect complete cases by ``identifier``, their four structures by our names.

    Raises
    ------
    DatasetError
        There is none.
    """
    stored: dict[str, dict[str, Atoms]] = defaultdict(dict)
    for atoms in frames:
        if "identifier" in atoms.info and "part" in atoms.info:
            stored[str(atoms.info["identifier"])][str(atoms.info["part"])] = atoms
    cases = {}
    for name, parts in stored.items():
        prefix = min(parts, key=len)
        ours = {part: parts.get(prefix + ending) for part, ending in SOLVATION_PARTS.items()}
        whole = {part: atoms for part, atoms in ours.items() if atoms is not None}
        if len(whole) == len(SOLVATION_PARTS):
            cases[name] = whole
    if not cases:
        raise DatasetError("no case has its four structures (identifier and part in info)")
    return cases


def solvation_benchmark(
    model: Potential, frames: Sequence[Atoms], *, benchmark: str, name: str
) -> BenchmarkReport:
    """Compare solvation energies with the labels'; the brackets' errors are metrics too, eV."""
    answers = []
    sums = {"solvent_ads_energy": 0.0, "clean_ads_energy": 0.0}
    answered = 0

    for case, parts in solvation_cases(frames).items():
        truth = solvation_energy({p: a.get_potential_energy() for p, a in parts.items()})
        judgments = dict(zip(parts, judge(model, list(parts.values())), strict=True))
        values = {part: one.energy for part, one in judgments.items()}
        combined = None
        known = {part: value for part, value in values.items() if value is not None}
        if len(known) == len(parts):
            solvent = known["full"] - known["solvent_surface"]
            clean = known["adsorbate_surface"] - known["surface"]
            combined = solvent - clean
            sums["solvent_ads_energy"] += abs(solvent.value - truth["solvent_ads_energy"])
            sums["clean_ads_energy"] += abs(clean.value - truth["clean_ads_energy"])
            answered += 1
        reference = truth["solvation_energy"]
        answers.append(answer_of(case, "all", reference, combined, list(judgments.values())))

    metrics = {f"{k}_mae": v / answered for k, v in sums.items()} if answered else {}
    return BenchmarkReport(benchmark, "solvation", name, answers=answers, metrics=metrics)
