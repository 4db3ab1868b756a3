"""Samples to HDF5 in MACE's layout, with what that layout has no place for kept beside as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.formats.hdf5_frames import REST
from ase_nnp.datasets.writing.encode import ARRAYS, _plain, row_of, to_json
from ase_nnp.datasets.writing.encode import REST as FURTHER

if TYPE_CHECKING:
    from ase_nnp.datasets.sample import Sample

_PROPERTIES = ("energy", "forces", "stress", "dipole", "charges")
#: ``info`` keys that MACE's layout has a name for; read back from there.
_INFO = {"charge": "total_charge", "spin": "total_spin"}


def batch_image(samples: Sequence[Sample]) -> bytes:
    """Return the bytes of an HDF5 file with one ``config_batch_0``."""
    import h5py

    with h5py.File("chunk.h5", "w", driver="core", backing_store=False, libver="v110") as root:
        batch = root.create_group("config_batch_0")
        for number, sample in enumerate(samples):
            _write_config(batch.create_group(f"config_{number}"), sample)
        root.flush()
        return bytes(root.id.get_file_image())


def join_batches(pieces: Sequence[Path], target: Path, about: dict[str, str]) -> None:
    """Copy the batches of all pieces into one file, numbered through, and note what it is."""
    import h5py

    with h5py.File(target, "w", libver="v110") as root:
        root.attrs["drop_last"] = False
        for name, value in about.items():
            root.attrs[name] = np.bytes_(value.encode())
        for number, piece in enumerate(pieces):
            with h5py.File(piece, "r", locking=False) as part:
                part.copy("config_batch_0", root, f"config_batch_{number}")


def _write_config(group: Any, sample: Sample) -> None:
    row = row_of(sample)
    data = row.pop("data")
    group["atomic_numbers"] = row.pop("numbers")
    group["positions"] = row.pop("positions")
    group["cell"] = row.pop("cell")
    group["pbc"] = row.pop("pbc")
    group["weight"] = 1.0
    # Without the zeros that HDF5 ends a text at; as it was it stands in the JSON beside.
    group["config_type"] = str(data.get("config_type", "Default")).replace("\0", "")
    group.create_group("property_weights")

    # Readers of the layout take these shapes only; any other stays in the JSON beside.
    properties = group.create_group("properties")
    shapes = {"dipole": (3,), "charges": group["atomic_numbers"].shape}
    for name in _PROPERTIES:
        value = row.get(name)
        if value is not None and np.shape(value) == shapes.get(name, np.shape(value)):
            properties[name] = np.asarray(row.pop(name), dtype=np.float64)
    for key, name in _INFO.items():
        value = data.get(key)
        number = isinstance(value, (int, float, np.integer, np.floating))
        if number and abs(float(value)) < 2**63:  # what is longer stays in the JSON beside
            properties[name] = value

    further = data.pop(FURTHER, {})
    arrays = data.pop(ARRAYS, None)
    rest = {**row, "info": [*map(list, data.items()), *further.pop("info", [])], **further}
    if arrays is not None:
        rest[ARRAYS] = arrays
    group[REST] = to_json(_plain(rest, "sample")).decode()
