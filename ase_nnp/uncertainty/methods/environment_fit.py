"""Fit error bars by environment, calibrated by leaving kinds of structures out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.ensemble import DeepEnsemble
from ase_nnp.uncertainty.methods.environment import SCORES, EnvironmentBars
from ase_nnp.uncertainty.methods.environment_signs import atom_signs, score_table
from ase_nnp.uncertainty.methods.environment_widths import Evidence, fit_widths, gather, join
from ase_nnp.uncertainty.methods.feature_pass import FeaturePass, feature_pass, structure_means
from ase_nnp.uncertainty.methods.latent import FAR, FeatureReader
from ase_nnp.uncertainty.methods.refit import left_out_errors
from ase_nnp.uncertainty.statistics.arrays import Array
from ase_nnp.uncertainty.statistics.kinds import kind_labels, kinds_of
from ase_nnp.uncertainty.statistics.novelty import LeftOut, choose_score, left_out_distances
from ase_nnp.uncertainty.statistics.ood import KNNDistance

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["fit_environment"]

#: Held-back structures below which training structures, left out, join the calibration.
FEW = 10


def fit_environment(
    model: Potential,
    train: Sequence[Atoms],
    held: Sequence[Atoms] | None = None,
    *,
    kinds: Sequence[Any] | str | None = None,
    coverage: float = 0.9,
    false_alarms: float = 0.05,
    score: str | None = None,
    k: int = 10,
    max_points: int = 2000,
    seed: int = 0,
    data_hash: str = "",
) -> EnvironmentBars:
    """Put error bars by environment around a potential.

    Parameters
    ----------
    model
        A potential, or an uncertainty whose spread is to be one of the signs (an ensemble).
    train
        What it was trained on; labels are needed only without ``held``.
    held
        Labeled structures that trained nothing. They set the level. Without them the level is that
        of training structures whose kind the last layer has not seen: a lower bound, and warned of.
    kinds
        Kind of each training structure, or a key of ``atoms.info`` that holds it. Without it
        compositions, or clusters of features.
    coverage
        Of the intervals.
    false_alarms
        Part of structures of a known kind that the flag may mark.
    score
        Of a structure, instead of the one chosen by leaving kinds out.
    k, max_points, seed
        Neighbors, training atoms kept of each element, and the seed of draws.
    data_hash
        Digest of the labeled structures, kept with the result.
    """
    if not train:
        raise UncertaintyError("Error bars by environment need the training structures: train=...")
    if not 0 < false_alarms < 1:
        raise UncertaintyError(f"false_alarms must lie in (0, 1); found {false_alarms}.")
    if score is not None and score not in SCORES:
        raise UncertaintyError(f"score must be one of {', '.join(SCORES)}, not {score!r}.")
    if isinstance(model, DeepEnsemble):
        # Features are read by hooks, which members run together do not call.
        model = DeepEnsemble(model.potentials, mode="sequential", details=model.details)

    reader = FeatureReader.of(model, train)
    known = feature_pass(model, reader, train)
    # Features that hardly vary must not be blown up to the size of the others.
    scale = known.features.std(axis=0)
    scale = np.maximum(scale, 1e-3 * scale.max()) if scale.any() else np.ones_like(scale)
    distance = KNNDistance.fit(
        known.features / scale, known.numbers, k=k, max_points=max_points, seed=seed
    )
    distance = KNNDistance(distance.training, scale, k)

    means = structure_means(known, len(train), scale)
    labels = kind_labels(train, kinds)
    kind, names = kinds_of([a.get_chemical_formula() for a in train], means, labels, seed)
    apart = left_out_distances(
        known.features / scale, known.numbers, known.owner, kind,
        k=k, max_points=max_points, seed=seed,
    )  # fmt: skip

    # Distances below a tenth of the usual are not told apart: a power law would call them exact.
    nearest = max(0.1 * _usual(apart), 1e-12)
    apart = LeftOut(np.maximum(apart.structure, nearest), np.maximum(apart.kind, nearest))
    facts = {"nearest": nearest}

    bars = EnvironmentBars([model], reader=reader, distance=distance, facts=facts)
    evidence = gather(bars, held or [])
    honest = evidence.structures
    if honest < FEW:
        evidence = _with_training(evidence, bars, train, known, apart, kind, seed)
    folds = _folds(bars, means, kind, evidence, held or [], seed)
    widths, by_kind = fit_widths(evidence, folds, coverage, names)
    bars.set_widths(widths)

    # Both signs of the flag share the false alarms that are asked for.
    bars.remember_bonding(train, false_alarms / 2)
    assert bars.bonding is not None
    rest = false_alarms - bars.bonding.false_alarms
    chosen, threshold, table = _choose(bars, known, apart, kind, rest, score)
    bars.facts = {
        "score": chosen,
        "score_threshold": threshold,
        "score_false_alarms": false_alarms,
        "score_auroc_left_out": table,
        "kinds": names,
        "coverage": coverage,
        "calibrator": "leave-kind-out",
        "n_cal": honest,
        "level": "held-back structures" if honest else "training structures, kinds left out",
        "calibration_hash": data_hash,
        **facts,
        **by_kind,
    }
    bars.set_outputs()
    return bars


def _choose(
    bars: EnvironmentBars,
    known: FeaturePass,
    apart: LeftOut,
    kind: NDArray[np.intp],
    false_alarms: float,
    score: str | None,
) -> tuple[str, float, dict[str, float]]:
    """The score of structures, the flag's threshold, and AUROCs of kinds left out."""
    inside, outside = (_scores(bars, known, far) for far in (apart.structure, apart.kind))
    if "energy_std" in inside:
        bars.ranked = {n: torch.as_tensor(np.sort(inside[n])) for n in ("mean", "energy_std")}
        for scores in (inside, outside):
            scores["rank"] = bars.rank({n: torch.as_tensor(v) for n, v in scores.items()}).numpy()
    if score is not None and score not in inside:
        raise UncertaintyError("score='rank' needs a potential that gives energy_std.")

    best, table = choose_score(inside, outside, kind, [n for n in SCORES if n in inside])
    chosen = score or best
    # Left out with itself, a training structure is as one of a known kind that was not trained on.
    # One with an element of its own is infinitely far then; a flag from it would never fire.
    near = inside[chosen][np.isfinite(inside[chosen])]
    threshold = float(np.quantile(near, 1 - false_alarms)) if near.size else np.inf
    return chosen, threshold, {name: round(value, 4) for name, value in table.items()}


def _folds(
    bars: EnvironmentBars,
    means: Array,
    kind: NDArray[np.intp],
    evidence: Evidence,
    held: Sequence[Atoms],
    seed: int,
) -> NDArray[np.intp]:
    """Kind of each structure of the evidence: of those held back, that of the nearest mean."""
    if evidence.kind is not None:
        return evidence.kind
    # Structures held back have no kinds of their own; the nearest mean gives one.
    own = structure_means(
        feature_pass(bars.base, bars.reader, held), len(held), bars.distance.scale
    )
    centers = np.array([means[kind == k].mean(axis=0) for k in np.unique(kind)])
    near = np.linalg.norm(own[:, None] - centers, axis=2).argmin(axis=1)
    if len(np.unique(near)) > 1:
        return np.asarray(near)
    return np.random.default_rng(seed).permutation(len(held)) % min(5, len(held))


def _usual(apart: LeftOut) -> float:
    """Median distance to other structures, or to other kinds where all structures have copies."""
    everything = np.concatenate([apart.structure, apart.kind])
    largest = float(everything[np.isfinite(everything)].max(initial=0.0))
    for distances in (apart.structure, apart.kind):
        # A copy is at a distance of rounding errors, not of zero.
        apart_at_all = distances[np.isfinite(distances) & (distances > 1e-5 * largest)]
        if apart_at_all.size:
            return float(np.median(apart_at_all))
    return 0.0


def _with_training(
    evidence: Evidence,
    bars: EnvironmentBars,
    train: Sequence[Atoms],
    known: FeaturePass,
    apart: LeftOut,
    kind: NDArray[np.intp],
    seed: int,
) -> Evidence:
    """Add training structures, with distances and the last layer as if their kind were new."""
    warnings.warn(
        f"{evidence.structures} labeled structures were held back; error bars rest on training "
        "structures whose kind the last layer has not seen, which is a lower bound of errors. "
        "Give 20 or more that trained nothing: calibration=...",
        UserWarning,
        stacklevel=4,
    )
    own = gather(bars, train)
    seen = np.isfinite(apart.kind)
    far = np.minimum(np.where(seen, apart.kind, FAR), FAR)
    own = replace(own, far=far, near=known.mixing @ far, kind=kind, source=np.ones_like(own.source))
    own = _without_new_elements(_refitted(own, bars, train, kind, seed), seen, apart, known)
    if not evidence.structures:
        return replace(own, source=np.zeros_like(own.source))

    # Held-back structures are few: they join the folds of kinds by turns.
    first = replace(evidence, kind=np.arange(evidence.structures) % 5)
    return join(first, own)


def _without_new_elements(
    own: Evidence, seen: NDArray[np.bool_], apart: LeftOut, known: FeaturePass
) -> Evidence:
    """Evidence without structures that hold an element of their kind alone.

    With the kind left out such atoms are infinitely far, and so are their neighbors' means: a few
    of them at that place of a power law would flatten it.
    """
    if seen.all():
        return own
    whole = np.bincount(own.owner, ~seen, minlength=own.structures) == 0
    if whole.sum() >= FEW:
        forces = np.where(whole[own.owner][:, None], own.forces, np.nan)
        return replace(own, forces=forces, energy=np.where(whole, own.energy, np.nan))

    # Every kind has elements of its own: distances with the structure left out are what remains.
    far = np.minimum(np.where(np.isfinite(apart.structure), apart.structure, FAR), FAR)
    return replace(own, far=far, near=known.mixing @ far)


def _refitted(
    own: Evidence,
    bars: EnvironmentBars,
    train: Sequence[Atoms],
    kind: NDArray[np.intp],
    seed: int,
) -> Evidence:
    """Errors of the model as they are, or with its last layer fitted without each kind."""
    if isinstance(bars.base, UncertainPotential) and len(bars.base.members) > 1:
        return own
    # Without error bars, but with the corrections of the model: the labels hold them too.
    inner = bars.base
    while isinstance(inner, UncertainPotential):
        inner = inner.base

    has_forces = bool(np.isfinite(own.forces).any())
    # Only the ratio matters, which says how many force rows an energy is worth.
    noise = {"energy": 0.02, **({"forces": 0.06} if has_forces else {})}
    try:
        energy, forces = left_out_errors(inner, train, kind, noise, seed=seed)
    except UncertaintyError:  # no linear last layer
        return own
    missed = np.full_like(own.forces, np.nan)
    for number, rows in forces.items():
        missed[own.owner == number] = rows
    missed[np.isnan(own.forces)] = np.nan
    return replace(own, energy=energy, forces=missed)


def _scores(bars: EnvironmentBars, known: FeaturePass, far: Array) -> dict[str, Array]:
    """All scores (B,) of training structures with these distances."""
    bounded = np.minimum(np.where(np.isfinite(far), far, FAR), FAR)
    near, distance = (torch.as_tensor(x) for x in (known.mixing @ bounded, far))
    std = None if known.energy_std is None else torch.as_tensor(known.energy_std)
    sigma = distance.clamp(max=FAR)
    if "expected" in bars.widths:
        signs = atom_signs(distance.clamp(min=1e-12), near, None).numpy()
        sigma = torch.as_tensor(bars.widths["expected"](signs, known.numbers))
    count = int(known.owner[-1]) + 1
    square = torch.zeros(count, dtype=torch.float64).index_add(0, known.batch, sigma.square())
    table = score_table(distance, square, known.batch, count, std)
    return {name: values.numpy() for name, values in table.items()}
