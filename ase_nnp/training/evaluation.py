"""``evaluate``: models side by side on labeled structures, every measure that the labels allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.datasets.shard import KINDS
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.metrics import S2EFMetrics, is2re_metrics
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["EvaluatedModel", "Evaluation", "evaluate"]

Array = np.ndarray[Any, Any]

#: Keys of ``atoms.info`` that name a group, in the order they are looked for.
GROUP_KEYS = ("group", "config_type", "subset", "split")


@dataclass
class EvaluatedModel:
    """What one model does on the dataset.

    ``metrics`` as in :mod:`ase_nnp.metrics` (eV, eV/Angstrom, eV/Angstrom^3); ``by_element`` the
    force errors of atoms of an element, ``by_group`` errors of groups of structures. ``pairs``
    holds label and prediction of each property, flat, for plots; energies an atom.
    """

    name: str
    family: str
    sha256: str
    energy_kind: str
    parameters: int
    metrics: dict[str, float] = field(default_factory=dict)
    by_element: dict[str, dict[str, float]] = field(default_factory=dict)
    by_group: dict[str, dict[str, float]] = field(default_factory=dict)
    pairs: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the pairs."""
        return {k: v for k, v in vars(self).items() if k != "pairs"}


@dataclass
class Evaluation:
    """Models on one dataset."""

    data: str
    structures: int
    labels: dict[str, int]
    models: list[EvaluatedModel]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "models": [m.as_dict() for m in self.models]}


def evaluate(
    models: Sequence[Potential | str | Path],
    dataset: Sequence[Atoms] | str | Path,
    *,
    group: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    progress: bool | None = None,
) -> Evaluation:
    """Measure errors of models on labeled structures.

    Energies are compared as they are: no shift is fitted. Forces are compared on free atoms, those
    not held by FixAtoms, as the OC20 measures are; pooled over all structures.

    Parameters
    ----------
    models
        Potentials, or files of models.
    dataset
        Structures with results of a calculator, or the path of a dataset.
    group
        Key of ``atoms.info`` that names groups; by default the first of ``group``,
        ``config_type``, ``subset``, ``split`` that is there, else formulas if they are few.
    device, dtype
        Where and in which precision models given by name are evaluated.
    progress
        Show a bar on stderr.

    Raises
    ------
    DatasetError
        No structures, or no label that a model predicts.
    ConfigError
        Models whose energies are of another kind than the labels.
    """
    name = str(dataset) if isinstance(dataset, (str, Path)) else "structures"
    if isinstance(dataset, (str, Path)):
        from ase_nnp.datasets import open_dataset

        if not Path(dataset).exists():
            raise DatasetError("there is no such file or folder", path=dataset)
        dataset = open_dataset(dataset)
    frames = list(dataset)
    if not frames:
        raise DatasetError("there are no structures to evaluate on")
    if not models:
        raise ConfigError("Name at least one model.")

    labels = _labels(frames)
    # Each structure says what its energy is; one file may hold several kinds.
    said = [frames[k].info.get("energy_kind") for k in labels.get("energy", ())]
    kinds = {kind for kind in KINDS if kind in said}
    if len(kinds) > 1:
        raise ConfigError(
            f"the labels are {' and '.join(sorted(kinds))} energies; make them of one kind "
            "(`ase-nnp data convert --energy-kind`, with_energy)."
        )
    kind = next(iter(kinds), None)
    groups = _groups(frames, group)
    evaluation = Evaluation(name, len(frames), {k: len(v) for k, v in labels.items()}, [])
    for number, one in enumerate(models):
        model = _load(one, device, dtype)
        called = _name(one, number)
        if kind in ("total", "adsorption") and model.energy_kind not in (kind, "none"):
            raise ConfigError(
                f"{called} gives {model.energy_kind} energies and the labels are {kind}; "
                "convert the dataset (`ase-nnp data convert`, with_energy) or choose another model."
            )
        evaluation.models.append(_one(called, model, frames, labels, groups, progress))
    names = [m.name for m in evaluation.models]
    for k, m in enumerate(evaluation.models):
        if names.count(m.name) > 1:
            m.name = f"{m.name} ({k + 1})"
    return evaluation


def _load(model: Potential | str | Path, device: str, dtype: str) -> Potential:
    given = None if isinstance(model, Potential) else dtype
    return load_model(model, device=device, dtype=given)


def _name(model: Potential | str | Path, number: int) -> str:
    if isinstance(model, Potential):
        return model.family or f"model {number + 1}"
    path = Path(model)
    return path.parent.name if path.name == "model.nnp" and path.parent.name else path.stem


def _labels(frames: Sequence[Atoms]) -> dict[str, dict[int, Any]]:
    """Labels by property and structure, raw: constraints do not touch forces."""
    labels: dict[str, dict[int, Any]] = {}
    for k, atoms in enumerate(frames):
        results = own_results(atoms, k)
        if "stress" in results and np.shape(results["stress"]) == (6,):
            from ase.stress import voigt_6_to_full_3x3_stress

            results["stress"] = voigt_6_to_full_3x3_stress(results["stress"])

        # Named properties (a band gap) stand in info, where an energy is no label; results come
        # last, because they are labels for certain.
        scalars = {n: v for n, v in atoms.info.items() if isinstance(v, (int, float, np.number))}
        scalars.pop("energy", None)
        for name, value in {**scalars, **results}.items():
            if value is not None and np.all(np.isfinite(value)):
                labels.setdefault(name, {})[k] = value
    return labels


def _groups(frames: Sequence[Atoms], key: str | None) -> list[str] | None:
    if key is not None:
        missing = sum(key not in a.info for a in frames)
        if missing:
            raise DatasetError(f"{missing} of {len(frames)} structures have no info {key!r}")
        return [str(a.info[key]) for a in frames]
    for name in GROUP_KEYS:
        if all(name in a.info for a in frames):
            return [str(a.info[name]) for a in frames]
    formulas = [a.get_chemical_formula() for a in frames]

    # Without a named group compositions stand in, as long as a table of them can be read.
    return formulas if 1 < len(set(formulas)) <= 30 else None


def _one(
    name: str,
    model: Potential,
    frames: Sequence[Atoms],
    labels: Mapping[str, Mapping[int, Any]],
    groups: list[str] | None,
    progress: bool | None,
) -> EvaluatedModel:
    # The hash says later which weights these figures belong to, whatever the file is called.
    parameters = sum(p.numel() for p in model.parameters())
    done = EvaluatedModel(name, model.family, model_hash(model), model.energy_kind, parameters)
    wanted = [p for p in model.outputs if p in labels and not p.endswith("_std")]
    relaxed = labels.get("y_relaxed", {}) if "energy" in model.outputs else {}
    if relaxed and "energy" not in wanted:
        wanted.append("energy")
    if not wanted:
        raise DatasetError(
            f"{name} gives {', '.join(model.outputs)}, and no structure has such a label"
        )

    rows = Predictor(model)(frames, wanted, progress=progress)
    # The published measures leave fixed atoms out.
    free = [_free(a) for a in frames]
    for prop in wanted:
        if prop in labels:
            _property(done, prop, labels[prop], rows, frames, free)
    both = sorted(set(labels.get("energy", {})) & set(labels.get("forces", {})))
    if both and {"energy", "forces"} <= set(wanted):
        done.metrics |= _s2ef(both, labels, rows, free).compute()
    if relaxed:
        at = sorted(relaxed)
        scores = is2re_metrics([rows[k]["energy"] for k in at], [relaxed[k] for k in at])
        done.metrics |= {f"is2re_{key}": float(v) for key, v in scores.items()}
    if "forces" in wanted:
        done.by_element = _elements(labels["forces"], rows, frames, free)
    if groups is not None:
        done.by_group = _by_group(groups, wanted, labels, rows, frames, free)
    return done


def _free(atoms: Atoms) -> Array:
    from ase.constraints import FixAtoms

    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
    return free


def _property(
    done: EvaluatedModel,
    name: str,
    labels: Mapping[int, Any],
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Atoms],
    free: Sequence[Array],
) -> None:
    true, pred, size = _flat(name, labels, rows, frames, free, sorted(labels))
    error = pred - true
    if not error.size:
        return
    unit = {"energy": "energy_per_atom"}.get(name, name)
    done.pairs[unit] = (true / size, pred / size)
    done.metrics[f"{name}_mae"] = float(np.abs(error).mean())
    done.metrics[f"{name}_rmse"] = float(np.sqrt(np.square(error).mean()))
    if name == "energy":
        done.metrics["energy_mae_per_atom"] = float(np.abs(error / size).mean())
        done.metrics["energy_rmse_per_atom"] = float(np.sqrt(np.square(error / size).mean()))

    # R^2 of the energy an atom: that of totals is near 1 for any model, by the sizes alone.
    spread = float(np.square(true / size - (true / size).mean()).sum())
    if spread > 0:
        done.metrics[f"{name}_r2"] = 1.0 - float(np.square(error / size).sum()) / spread


def _flat(
    name: str,
    labels: Mapping[int, Any],
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Atoms],
    free: Sequence[Array],
    at: Sequence[int],
) -> tuple[Array, Array, Array]:
    """Labels, predictions and (for energies) numbers of atoms, flat."""

    def pick(value: Any, k: int) -> Array:
        array = np.asarray(value, dtype=np.float64)
        return (array[free[k]] if name == "forces" else array).reshape(-1)

    at = [k for k in at if k in labels and name in rows[k]]
    true = np.concatenate([pick(labels[k], k) for k in at] or [np.zeros(0)])
    pred = np.concatenate([pick(rows[k][name], k) for k in at] or [np.zeros(0)])
    size = np.array([len(frames[k]) for k in at]) if name == "energy" else np.ones(1)
    return true, pred, size


def _s2ef(
    at: Sequence[int],
    labels: Mapping[str, Mapping[int, Any]],
    rows: Sequence[Mapping[str, Any]],
    free: Sequence[Array],
) -> S2EFMetrics:
    metrics = S2EFMetrics()
    metrics.update(
        [rows[k]["energy"] for k in at],
        [labels["energy"][k] for k in at],
        np.concatenate([rows[k]["forces"] for k in at]),
        np.concatenate([np.asarray(labels["forces"][k]) for k in at]),
        [len(free[k]) for k in at],
        np.concatenate([~free[k] for k in at]).astype(int),
    )
    return metrics


def _elements(
    labels: Mapping[int, Any],
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Atoms],
    free: Sequence[Array],
) -> dict[str, dict[str, float]]:
    from ase.data import chemical_symbols

    at = sorted(labels)
    keep = [free[k] for k in at]
    numbers = np.concatenate([frames[k].numbers[m] for k, m in zip(at, keep, strict=True)])
    true = np.concatenate([np.asarray(labels[k])[m] for k, m in zip(at, keep, strict=True)])
    pred = np.concatenate([rows[k]["forces"][m] for k, m in zip(at, keep, strict=True)])

    error = pred - true
    by_element = {}
    for z in np.unique(numbers).tolist():
        mine = error[numbers == z]
        by_element[chemical_symbols[z]] = {
            "atoms": int((numbers == z).sum()),
            "forces_mae": float(np.abs(mine).mean()),
            "forces_rmse": float(np.sqrt(np.square(mine).mean())),
            "label_rms": float(np.sqrt(np.square(true[numbers == z]).mean())),
        }
    return by_element


def _by_group(
    groups: Sequence[str],
    wanted: Sequence[str],
    labels: Mapping[str, Mapping[int, Any]],
    rows: Sequence[Mapping[str, Any]],
    frames: Sequence[Atoms],
    free: Sequence[Array],
) -> dict[str, dict[str, float]]:
    by_group: dict[str, dict[str, float]] = {}
    for group in sorted(set(groups)):
        at = [k for k, g in enumerate(groups) if g == group]
        row: dict[str, float] = {"structures": len(at)}
        for name in wanted:
            if name not in labels:
                continue
            true, pred, size = _flat(name, labels[name], rows, frames, free, at)
            if true.size:
                label = "energy_mae_per_atom" if name == "energy" else f"{name}_mae"
                row[label] = float(np.abs((pred - true) / size).mean())
        by_group[group] = row
    return by_group
