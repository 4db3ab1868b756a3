"""OC20's tasks and AdsorbML's placements as benchmarks: energies with bars beside their scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.metrics import adsorbml_metrics, is2re_metrics, is2rs_metrics, s2ef_metrics
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.training.benchmarks.judged import answer_of, judge
from ase_nnp.training.benchmarks.relaxed import relax_parts
from ase_nnp.training.benchmarks.report import Answer, BenchmarkReport

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["is2re_benchmark", "placements_benchmark", "s2ef_benchmark"]

Progress = Callable[[int, int], None]


def _check_kind(model: Potential, kind: str) -> None:
    if model.energy_kind not in (kind, "none"):
        raise ConfigError(
            f"The labels are {kind} energies and the model gives {model.energy_kind} ones; give "
            "reference energies (references=, --energy-kind), or another model."
        )


def _fixed(atoms: Atoms) -> np.ndarray:  # type: ignore[type-arg]
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), int)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = 1
    return fixed


def s2ef_benchmark(
    model: Potential, frames: Sequence[Atoms], *, kind: str, benchmark: str, name: str, split: str
) -> BenchmarkReport:
    """Compare energies and forces of structures with their labels; scores as OC20 defines them."""
    _check_kind(model, kind)
    labeled = [a for a in frames if a.calc is not None and "energy" in a.calc.results]
    if not labeled:
        raise DatasetError("no structure has an energy to compare with")
    answers = [
        answer_of(str(k), str(a.info.get("split", split)), float(a.calc.results["energy"]),
                  one.energy, [one])
        for k, (a, one) in enumerate(zip(labeled, judge(model, labeled), strict=True))
    ]  # fmt: skip
    report = BenchmarkReport(benchmark, "s2ef", name, answers=answers)

    known = [
        (atoms, answer)
        for atoms, answer in zip(labeled, answers, strict=True)
        if answer.prediction is not None and "forces" in atoms.calc.results
    ]
    if known and "forces" in model.outputs:
        rows = Predictor(model)([a for a, _ in known], ("energy", "forces"), progress=False)
        report.metrics |= s2ef_metrics(
            [float(row["energy"]) for row in rows],
            [answer.reference for _, answer in known],
            np.concatenate([row["forces"] for row in rows]),
            np.concatenate([a.calc.results["forces"] for a, _ in known]),
            [len(a) for a, _ in known],
            np.concatenate([_fixed(a) for a, _ in known]),
        )
    return report


def is2re_benchmark(
    model: Potential,
    frames: Sequence[Atoms],
    *,
    benchmark: str,
    name: str,
    split: str,
    relax: bool = False,
    fmax: float = 0.05,
    steps: int = 200,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Compare energies of relaxed structures with ``y_relaxed``, and structures with theirs.

    Without ``relax`` the model answers for the initial structure (direct IS2RE); with it the
    relaxed structures are compared too (IS2RS).
    """
    _check_kind(model, "adsorption")
    frames = [a for a in frames if "y_relaxed" in a.info]
    if not frames:
        raise DatasetError("no structure has an energy 'y_relaxed' to compare with")
    structures: list[Any] = list(frames)
    if relax:
        structures, _ = relax_parts(model, [_bare(a) for a in frames], fmax, steps, progress)
    answers = [
        answer_of(str(a.info.get("sid", k)), str(a.info.get("split", split)),
                  float(a.info["y_relaxed"]), one.energy, [one])
        for k, (a, one) in enumerate(zip(frames, judge(model, structures), strict=True))
    ]  # fmt: skip
    report = BenchmarkReport(benchmark, "is2re", name, answers=answers)

    known = [a for a in answers if a.prediction is not None]
    if known:
        report.metrics |= is2re_metrics([a.prediction for a in known], [a.reference for a in known])
    if relax and any("pos_relaxed" in before.info for before in frames):
        report.metrics |= is2rs_metrics(
            {
                "pos_pred": after.positions,
                "pos_target": before.info["pos_relaxed"],
                "cell": np.asarray(before.cell),
                "pbc": before.pbc,
                "fixed": _fixed(before),
            }
            for before, after in zip(frames, structures, strict=True)
            if "pos_relaxed" in before.info
        )
    return report


def _bare(atoms: Atoms) -> Atoms:
    bare: Atoms = atoms.copy()
    bare.info = {k: v for k, v in atoms.info.items() if k in ("charge", "spin")}
    return bare


def placements_benchmark(
    model: Potential, frames: Sequence[Atoms], *, benchmark: str, name: str
) -> BenchmarkReport:
    """Choose the best of many placements, as AdsorbML does with given structures.

    Frames carry ``system_id``, ``config_id`` and ``adsorption_energy`` in ``info``. The model ranks
    the placements of each system; success at k is that the best by the reference of its k lowest
    lies at most 0.1 eV above the best of all.
    """
    systems: dict[str, dict[str, tuple[float, Atoms]]] = defaultdict(dict)
    for atoms in frames:
        info = atoms.info
        if {"system_id", "config_id", "adsorption_energy"} <= set(info):
            value = float(info["adsorption_energy"])
            systems[str(info["system_id"])][str(info["config_id"])] = (value, atoms)
    if not systems:
        raise DatasetError("no placements: system_id, config_id and adsorption_energy in info")

    answers: list[Answer] = []
    ranked: dict[str, dict[str, dict[str, float]]] = {}
    for system, configs in systems.items():
        judgments = judge(model, [atoms for _, atoms in configs.values()])
        ranked[system] = {}
        for (config, (value, _)), one in zip(configs.items(), judgments, strict=True):
            answers.append(answer_of(f"{system}/{config}", system, value, one.energy, [one]))
            if one.energy is not None:
                ranked[system][config] = {
                    "ml_energy": one.energy.value,
                    "ml+dft_energy": value,
                    "scf_steps": 0,
                    "ionic_steps": 0,
                }
    targets = {s: [(c, value) for c, (value, _) in configs.items()] for s, configs in
               systems.items()}  # fmt: skip
    scores = adsorbml_metrics(targets, ranked)
    numbers = {f"success_at_{k}": float(row["success_rate"]) for k, row in scores["topk"].items()}
    numbers["systems"] = float(len(targets))
    return BenchmarkReport(benchmark, "adsorbml", name, answers=answers, metrics=numbers)
