"""OC20 leaderboard files: predictions on the four test splits in one ``.npz``.

Every array name begins with its split, ``id``, ``ood_ads``, ``ood_cat`` or ``ood_both``:

==================  ==========================  ===========================================
array               tasks                       content
==================  ==========================  ===========================================
``{split}_ids``     all                         ``"<sid>_<fid>"`` for S2EF, else ``"<sid>"``
``{split}_energy``  s2ef, is2re                 (S,) eV
``{split}_forces``  s2ef                        (A, 3) eV/Angstrom, systems one after the other
``{split}_pos``     is2rs                       (A, 3) Angstrom, relaxed positions
``{split}_chunk_idx``  s2ef, is2rs              (S - 1,) cumulative atom counts without the last
==================  ==========================  ===========================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, DatasetError, PredictionError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.npz import read_npz

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SPLITS", "check_submission", "submission_id", "write_submission"]

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")


@dataclass(frozen=True)
class _Task:
    per_system: tuple[str, ...]
    per_atom: str | None
    id_form: re.Pattern[str]


_TASKS = {
    "s2ef": _Task(("energy",), "forces", re.compile(r"(0|[1-9][0-9]*)_-?(0|[1-9][0-9]*)")),
    "is2re": _Task(("energy",), None, re.compile(r"0|[1-9][0-9]*")),
    "is2rs": _Task((), "pos", re.compile(r"0|[1-9][0-9]*")),
}


def _task(name: str) -> _Task:
    if name not in _TASKS:
        raise ConfigError(f"task {name!r}; choose from {', '.join(_TASKS)}")
    return _TASKS[name]


def submission_id(atoms: Atoms, task: str = "s2ef") -> str:
    """Return the identifier of a structure: ``"<sid>_<fid>"`` for S2EF, ``"<sid>"`` otherwise."""
    wanted = ("sid", "fid") if task == "s2ef" else ("sid",)
    missing = [key for key in wanted if key not in atoms.info]
    if missing:
        raise DatasetError(f"a structure has no {' and no '.join(missing)} in atoms.info")
    return "_".join(str(atoms.info[key]).removeprefix("random") for key in wanted)


def _arrays(
    split: str, predictions: Iterable[Mapping[str, Any]], task: _Task, free: bool, dtype: Any
) -> dict[str, Any]:
    ids: list[str] = []
    columns: dict[str, list[Any]] = {name: [] for name in task.per_system}
    chunks: list[Any] = []
    for number, prediction in enumerate(predictions):
        where = f"{split}, prediction {number}"
        missing = {"id", *task.per_system, *filter(None, [task.per_atom])} - set(prediction)
        if missing:
            raise PredictionError(f"{where} has no {', '.join(sorted(missing))}")

        ids.append(str(prediction["id"]))
        for name in task.per_system:
            columns[name].append(float(_real(where, name, prediction[name], ())))
        if task.per_atom is not None:
            values = _real(where, task.per_atom, prediction[task.per_atom], (-1, 3))
            if free and prediction.get("fixed") is not None:
                fixed = np.asarray(prediction["fixed"])
                if fixed.shape != values.shape[:1]:
                    raise PredictionError(
                        f"{where}: fixed has shape {fixed.shape} for {len(values)} atoms"
                    )
                values = values[fixed == 0]
            chunks.append(values)

    out: dict[str, Any] = {f"{split}_ids": np.array(ids, dtype=str)}
    for name, column in columns.items():
        out[f"{split}_{name}"] = np.array(column, dtype=np.float64)
    if task.per_atom is not None:
        joined = np.concatenate(chunks) if chunks else np.zeros((0, 3))
        # What half precision cannot hold is refused below, with its place.
        with np.errstate(over="ignore"):
            out[f"{split}_{task.per_atom}"] = joined.astype(dtype)
        out[f"{split}_chunk_idx"] = np.cumsum([len(c) for c in chunks], dtype=np.int64)[:-1]
    return out


def _real(where: str, name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return real numbers in double precision, in ``shape``; text and complex ones are none."""
    try:
        array = np.asarray(value)
        rows = array.ndim == 2 and array.shape[1] == 3
        if array.dtype.kind in "fiu" and (rows if shape else array.size == 1):
            return array.astype(np.float64).reshape(shape)
        found = f"{array.dtype} of shape {array.shape}"
    except (TypeError, ValueError, RuntimeError) as error:  # ragged rows, tensors with gradients
        found = f"no array: {error}"
    wanted = "(N, 3) numbers" if shape else "one number"
    raise PredictionError(f"{where}: {name} is {found}; wanted {wanted}")


def write_submission(
    path: str | os.PathLike[str],
    predictions: Mapping[str, Iterable[Mapping[str, Any]]],
    *,
    task: str = "s2ef",
    free_atoms_only: bool = True,
    dtype: str = "float32",
) -> Path:
    """Write the predictions of all four test splits; the file is checked before it appears.

    Parameters
    ----------
    path
        The ``.npz`` file to be.
    predictions
        By split, one mapping a structure: ``id`` (:func:`submission_id`), ``energy`` in eV,
        ``forces`` (N, 3) or ``pos`` (N, 3) as the task wants, and ``fixed`` (N,) if known.
    task
        ``"s2ef"``, ``"is2re"`` or ``"is2rs"``.
    free_atoms_only
        Leave atoms with ``fixed`` out of forces and positions, as the evaluation does.
    dtype
        Of forces and positions; ``"float16"`` where the size of the upload counts.

    Raises
    ------
    PredictionError
        A prediction is incomplete, not finite, or repeated.
    DatasetError
        A split is missing.
    """
    kind = _task(task)
    if getattr(dtype, "__name__", str(dtype)) not in ("float16", "float32", "float64"):
        raise ConfigError(f"dtype {dtype!r}; it is float16, float32 or float64")
    unknown = set(predictions) - set(SPLITS)
    if unknown:
        raise DatasetError(f"unknown splits {sorted(unknown)}; they are {', '.join(SPLITS)}")

    arrays: dict[str, Any] = {}
    for split in SPLITS:
        if split not in predictions:
            raise DatasetError(f"predictions of split {split!r} are missing")
        arrays |= _arrays(split, predictions[split], kind, free_atoms_only, np.dtype(dtype))
    for split in SPLITS:
        _check_split(split, arrays, kind)

    target = Path(path)
    if target.suffix != ".npz":
        raise ConfigError(f"{target.name} must end in .npz")
    with whole_file(target) as beside:
        np.savez_compressed(beside, **arrays)
    return target


def _check_split(split: str, arrays: Mapping[str, Any], task: _Task) -> dict[str, int]:
    """Return counts of a split; raise PredictionError for anything an evaluation would trip on."""

    def get(name: str, kinds: str, ndim: int) -> Any:
        key = f"{split}_{name}"
        if key not in arrays:
            raise PredictionError(f"{key} is missing")
        array = arrays[key]
        if array.dtype.kind not in kinds or array.ndim != ndim:
            raise PredictionError(f"{key} is {array.dtype} of shape {array.shape}")
        return array

    ids = get("ids", "US", 1)
    count = len(ids)
    if count == 0:
        raise PredictionError(f"split {split!r} has no predictions")
    for name in _names(ids):
        if not task.id_form.fullmatch(name):
            raise PredictionError(f"{split}_ids holds {name!r}; see submission_id()")
    if len(set(ids.tolist())) != count:
        names, times = np.unique(ids, return_counts=True)
        raise PredictionError(f"{split}_ids holds {str(names[times.argmax()])!r} more than once")
    for name in task.per_system:
        values = get(name, "f", 1)
        if len(values) != count:
            raise PredictionError(f"{split}_{name} has {len(values)} entries for {count} ids")
        _finite(f"{split}_{name}", values)
    atoms = 0
    if task.per_atom is not None:
        values = get(task.per_atom, "f", 2)
        atoms = len(values)
        if values.shape[1] != 3:
            raise PredictionError(f"{split}_{task.per_atom} has shape {values.shape}")
        _finite(f"{split}_{task.per_atom}", values)
        _chunk_sizes(split, get("chunk_idx", "iu", 1), count, atoms)
    return {"systems": count, "atoms": atoms}


def _names(ids: Any) -> list[str]:
    """Return identifiers as text; bytes that are no text stay visible."""
    if ids.dtype.kind == "S":
        return [one.decode("ascii", "backslashreplace") for one in ids.tolist()]
    return list(ids.tolist())


def _finite(name: str, values: Any) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        first = int(np.argwhere(bad)[0][0])
        raise PredictionError(f"{name}[{first}] is not finite")


def _chunk_sizes(split: str, ends: Any, count: int, atoms: int) -> Any:
    if len(ends) != count - 1:
        raise PredictionError(
            f"{split}_chunk_idx has {len(ends)} entries for {count} systems; wanted {count - 1} "
            "(cumulative atom counts without the last)"
        )
    sizes = np.diff(np.concatenate([[0], ends.astype(np.int64), [atoms]]))
    if (sizes < 0).any():
        raise PredictionError(f"{split}_chunk_idx does not ascend, or leaves the {atoms} atoms")
    return sizes


def check_submission(
    path: str | os.PathLike[str],
    *,
    task: str = "s2ef",
    datasets: Mapping[str, Sequence[Atoms]] | None = None,
) -> dict[str, dict[str, int]]:
    """Check a submission file; returns systems and atoms by split.

    Parameters
    ----------
    path
        The ``.npz`` file. Pickled objects in it are refused.
    task
        ``"s2ef"``, ``"is2re"`` or ``"is2rs"``.
    datasets
        The test sets by split: each structure must be predicted once, with as many rows as it has
        atoms, or free atoms, the same choice for all.

    Raises
    ------
    PredictionError
        Naming array and entry.
    DatasetError
        The file cannot be read.
    """
    kind = _task(task)
    arrays = read_npz(path, DatasetError)
    report = {split: _check_split(split, arrays, kind) for split in SPLITS}
    for split, dataset in (datasets or {}).items():
        if split not in SPLITS:
            raise DatasetError(f"unknown split {split!r}; they are {', '.join(SPLITS)}")
        _compare(split, arrays, dataset, task, kind)
    return report


def _compare(
    split: str, arrays: Mapping[str, Any], dataset: Sequence[Atoms], task: str, kind: _Task
) -> None:
    from ase_nnp.datasets.sample import from_atoms

    ids = _names(arrays[f"{split}_ids"])
    sizes: dict[str, int] = {}
    if kind.per_atom is not None:
        total = len(arrays[f"{split}_{kind.per_atom}"])
        rows = _chunk_sizes(split, arrays[f"{split}_chunk_idx"], len(ids), total)
        sizes = dict(zip(ids, rows.tolist(), strict=True))
    known, wrong = set(ids), {"all": "", "free": ""}
    for index in range(len(dataset)):
        atoms = dataset[index]
        name = submission_id(atoms, task)
        if name not in known:
            raise PredictionError(f"{split}: {name} of the test set has no prediction")
        known.discard(name)
        fixed = from_atoms(atoms).get("fixed")
        n = len(atoms)
        free = n if fixed is None else n - int(np.count_nonzero(fixed))
        for choice, wanted in (("all", n), ("free", free)):
            if sizes and sizes[name] != wanted and not wrong[choice]:
                wrong[choice] = f"{name} has {sizes[name]} rows for {n} atoms ({free} free)"
    if known:
        raise PredictionError(f"{split}: {min(known)} is not in the test set, or there twice")
    if all(wrong.values()):
        raise PredictionError(f"{split}: {wrong['free']}")
