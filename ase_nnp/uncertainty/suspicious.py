"""Labels that are probably wrong: far outside a model's interval, contradicting, or with drift.

Three signs of different kinds. A label far from what a model expects, measured by the model's own
error bar (or by the spread of all residuals, where it has none); the same structure twice with
different labels; forces that do not sum to zero, which no isolated system has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.errors import AseNnpError, DatasetError
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.uncertainty.statistics.pool import composition_matrix

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Suspicion", "SuspiciousLabels", "suspicious_labels"]

Array = np.ndarray[Any, Any]

#: eV/Angstrom an atom (root mean square): a drift beyond this is no rounding.
DRIFT = 0.005
#: Angstrom: sorted distances of two structures that count as the same differ by less.
SAME = 0.02
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
#: eV an atom: labels of the same structure that differ by more contradict each other.
CONTRADICTION = 0.001


@dataclass(frozen=True)
class Suspicion:
    """One reason to look at a record.

    Attributes
    ----------
    index
        Position in the dataset.
    kind
        ``"energy"``, ``"forces"``, ``"contradiction"`` or ``"drift"``.
    score
        How far out, in error bars or, of a model without them, in usual errors; for the last two
        kinds in multiples of what is allowed.
    reason
        A sentence.
    other
        The record it contradicts.
    """

    index: int
    kind: str
    score: float
    reason: str
    other: int | None = None


@dataclass
class SuspiciousLabels:
    """Suspicions, the worst first, and what was looked at."""

    records: int
    suspicions: list[Suspicion] = field(default_factory=list)
    unread: list[tuple[int, str]] = field(default_factory=list)

    def indices(self) -> list[int]:
        """Return suspicious records without repetition, the worst first."""
        return list(dict.fromkeys(one.index for one in self.suspicions))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "records": self.records,
            "suspicions": [asdict(one) for one in self.suspicions],
            "unread": [{"index": k, "reason": reason} for k, reason in self.unread],
        }


def suspicious_labels(
    dataset: Sequence[Atoms], model: Potential | None = None, *, threshold: float = 4.0
) -> SuspiciousLabels:
    """Rank records whose labels are probably wrong.

    Parameters
    ----------
    dataset
        Structures with labels.
    model
        Total energies are compared after one shift an element, fitted robustly, since functionals
        and references differ. None looks at contradictions and drift alone.
    threshold
        Error bars from which on a label is suspicious.

    Returns
    -------
    SuspiciousLabels
        A structure that the model refuses or that cannot be read is listed under ``unread``.
    """
    result = SuspiciousLabels(len(dataset))
    frames: dict[int, Atoms] = {}
    for k in range(len(dataset)):
        try:
            own_results(dataset[k], k)
            frames[k] = dataset[k]
        except DatasetError as error:
            result.unread.append((k, str(error)))
    for k, atoms in frames.items():
        result.suspicions += _drift(k, atoms)
    result.suspicions += _contradictions(frames)
    if model is not None:
        _against_model(frames, model, threshold, result)
    result.suspicions.sort(key=lambda one: (-one.score, one.index))
    return result


def _labels(atoms: Atoms) -> dict[str, Any]:
    return dict(atoms.calc.results) if atoms.calc is not None else {}


def _drift(index: int, atoms: Atoms) -> list[Suspicion]:
    from ase.constraints import FixAtoms

    forces = _labels(atoms).get("forces")
    if forces is None or len(atoms) == 1:
        return []
    # Programs that set the forces of fixed atoms to zero leave a sum that says nothing.
    held = [c.index for c in atoms.constraints if isinstance(c, FixAtoms)]
    if held and not np.abs(forces[np.concatenate(held)]).any():
        return []
    total = float(np.linalg.norm(np.sum(forces, axis=0)))
    allowed = DRIFT * np.sqrt(len(atoms))
    if total <= allowed:
        return []
    reason = f"forces sum to {total:.3g} eV/A, with {len(atoms)} atoms at most {allowed:.2g}"
    return [Suspicion(index, "drift", total / allowed, reason)]


# ---- the same structure twice


def _contradictions(frames: dict[int, Atoms]) -> list[Suspicion]:
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for k, atoms in frames.items():
        if "energy" in _labels(atoms):
            kind = atoms.info.get("energy_kind", "")
            groups[atoms.get_chemical_formula(), tuple(atoms.pbc), str(kind)].append(k)

    suspicions = []
    for members in groups.values():
        if len(members) < 2:
            continue
        profiles = {k: _profile(frames[k]) for k in members}
        # Sorted by one number, the same structures are neighbors: no table of all pairs.
        order = sorted(members, key=lambda k: (float(profiles[k].sum()), k))
        for place, first in enumerate(order):
            for second in order[place + 1 :]:
                difference = profiles[second] - profiles[first]
                if difference.sum() > SAME * len(difference):
                    break
                if np.abs(difference).max() <= SAME:
                    suspicions += _contradiction(frames, first, second)
    return suspicions


def _profile(atoms: Atoms) -> Array:
    """Sorted distances of all pairs and to all atoms' centers, by elements, with periodicity."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    upper = np.triu_indices(len(atoms), 1)
    pairs = np.sort(atoms.numbers[np.array(upper)], axis=0)
    order = np.lexsort((distances[upper], pairs[1], pairs[0]))
    lengths = atoms.cell.lengths() if atoms.pbc.any() else np.zeros(0)
    return np.concatenate([distances[upper][order], np.sort(lengths)])


def _contradiction(frames: dict[int, Atoms], first: int, second: int) -> list[Suspicion]:
    a, b = sorted((first, second))
    energies = [float(_labels(frames[k])["energy"]) for k in (a, b)]
    per_atom = abs(energies[0] - energies[1]) / len(frames[a])
    if per_atom <= CONTRADICTION:
        return []
    reason = (
        f"the same structure as record {a} within {SAME} A, and {energies[1] - energies[0]:+.4g} eV"
    )
    return [Suspicion(b, "contradiction", per_atom / CONTRADICTION, reason, a)]


# ---- a model's opinion


def _against_model(
    frames: dict[int, Atoms], model: Potential, threshold: float, result: SuspiciousLabels
) -> None:
    wanted = [p for p in ("energy", "forces", "energy_std", "forces_std_norm") if p in
              model.outputs]  # fmt: skip
    rows: dict[int, dict[str, Any]] = {}
    predictor = Predictor(model)
    for k, atoms in frames.items():
        if not {"energy", "forces"} & set(_labels(atoms)):
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
    known = [k for k in rows if "energy" in rows[k] and "energy" in _labels(frames[k])]
    if not known:
        return []
    label = np.array([float(_labels(frames[k])["energy"]) for k in known])
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
    known = [k for k in rows if "forces" in rows[k] and "forces" in _labels(frames[k])]
    if not known:
        return []
    errors = {
        k: np.linalg.norm(_labels(frames[k])["forces"] - rows[k]["forces"], axis=1) for k in known
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
            reason = (
                f"force on atom {worst} {errors[k][worst]:.3g} eV/A from the model, "
                f"{score:.1f} {_unit(bars)}{_slip(_labels(frames[k])['forces'], rows[k]['forces'])}"
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
