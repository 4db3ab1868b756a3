"""From potentials and data to a calibrated uncertainty, and onto a model."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.errors import CheckpointError, ConfigError, UncertaintyError
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.models.sums import Sum
from ase_nnp.registry.family import UncertaintyMethod
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.statistics.calibrated import Calibration, check_factors, fit_calibration

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["attach", "calibrate", "data_hash", "fit", "labels_of", "list_methods", "wrap"]


def list_methods() -> dict[str, UncertaintyMethod]:
    """Every uncertainty method by name: the built-in ones and those of plugins."""
    from ase_nnp.registry.installed import installed
    from ase_nnp.uncertainty.plugin import METHODS

    return {m.name: m for m in METHODS} | dict(installed().uncertainties)


@usual_default_dtype()
def wrap(
    method: str, potentials: Potential | Sequence[Potential], **options: Any
) -> UncertainPotential:
    """Wrap one or several potentials in a method, by its name; not yet calibrated.

    Raises
    ------
    ConfigError
        An unknown method, or options that it does not take.
    """

    methods = list_methods()
    if method not in methods:
        raise ConfigError(
            f"no uncertainty method is named '{method}'. There are: {', '.join(sorted(methods))}."
        )

    members = [potentials] if isinstance(potentials, Potential) else list(potentials)
    # A plugin's method has a signature of its own, which says what options it takes.
    try:
        wrapped = methods[method].wrap(members, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise ConfigError(
                f"The method '{method}' does not take this option: {error}"
            ) from error
        raise
    return wrapped  # type: ignore[return-value]


def labels_of(structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    """Energies and forces that structures carry, as far as they all have them."""
    rows: list[dict[str, Any]] = []
    for number, atoms in enumerate(structures):
        results = own_results(atoms, number)
        if not results:
            raise UncertaintyError(
                f"Structure {number} has no labels (no calculator with results)."
            )
        rows.append({k: results[k] for k in ("energy", "forces") if k in results})
    # A label that some structures lack would calibrate on a part of them without a word.
    shared = set.intersection(*(set(row) for row in rows)) if rows else set()
    if not shared:
        raise UncertaintyError("The structures share no label: neither energy nor forces.")
    return [{k: row[k] for k in ("energy", "forces") if k in shared} for row in rows]


def data_hash(structures: Sequence[Atoms]) -> str:
    """SHA-256 over numbers, positions, cells, periodicity and labels, in order."""
    digest = hashlib.sha256()
    for atoms in structures:
        for array in (atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
        if atoms.calc is not None:
            for name in ("energy", "forces"):
                if name in atoms.calc.results:
                    digest.update(np.asarray(atoms.calc.results[name], dtype=float).tobytes())
    return digest.hexdigest()


@usual_default_dtype()
def calibrate(
    model: UncertainPotential,
    structures: Sequence[Atoms],
    *,
    calibrator: str = "nll",
    coverage: float = 0.9,
    unit: str = "value",
    progress: bool | None = None,
) -> UncertainPotential:
    """Fit scale and conformal intervals on labeled structures that trained nothing.

    Parameters are those of :func:`ase_nnp.uncertainty.statistics.calibrated.fit_calibration`. An
    earlier calibration is replaced. Returns the model.
    """
    labels = labels_of(structures)
    # Else the old factors would be fitted on top of.
    model.set_calibration(Calibration())
    names = [k for k in labels[0] if k in model.outputs]
    wanted = [*names, *(f"{k}_std" for k in names if f"{k}_std" in model.outputs)]
    predictions = Predictor(model)(structures, wanted, progress=progress)

    fitted = fit_calibration(
        labels,
        predictions,
        [a.numbers for a in structures],
        calibrator=calibrator,
        coverage=coverage,
        unit=unit,
        n_members=len(model.members),
        components=3 if model.force_std_mode == "isotropic" else 1,
        data_hash=data_hash(structures),
    )
    check_factors(fitted, model.method)
    return model.set_calibration(fitted)


@usual_default_dtype()
def fit(
    method: str,
    potentials: Potential | Sequence[Potential],
    *,
    train: Sequence[Atoms] | None = None,
    calibration: Sequence[Atoms] | str | None = None,
    held_back: Sequence[Atoms] | None = None,
    calibrator: str = "nll",
    coverage: float = 0.9,
    unit: str = "value",
    **options: Any,
) -> UncertainPotential:
    """Wrap potentials in a method and calibrate it.

    Parameters
    ----------
    method
        Name of a method; :func:`list_methods` lists them. ``"auto"`` is the one to begin with: for
        one potential distances in its features, for several their spread as well, calibrated by
        leaving kinds out.
    potentials
        One or several, as the method wants.
    train
        Training structures, for the methods that look at them.
    calibration
        Labeled structures held back from training; without them nothing is calibrated. Or
        ``"leave-kind-out"``: the method's spread and the distances from the training structures
        together, by formulas that are fitted to kinds left out (see
        :func:`~ase_nnp.uncertainty.methods.environment_fit.fit_environment`, which takes
        ``kinds``, ``false_alarms`` and ``score`` as further options).
    held_back
        Labeled structures that trained nothing, for ``calibration="leave-kind-out"``: they set the
        level of the error bars. Twenty or more.
    calibrator, coverage, unit
        As in :func:`calibrate`; ``calibrator="leave-kind-out"`` takes ``calibration`` for
        ``held_back``.
    options
        Of the method.
    """
    if train is not None:
        for name, labeled in (("calibration", calibration), ("held_back", held_back)):
            if labeled is not None and not isinstance(labeled, str):
                _warn_of_shared(train, labeled, name)
    if method == "auto" or isinstance(calibration, str) or calibrator == "leave-kind-out":
        return _leave_kind_out(
            method, potentials, train, calibration, held_back, coverage=coverage, **options
        )
    if held_back is not None:
        raise ConfigError('held_back is for calibration="leave-kind-out"; else calibration=[...].')

    if train is not None and method == "pool":
        options.setdefault("align_on", train)
    elif train is not None and method in ("last_layer", "shallow", "latent"):
        options["train"] = train
    model = wrap(method, potentials, **options)
    if calibration is not None:
        calibrate(model, calibration, calibrator=calibrator, coverage=coverage, unit=unit)
    return model


def _warn_of_shared(train: Sequence[Atoms], labeled: Sequence[Atoms], name: str) -> None:
    """Warn of structures, whatever their labels, that trained the model and are to judge it."""
    known = {_geometry(atoms) for atoms in train}
    shared = sum(_geometry(atoms) in known for atoms in labeled)
    if shared:
        warnings.warn(
            f"{shared} of {len(labeled)} structures of {name} are training structures: errors of "
            "what was learned are too small, and so will the error bars be. Hold structures back.",
            UserWarning,
            stacklevel=4,
        )


def _geometry(atoms: Atoms) -> bytes:
    parts = (atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in parts)).digest()


def _leave_kind_out(
    method: str,
    potentials: Potential | Sequence[Potential],
    train: Sequence[Atoms] | None,
    calibration: Sequence[Atoms] | str | None,
    held_back: Sequence[Atoms] | None,
    **options: Any,
) -> UncertainPotential:
    from ase_nnp.uncertainty.methods.environment_fit import fit_environment

    if isinstance(calibration, str) and calibration != "leave-kind-out":
        raise ConfigError(
            f"calibration is labeled structures or 'leave-kind-out', not {calibration!r}."
        )
    if train is None:
        raise ConfigError(f"The method '{method}' needs the training structures: train=[...].")
    if calibration is not None and not isinstance(calibration, str):
        held_back = calibration if held_back is None else held_back
    names = ("kinds", "coverage", "false_alarms", "score", "k", "max_points", "seed")
    own = {name: options.pop(name) for name in names if name in options}

    members = [potentials] if isinstance(potentials, Potential) else list(potentials)
    if method in ("auto", "latent", "environment") and len(members) == 1:
        inner: Potential = members[0]
        if options:
            raise ConfigError(f"'{method}' does not take the options {sorted(options)}.")
    elif method == "auto":
        inner = wrap("ensemble", members, mode="sequential", **options)
    else:
        inner = fit(method, members, train=train, **options)
    return fit_environment(
        inner,
        train,
        held_back,
        data_hash=data_hash(held_back) if held_back else "",
        **own,
    )


@usual_default_dtype()
def attach(
    model: Potential, uncertainty: UncertainPotential | str | Path | Mapping[str, Any]
) -> Potential:
    """Return the model with an uncertainty; what ``NNPCalculator(model, uncertainty=...)`` does.

    Parameters
    ----------
    model
        The potential that the uncertainty was fitted for; or that one with corrections, which then
        keep their place outside and add no spread.
    uncertainty
        The path of a file written by :func:`ase_nnp.uncertainty.save_uncertainty`; a fitted
        method; or the name of a method that needs no fit (``"dropout"``, ``"rotation"``,
        ``"native"``).

    Raises
    ------
    CheckpointError
        It was fitted for another model.
    """
    if not (isinstance(model, Sum) and model.corrections):
        return _attach(model, uncertainty)
    try:
        return _attach(model, uncertainty)
    except CheckpointError:
        # Heads of a training, and all that was fitted before a term was added, know the model
        # without it.
        return model.around(attach(model.base, uncertainty))


def _attach(
    model: Potential, uncertainty: UncertainPotential | str | Path | Mapping[str, Any]
) -> UncertainPotential:
    from ase_nnp.uncertainty.files import check_model, load_uncertainty

    if isinstance(uncertainty, UncertainPotential):
        check_model(uncertainty.base, model)
        return uncertainty
    if isinstance(uncertainty, str) and uncertainty in list_methods():
        return wrap(uncertainty, model)
    if isinstance(uncertainty, Mapping):
        options = dict(uncertainty)
        return wrap(options.pop("method"), model, **options)
    return load_uncertainty(uncertainty, model)
