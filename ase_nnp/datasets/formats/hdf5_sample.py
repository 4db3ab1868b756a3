"""A frame that a layout of HDF5 data read, checked and under the common names."""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_nnp.datasets.formats.hdf5_layouts import Frame
from ase_nnp.datasets.sample import Sample
from ase_nnp.errors import DatasetError

__all__ = ["frame_to_sample"]


def _array(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return ``value`` as float64 of the wanted shape (-1 is any length)."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise DatasetError(f"{name} is no array of numbers")
    if len(array.shape) != len(shape) or any(
        w not in (-1, h) for w, h in zip(shape, array.shape, strict=True)
    ):
        raise DatasetError(f"{name} has shape {array.shape}, wanted {shape}")
    return array.astype(np.float64)


def frame_to_sample(frame: Frame) -> Sample:
    """Check what a layout read and put it under the common names."""
    for name, value in (("atomic numbers", frame.numbers), ("positions", frame.positions)):
        if value is None:
            raise DatasetError(f"no {name}")
    numbers = np.asarray(frame.numbers)
    n = numbers.size

    cell = np.zeros((3, 3)) if frame.cell is None else _array("cell", frame.cell, (3, 3))
    pbc = np.asarray(frame.pbc).astype(bool).reshape(-1)
    if pbc.size not in (1, 3):
        raise DatasetError(f"pbc has {pbc.size} values, wanted 3")

    sample: Sample = {
        "atomic_numbers": numbers.reshape(-1),
        "positions": _array("positions", frame.positions, (n, 3)),
        "cell": cell,
        "pbc": np.broadcast_to(pbc, 3).copy(),
        "info": dict(frame.info),
    }

    # A wrong shape would otherwise be broadcast somewhere later, without a word.
    results = dict(frame.results)
    if (energy := results.pop("energy", None)) is not None:
        sample["energy"] = float(energy)
    if (forces := results.pop("forces", None)) is not None:
        sample["forces"] = _array("forces", forces, (n, 3))
    if (stress := results.pop("stress", None)) is not None:
        sample["stress"] = _stress(stress)

    for name, shape in (("dipole", (3,)), ("charges", (n,)), ("magmoms", (n,))):
        if name in results:
            results[name] = _array(name, results[name], shape)

    if results:
        sample["results"] = results
    if frame.arrays:
        sample["arrays"] = {k: _array(k, v, (n,)) for k, v in frame.arrays.items()}
    return _with_rest(sample, frame.row) if frame.row is not None else sample


def _stress(value: Any) -> Any:
    """Return (3, 3) from Voigt 6 (xx yy zz yz xz xy), 9 or (3, 3) values."""
    stress = np.asarray(value, dtype=np.float64)
    if stress.shape == (6,):
        return stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    if stress.size != 9:
        raise DatasetError(f"stress has shape {stress.shape}, wanted (6,) or (3, 3)")
    return stress.reshape(3, 3)


def _with_rest(sample: Sample, rest: dict[str, Any]) -> Sample:
    """Add what our own writer keeps beside MACE's fields."""
    from ase_nnp.datasets.formats.rows import plain
    from ase_nnp.datasets.writing.encode import ARRAYS, add_row_fields, put_back

    kept = plain(rest, "the rest of the structure")
    if not isinstance(kept, dict):
        raise DatasetError("the rest of the structure is no JSON object")
    sample["info"] = {}
    put_back(sample, kept)
    arrays = kept.pop(ARRAYS, {})
    return add_row_fields(sample, kept, arrays)
