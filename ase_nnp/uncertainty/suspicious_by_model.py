"""Labels far from what a model expects, in its error bars or in its usual errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import AseNnpError
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.uncertainty.statistics.pool import composition_matrix
from ase_nnp.uncertainty.suspicions import Suspicion, SuspiciousLabels, labels_of_record

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["judge_by_model"]

Array = np.ndarray[Any, Any]

#: Forces in other units or of the other sign, as multiples of those in eV/Angstrom.
SLIPS = {
    "of the other sign": -1.0,
    "in kcal/mol/A": 23.0605,
    "in kJ/mol/A": 96.4853,
    "in meV/A": 1000.0,
    "in Hartree/A": 1 / 27.2114,
    "in Hartree/bohr": 1 / 51.4221,
    "in Ry/bohr": 1 / 25.7110,
}
#: Fewer atoms than this do not tell how errors grow with forces.
ENOUGH = 20


def judge_by_model(
    frames: dict[int, Atoms], model: Potential, threshold: float, result: SuspiciousLabels
) -> None:
    """Add what a model finds suspicious, and what it cannot judge, to a result."""
    wanted = [p for p in ("energy", "forces", "energy_std", "forces_std_norm") if p in
              model.outputs]  # fmt: skip
    rows: dict[int, dict[str, Any]] = {}
    predictor = Predictor(model)
    for k, atoms in frames.items():
        if not {"energy", "forces"} & set(labels_of_record(atoms)):
            continue
        try:
            rows[k] = predictor([atoms], wanted, progress=False)[0]
        except AseNnpError as error:
            result.unread.append((k, str(error)))
    result.suspicions += _energies(frames, rows, threshold)
    result.suspicions += _forces(frames, rows, threshold)


def _energies(
    frames: dict[int, Atoms], rows: dict[int, dict[str, Any]], threshold: float
) -> list[Suspicion]:
    known = [k for k in rows if "energy" in rows[k] and "energy" in labels_of_record(frames[k])]
    if not known:
        return []
    label = np.array([float(labels_of_record(frames[k])["energy"]) for k in known])
    difference = label - np.array([float(rows[k]["energy"]) for k in known])
    sizes = np.array([len(frames[k]) for k in known], float)
    residual = _without_shifts(difference, [frames[k].numbers for k in known]) / sizes

    bars = _bars([rows[k].get("energy_std") for k in known]) / sizes
    spread = _spread(residual)
    # A bar of a model on another scale may be too small for all: then the spread counts.
    scale = np.where(np.isfinite(bars), np.maximum(bars, spread), spread)
    scores = np.abs(residual) / scale
    return [
        Suspicion(
            k,
            "energy",
            float(score),
            f"energy {1e3 * value:+.1f} meV an atom from the model, {score:.1f} "
            f"{_unit(rows[k].get('energy_std'))}",
        )
        for k, value, score in zip(known, residual, scores, strict=True)
        if score > threshold
    ]


def _without_shifts(difference: Array, numbers: Sequence[Array]) -> Array:
    """Take off one shift an element, by least squares that outliers do not draw."""
    counts, _ = composition_matrix(list(numbers))
    if len(difference) < 2 * counts.shape[1]:
        atoms = np.array([len(z) for z in numbers], float)
        per_atom: Array = difference / atoms
        return np.asarray((per_atom - np.median(per_atom)) * atoms)

    # Reweighted least squares: one wrong label in plain ones shifts its whole composition.
    weight = np.ones(len(difference))
    sizes = counts.sum(axis=1)
    for _ in range(30):
        solution, *_ = np.linalg.lstsq(
            counts * (weight / sizes)[:, None], difference * weight / sizes, rcond=None
        )
        residual = (difference - counts @ solution) / sizes
        # Tukey's weights vanish at 4.7 robust standard deviations.
        reduced = np.clip(np.abs(residual) / (4.7 * _spread(residual)), 0, 1)
        weight = 1 - reduced**2
    return np.asarray(difference - counts @ solution)


def _spread(values: Array) -> float:
    """Robust standard deviation: 1.4826 times the median absolute deviation."""
    mad = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return max(mad, 1e-6)


def _bars(given: Sequence[Any]) -> Array:
    return np.array([np.nan if one is None else float(one) for one in given])


def _forces(
    frames: dict[int, Atoms], rows: dict[int, dict[str, Any]], threshold: float
) -> list[Suspicion]:
    known = [k for k in rows if "forces" in rows[k] and "forces" in labels_of_record(frames[k])]
    if not known:
        return []
    errors = {
        k: np.linalg.norm(labels_of_record(frames[k])["forces"] - rows[k]["forces"], axis=1)
        for k in known
    }
    predicted = {k: np.linalg.norm(rows[k]["forces"], axis=1) for k in known}
    everything = np.concatenate(list(errors.values()))
    # The median of a chi-square with three degrees of freedom is 2.366.
    usual = max(float(np.sqrt(np.median(everything**2) / 2.366 * 3)), 1e-6)
    share = _share(everything, np.concatenate(list(predicted.values())), usual)

    suspicions = []
    for k in known:
        bars = rows[k].get("forces_std_norm")
        # Of a prediction, not of the label: a label in another unit must not excuse itself.
        plain = np.hypot(usual, share * predicted[k])
        scale = plain if bars is None else np.maximum(bars, usual)
        worst = int((errors[k] / scale).argmax())
        score = float(errors[k][worst] / scale[worst])
        if score > threshold:
            slip = _slip(labels_of_record(frames[k])["forces"], rows[k]["forces"])
            reason = (
                f"force on atom {worst} {errors[k][worst]:.3g} eV/A from the model, "
                f"{score:.1f} {_unit(bars)}{slip}"
            )
            suspicions.append(Suspicion(k, "forces", score, reason))
    return suspicions


def _share(errors: Array, forces: Array, usual: float) -> float:
    """How large errors usually are beside large forces, which models get wrong by more."""
    large = forces > 3 * usual
    if large.sum() < ENOUGH:
        return 0.0
    return float(np.sqrt(np.median((errors[large] / forces[large]) ** 2) / 2.366 * 3))


def _unit(bars: Any) -> str:
    return "times the usual error" if bars is None else "error bars"


def _slip(label: Array, predicted: Array) -> str:
    """Say which unit or sign would explain forces (N, 3) that are a multiple of the model's."""
    square = float((predicted**2).sum())
    factor = float((label * predicted).sum()) / square if square > 0 else 0.0
    if not factor or np.linalg.norm(label - factor * predicted) > 0.3 * np.linalg.norm(label):
        return ""
    close = {name: abs(factor / value - 1) for name, value in SLIPS.items()}
    name = min(close, key=close.__getitem__)
    return f"; {factor:.3g} times the model's forces, as if {name}" if close[name] < 0.15 else ""
