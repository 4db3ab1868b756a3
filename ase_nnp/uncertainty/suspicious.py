"""Labels that are probably wrong: far outside a model's interval, contradicting, or with drift.

Three signs of different kinds. A label far from what a model expects, measured by the model's own
error bar (or by the spread of all residuals, where it has none); the same structure twice with
different labels; forces that do not sum to zero, which no isolated system has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.errors import DatasetError
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.suspicions import Suspicion, SuspiciousLabels, labels_of_record
from ase_nnp.uncertainty.suspicious_by_model import judge_by_model

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Suspicion", "SuspiciousLabels", "suspicious_labels"]

Array = np.ndarray[Any, Any]

#: eV/Angstrom an atom (root mean square): a drift beyond this is no rounding.
DRIFT = 0.005
#: Angstrom: sorted distances of two structures that count as the same differ by less.
SAME = 0.02
#: eV an atom: labels of the same structure that differ by more contradict each other.
CONTRADICTION = 0.001


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
        judge_by_model(frames, model, threshold, result)
    result.suspicions.sort(key=lambda one: (-one.score, one.index))
    return result


def _drift(index: int, atoms: Atoms) -> list[Suspicion]:
    from ase.constraints import FixAtoms

    forces = labels_of_record(atoms).get("forces")
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
        if "energy" in labels_of_record(atoms):
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
    energies = [float(labels_of_record(frames[k])["energy"]) for k in (a, b)]
    per_atom = abs(energies[0] - energies[1]) / len(frames[a])
    if per_atom <= CONTRADICTION:
        return []
    reason = (
        f"the same structure as record {a} within {SAME} A, and {energies[1] - energies[0]:+.4g} eV"
    )
    return [Suspicion(b, "contradiction", per_atom / CONTRADICTION, reason, a)]
