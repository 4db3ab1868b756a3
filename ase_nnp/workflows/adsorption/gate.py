"""The gate of trust: why a relaxed placement is not taken for a minimum of the question.

AdsorbML's four flags (Lan et al. 2023, doi:10.1038/s41524-023-01121-5) tell where a relaxation has
left the question. They say nothing about a model that is wrong: a *hole* is an energy far below all
honest minima, at a structure that no training data held. The model's own doubt sees these, and so
does a bond that is too short for any molecule or metal. Where a model has no doubt to tell, the
bonds to the slab speak: what binds more strongly has more bonds, and longer ones (Pauling 1947,
doi:10.1021/ja01195a024), so an energy far below all others at a short bond is not to be believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.metrics.anomaly import connectivity, detect_anomalies
from ase_nnp.workflows.adsorption.fingerprints import Frame
from ase_nnp.workflows.adsorption.geometry import contacts

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["REASONS", "bond_to_slab", "doubtful", "hole", "left_the_question", "strange", "too_low"]

#: All reasons, with what they mean.
REASONS = {
    "failed": "the model or the relaxation failed",
    "not converged": "forces did not come below the threshold",
    "dissociated": "bonds inside the adsorbate broke or formed",
    "desorbed": "the adsorbate has left the surface",
    "intercalated": "the adsorbate has sunk below the surface",
    "surface changed": "bonds inside the slab broke or formed",
    "unknown to the model": "the model flags this structure as unlike what it was trained on",
    "hole": "a spurious minimum of the model: atoms inside each other, or far too low an energy "
    "where the model is unsure or a bond too short",
    "saddle": "a small push leads to a lower minimum",
}
#: No bond is shorter than this share of the sum of covalent radii; N2 has 0.77, Mo-N 0.73.
SHORTEST = 0.7
#: Angstrom below the surface atoms that it is bonded to: an intercalated atom.
BELOW = 0.3
#: Share of the model's threshold above which a structure is unknown to it all the same, if the
#: score is also so many times that of the question's other minima.
STRANGE, STRANGER = 0.5, 1.25
#: eV below the next minimum, and how much less sure than of those above: a hole.
TOO_LOW, LESS_SURE = 1.0, 1.5
#: So are such energies where the shortest bond to the slab is below this share of the covalent
#: radii, and shorter than all above; CO and NO have 0.84 and more where they are known to sit.
STRAINED = 0.83


def hole(atoms: Atoms, guests: NDArray[np.int64]) -> str:
    """Return which atoms are inside each other, in words; nothing if none are."""
    ratios = contacts(atoms, guests)
    if ratios.min() >= SHORTEST:
        return ""
    row, column = np.unravel_index(ratios.argmin(), ratios.shape)
    one, other = atoms[int(guests[row])], atoms[int(column)]
    length = atoms.get_distance(one.index, other.index, mic=True)
    return f"{one.symbol} and {other.symbol} are {length:.2f} Å apart"


def left_the_question(start: Atoms, end: Atoms, slab: Atoms) -> str:
    """Return which of AdsorbML's flags a relaxation raises first, or nothing.

    Parameters
    ----------
    start, end
        Adsorbate on slab before and after, with OC20 tags.
    slab
        The relaxed clean slab.
    """
    flags = detect_anomalies(start, end, slab)
    if flags.dissociated:
        return "dissociated"
    if flags.desorbed:
        return "desorbed"
    if flags.surface_changed:
        return "surface changed"
    return "intercalated" if flags.intercalated and _sunk(end) else ""


def _sunk(end: Atoms) -> bool:
    """Whether an adsorbate atom is below the surface atoms that it touches.

    AdsorbML's flag asks for a bond to an atom of the second layer alone, which carbon in the
    hollow of fcc(100) has while it sits above the first.
    """
    height = Frame(end).inside(end.positions)[:, 2]
    tags = end.get_tags()
    bonds = connectivity(end)
    for atom in np.flatnonzero(tags == 2):
        if not (bonds[atom] & (tags == 0)).any():
            continue
        around = bonds[atom] & (tags == 1)
        if not around.any() or height[atom] < height[around].mean() - BELOW:
            return True
    return False


def doubtful(row: Mapping[str, Any]) -> str:
    """Return why a model does not know a structure, from its own results; nothing if it does.

    Parameters
    ----------
    row
        What it gave: ``ood_flag`` and ``ood_score`` where it has them.
    """
    if not bool(row.get("ood_flag", False)):
        return ""
    score = row.get("ood_score")
    if score is None:
        return "the model's own flag"
    return f"score {float(score):.2f} above the model's threshold"


def bond_to_slab(atoms: Atoms, guests: NDArray[np.int64]) -> float:
    """Return the shortest distance from adsorbate to slab, over the sum of covalent radii."""
    hosts = np.setdiff1d(np.arange(len(atoms)), guests)
    return float(contacts(atoms, guests)[:, hosts].min())


def strange(scores: Sequence[float | None]) -> dict[int, str]:
    """Return which minima a model knows much less than the others of the same question, and why.

    Parameters
    ----------
    scores
        ``ood_score`` of the distinct minima over the threshold of the model's own flag; without
        them nothing is told.
    """
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or len(known) < 3:
        return {}
    typical = float(np.median(known))
    return {
        k: f"score {score:.2f} of the model's threshold, of the others {typical:.2f}"
        for k, score in enumerate(known)
        if score > max(STRANGE, STRANGER * typical)
    }


def too_low(
    energies: Sequence[float],
    stds: Sequence[float | None],
    bonds: Sequence[float] | None = None,
) -> dict[int, str]:
    """Return which minima lie far below all others without a reason to, and what speaks against.

    Parameters
    ----------
    energies
        eV, of the distinct minima of one question.
    stds
        Of the same; without error bars the bonds alone speak.
    bonds
        Of the same, by :func:`bond_to_slab`.
    """
    holes: dict[int, str] = {}
    order = np.argsort(energies, kind="stable").tolist()
    # One hole may have several structures: all that lie below a gap are compared with those above.
    for count in range(1, len(order)):
        below, above = order[:count], order[count:]
        if energies[below[-1]] >= energies[above[0]] - TOO_LOW:
            continue
        for one in below:
            said = _against(one, above, stds, bonds)
            if said and one not in holes:
                holes[one] = f"more than {TOO_LOW:.0f} eV below all others, {said}"
    return holes


def _against(
    one: int, above: Sequence[int], stds: Sequence[float | None], bonds: Sequence[float] | None
) -> str:
    std = stds[one]
    others = [s for s in (stds[k] for k in above) if s is not None]
    if std is not None and len(others) == len(above):
        typical = float(np.median(others))
        if std > LESS_SURE * typical:
            return f"where the model is less sure ({std:.2f} instead of {typical:.2f} eV)"
    if bonds is not None and bonds[one] < min(STRAINED, *(bonds[k] for k in above)):
        return f"at a bond of {bonds[one]:.2f} sums of covalent radii"
    return ""
