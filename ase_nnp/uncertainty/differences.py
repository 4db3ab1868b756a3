r"""Energies of a model as observables that know what cancels in their differences.

Each carries its value for each member of an ensemble (or each head of a shallow one), or, of a last
layer with weights of covariance :math:`S S^T`, the row :math:`S^T \Phi` of its features, whose
products with other rows are the covariances of the method exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms

from ase_nnp.errors import CheckpointError
from ase_nnp.models.files import model_hash
from ase_nnp.models.modes import evaluating
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.models.sums import Sum
from ase_nnp.models.tensors import tensor_hash
from ase_nnp.uncertainty.flags import Flags, flag_of
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.ensemble import DeepEnsemble, Pool
from ase_nnp.uncertainty.methods.jacobian import plain_features
from ase_nnp.uncertainty.methods.last_layer import LastLayerLaplace
from ase_nnp.uncertainty.methods.shallow import ShallowEnsemble
from ase_nnp.uncertainty.observables import (
    Observable,
    Source,
    as_observable,
    combine,
    covariance,
    inner,
)
from ase_nnp.uncertainty.statistics.arrays import Array

# What one does with the energies comes from the same place.
__all__ = ["Observable", "Source", "as_observable", "combine", "covariance", "energies"]

#: Two calls with one model give observables of one source.
_KEYS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _key(model: Potential) -> str:
    if model not in _KEYS:
        _KEYS[model] = _content(model) or uuid4().hex
    return _KEYS[model]


def _source(model: Potential, kind: str) -> Source:
    return Source(kind, model.unwrapped.family or type(model).__name__, _key(model))


def _flags(model: Potential, atoms: Atoms, row: Mapping[str, Any]) -> Flags:
    """Return the flag of one structure, from what the model says of it."""
    return {flag_of(_key(model), atoms): 1.0} if bool(row.get("ood_flag", False)) else {}


def _asked(model: Potential, *names: str) -> list[str]:
    """Return names of properties, and that of the flag where the model has one."""
    return [*names, *(["ood_flag"] if "ood_flag" in model.outputs else [])]


def _content(model: Potential) -> str:
    """Return a hash of a model with the uncertainties around it; nothing if content is not all.

    What two processes compute with one model is wrong together, though each has loaded its own.
    """
    parts, plain = [], [model]
    try:
        while isinstance(model, UncertainPotential):
            tensors, values = model.state()
            parts += [model.method, tensor_hash(tensors), json.dumps(values, default=str)]
            plain, model = list(model.potentials), model.base
        # Where no family made it, weights and configuration may not be all that it is.
        if not all(member.family for member in plain):
            return ""
        parts += [model_hash(member) for member in plain]
    except CheckpointError:  # no file can hold it, as it says itself
        return ""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def energies(model: Potential, structures: Sequence[Atoms]) -> list[Observable]:
    """Return the energies of structures as observables with the model's own covariances.

    Parameters
    ----------
    model
        An ensemble or shallow ensemble: values of every member. A last layer: its exact
        covariances. An uncertainty with a method ``energy_rows(graph)``, which gives rows (B, d)
        whose products are covariances up to a factor for each structure: the correlations of the
        rows, with the model's own ``energy_std``. Another uncertainty: stds that are taken to be
        independent. Any other potential: values whose error is unknown. Two models' errors are
        independent. A sum: those of its terms; corrections are formulas without an error.
    structures
        Of any sizes.

    Notes
    -----
    A calibration of the energy acts on every std; correlations stay as they are, but for the part
    that :func:`~ase_nnp.uncertainty.calibrate_differences` found not to be shared.
    """
    structures = list(structures)
    if isinstance(model, Sum):
        return _of_a_sum(model, structures)
    observables = _plain_energies(model, structures)
    shared = float(getattr(model, "shared", 1.0))
    return observables if shared == 1 else [_partly_shared(one, shared) for one in observables]


def _partly_shared(one: Observable, shared: float) -> Observable:
    """Keep the std; of covariances with others only the part ``shared`` is left."""
    if one.std is None:
        return one
    parts = (one * math.sqrt(shared)).parts
    rest = np.array([math.sqrt(1 - shared) * one.std])
    own = {Source("rest", "the part not shared"): rest}
    return Observable(one.value, {**parts, **own}, one.flags)


def _plain_energies(model: Potential, structures: Sequence[Atoms]) -> list[Observable]:
    """Return energies with all covariances that the model states."""
    known = "energy_std" in model.outputs
    if known and hasattr(model, "energy_rows"):
        return _of_stds_and_rows(model, structures)
    if isinstance(model, DeepEnsemble):
        return _of_rows(model, structures, "members", *_ensemble_rows(model, structures))
    if isinstance(model, (ShallowEnsemble, LastLayerLaplace)):
        kind = "members" if isinstance(model, ShallowEnsemble) else "linear"
        return _of_rows(model, structures, kind, *_feature_rows(model, structures))

    wanted = _asked(model, "energy", *(["energy_std"] if known else []))
    results = Predictor(model)(structures, wanted, progress=False)
    observables = []
    for atoms, row in zip(structures, results, strict=True):
        # Each structure's own source: nothing is known of what two of them have in common.
        own = Source("independent") if known else _source(model, "unknown")
        parts = {own: np.array([float(row["energy_std"]) if known else 0.0])}
        observables.append(Observable(float(row["energy"]), parts, _flags(model, atoms, row)))
    return observables


def _of_a_sum(model: Sum, structures: Sequence[Atoms]) -> list[Observable]:
    """Return weighted sums of the terms' observables."""
    corrections = len(model.corrections) - len(model.base.corrections)
    total = [Observable(0.0)] * len(structures)
    for number, _, weight, term in model.terms():
        if number >= len(model.members) - corrections:
            rows = Predictor(term)(structures, ("energy",), progress=False)
            values = [Observable(float(row["energy"])) for row in rows]
        else:
            values = energies(term, structures)
        total = [one + weight * value for one, value in zip(total, values, strict=True)]
    return total


def _ensemble_rows(model: DeepEnsemble, structures: Sequence[Atoms]) -> tuple[Array, Array]:
    """Return means (K,) and deviations (K, M) of the members."""
    table = np.array(
        [
            [
                float(row["energy"])
                for row in Predictor(one)(structures, ("energy",), progress=False)
            ]
            for one in model.potentials
        ]
    )
    if isinstance(model, Pool):
        shifts = model.shifts.double().cpu().numpy()
        table -= np.array([shifts[:, atoms.numbers].sum(axis=1) for atoms in structures]).T
    return table.mean(axis=0), (table - table.mean(axis=0)).T


def _feature_rows(
    model: ShallowEnsemble | LastLayerLaplace, structures: Sequence[Atoms]
) -> tuple[Array, Array]:
    """Return values (K,) and rows (K, d) of models that are linear in their last layer."""
    values, rows = [], []
    for atoms in structures:
        graph = model.make_graph([atoms])
        with evaluating(model):
            result, _, total = plain_features(model.base, model.layer, graph, ("energy",))
        energy, features = float(result["energy"].detach()[0]), total.detach().double()[0]
        if isinstance(model, ShallowEnsemble):
            heads = (features @ model.shifts.to(features.device).T).cpu().numpy()
            values.append(energy + heads.mean())
            rows.append(heads - heads.mean())
        else:
            values.append(energy)
            rows.append((features @ model.factor.to(features.device)).cpu().numpy())
    return np.array(values), np.array(rows)


def _of_stds_and_rows(model: Potential, structures: Sequence[Atoms]) -> list[Observable]:
    """Return energies whose stds are the model's and whose correlations are those of its rows."""
    source, observables = _source(model, "linear"), []
    wanted = _asked(model, "energy", "energy_std")
    results = Predictor(model)(structures, wanted, progress=False)
    make_rows: Any = model.energy_rows  # type: ignore[attr-defined]
    for atoms, result in zip(structures, results, strict=True):
        with evaluating(model):
            row = make_rows(model.make_graph([atoms]))[0].detach().double().cpu().numpy()
        # The rows know correlations, and the calibrated std the size.
        length = math.sqrt(float(row @ row))
        own = row * (float(result["energy_std"]) / length) if length else row
        flags = _flags(model, atoms, result)
        observables.append(Observable(float(result["energy"]), {source: own}, flags))
    return observables


def _of_rows(
    model: DeepEnsemble | ShallowEnsemble | LastLayerLaplace,
    structures: Sequence[Atoms],
    kind: str,
    values: Array,
    rows: Array,
) -> list[Observable]:
    source = _source(model, kind)
    said: list[dict[str, Any]] = [{} for _ in structures]
    if wanted := _asked(model):
        said = Predictor(model)(structures, wanted, progress=False)
    calibration = model.calibration.properties.get("energy")
    observables = []
    for atoms, value, row, answer in zip(structures, values, rows, said, strict=True):
        raw = math.sqrt(inner(source, row, row))
        factor = 1.0 if calibration is None or not raw else float(calibration.std(raw)) / raw
        flags = _flags(model, atoms, answer)
        observables.append(Observable(float(value), {source: factor * row}, flags))
    return observables
