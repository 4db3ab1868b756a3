r"""Error bars of differences: energies of one model as observables that know what cancels.

Two energies of one model are wrong together, so the variance of their difference is

.. math:: \mathrm{Var}(A - B) = \mathrm{Var}(A) + \mathrm{Var}(B) - 2\,\mathrm{Cov}(A, B)

and not the sum of the first two. Each :class:`Observable` carries what its covariance with others
is made of: its value for each member of an ensemble (or each head of a shallow one), or, of a last
layer with weights of covariance :math:`S S^T`, the row :math:`S^T \Phi` of its features, whose
products with other rows are the covariances of the method exactly. Sums, differences and multiples
are exact; :func:`combine` evaluates any other function. Where the model's own flag is raised for a
structure, every number that is made of its energy says so (:attr:`Observable.unknown`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms

from ase_nnp.errors import CheckpointError, UncertaintyError
from ase_nnp.models.files import model_hash
from ase_nnp.models.modes import evaluating
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.models.sums import Sum
from ase_nnp.models.tensors import tensor_hash
from ase_nnp.uncertainty.flags import Flags, added, flag_of, scaled, through_a_function
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.ensemble import DeepEnsemble, Pool
from ase_nnp.uncertainty.methods.jacobian import plain_features
from ase_nnp.uncertainty.methods.last_layer import LastLayerLaplace
from ase_nnp.uncertainty.methods.shallow import ShallowEnsemble
from ase_nnp.uncertainty.statistics.arrays import Array
from ase_nnp.uncertainty.statistics.moments import NOT_COVERED

__all__ = ["Observable", "Source", "as_observable", "combine", "covariance", "energies"]


@dataclass(frozen=True)
class Source:
    """One model's doubt: observables with the same source are wrong together.

    Attributes
    ----------
    kind
        ``"members"``, ``"linear"``, ``"independent"`` (a std without covariances) or ``"unknown"``
        (a model without uncertainty).
    name
        For messages.
    key
        Tells sources apart, also those that came from another process; its own by default.
    """

    kind: str
    name: str = ""
    key: str = field(default_factory=lambda: uuid4().hex, repr=False)


@dataclass(frozen=True)
class Observable:
    """A number that models gave, with its error bar and what that has in common with others.

    Adding, subtracting, and multiplying by plain numbers keep all correlations.

    Attributes
    ----------
    value
        The number.
    parts
        For each source of doubt: deviations (M,) of the members from the value, or a row (d,)
        whose squares add up to the variance.
    flags
        For each structure that the model's own flag is raised for, the factor of its energy.
    """

    value: float
    parts: Mapping[Source, Array] = field(default_factory=dict, repr=False)
    flags: Flags = field(default_factory=dict, repr=False)

    def __float__(self) -> float:
        return float(self.value)

    def __add__(self, other: Observable | float) -> Observable:
        right = as_observable(other)
        parts = dict(self.parts)
        for source, vector in right.parts.items():
            parts[source] = parts[source] + vector if source in parts else vector
        return Observable(self.value + right.value, parts, added(self.flags, right.flags))

    def __mul__(self, factor: float) -> Observable:
        if isinstance(factor, Observable):
            raise UncertaintyError("A product of two observables is not linear; use combine(...).")
        parts = {source: factor * vector for source, vector in self.parts.items()}
        return Observable(factor * self.value, parts, scaled(self.flags, factor))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Observable:
        return -1.0 * self

    def __sub__(self, other: Observable | float) -> Observable:
        return self + -1.0 * as_observable(other)

    def __rsub__(self, other: float) -> Observable:
        return -self + other

    def __truediv__(self, divisor: float) -> Observable:
        return self * (1.0 / divisor)

    def covariance(self, other: Observable) -> float:
        """Return the covariance with another observable, in the product of their units."""
        shared = [source for source in self.parts if source in other.parts]
        return math.fsum(_inner(s, self.parts[s], other.parts[s]) for s in shared)

    @property
    def std(self) -> float | None:
        """Standard deviation; None where a model without uncertainty has its part in it."""
        if any(source.kind == "unknown" for source in self.parts):
            return None
        return math.sqrt(max(0.0, self.covariance(self)))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Formulas of the structures in it that the model calls outside of what it knows."""
        return tuple(sorted({flag.name for flag in self.flags}))

    @property
    def members(self) -> Array | None:
        """Each member's value, (M,); None unless one ensemble is the only source."""
        sources = list(self.parts)
        if len(sources) != 1 or sources[0].kind != "members":
            return None
        return self.value + self.parts[sources[0]]

    def interval(self, coverage: float = 0.9) -> tuple[float, float] | None:
        """Return the central interval: Student's t for the few members of one ensemble.

        As :func:`ase_nnp.workflows.propagate` draws it, for a new draw of the model.
        """
        from scipy import stats

        if not 0 < coverage < 1:
            raise UncertaintyError(f"coverage must lie between 0 and 1; found {coverage}.")
        if self.std is None:
            return None
        members = self.members
        if members is None:
            center, half = self.value, stats.norm.ppf(0.5 + coverage / 2) * self.std
        else:
            count, center = len(members), float(members.mean())
            half = stats.t.ppf(0.5 + coverage / 2, count - 1) * self.std * math.sqrt(1 + 1 / count)
        return center - float(half), center + float(half)

    @property
    def covers(self) -> str:
        """A sentence on what the error bar is, or why there is none."""
        kinds = {source.kind for source in self.parts}
        if not kinds:
            return "No model's error enters this number."
        if "unknown" in kinds:
            return "No ±: a model without uncertainty has its part in it."

        words = {
            "members": "its value for every member of an ensemble",
            "linear": "the covariance of the last layer's weights",
            "independent": "standard deviations of single energies, taken to be uncorrelated: "
            "what errors have in common does not cancel",
        }

        said = " and ".join(
            words[kind] for kind in ("members", "linear", "independent") if kind in kinds
        )
        return f"± is from {said}. {NOT_COVERED}"

    def __str__(self) -> str:
        bar = "no error bar" if self.std is None else f"± {self.std:.4f}"
        doubt = f"; unknown to the model: {', '.join(self.unknown)}" if self.flags else ""
        return f"{self.value:.4f} {bar}{doubt}"


def as_observable(value: Observable | float) -> Observable:
    """Return a plain number as an observable without any error."""
    return value if isinstance(value, Observable) else Observable(float(value))


def _inner(source: Source, a: Array, b: Array) -> float:
    if source.kind == "members":
        return float((a - a.mean()) @ (b - b.mean()) / (len(a) - 1))
    return float(a @ b)


def covariance(observables: Sequence[Observable]) -> Array:
    """Return the covariance matrix (K, K) of observables."""
    return np.array([[a.covariance(b) for b in observables] for a in observables])


def combine(
    function: Callable[..., float], *observables: Observable | float, step: float = 1e-5
) -> Observable:
    """Return ``function(*observables)`` with its error bar.

    Where one ensemble is the only source, the function is evaluated for every member (a maximum
    may lie elsewhere for each). Otherwise its error is propagated in first order.

    Parameters
    ----------
    function
        Takes as many numbers as there are observables and returns one.
    *observables
        Its arguments; plain numbers have no error.
    step
        Of the numerical gradient, in the observables' units.
    """
    given = [as_observable(one) for one in observables]
    values = np.array([one.value for one in given])
    sources = list(dict.fromkeys(source for one in given for source in one.parts))
    center = float(function(*values))
    flags = through_a_function(one.flags for one in given)

    if len(sources) == 1 and sources[0].kind == "members":
        rows = [one.parts.get(sources[0], 0.0) + np.zeros(_length(given)) for one in given]
        members = [float(function(*(values + shift))) for shift in np.transpose(rows)]
        return Observable(center, {sources[0]: np.array(members) - center}, flags)

    result = Observable(center)
    for k, one in enumerate(given):
        if one.parts:
            move = step * np.eye(len(given))[k]
            slope = (function(*(values + move)) - function(*(values - move))) / (2 * step)
            result = result + (one - one.value) * float(slope)
    return Observable(result.value, result.parts, flags)


def _length(observables: Iterable[Observable]) -> int:
    return max(len(vector) for one in observables for vector in one.parts.values())


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
    own = {Source("independent", "the part not shared"): rest}
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
        raw = math.sqrt(_inner(source, row, row))
        factor = 1.0 if calibration is None or not raw else float(calibration.std(raw)) / raw
        flags = _flags(model, atoms, answer)
        observables.append(Observable(float(value), {source: factor * row}, flags))
    return observables
