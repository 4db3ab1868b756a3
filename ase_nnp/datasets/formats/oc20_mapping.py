"""The pickled tables beside OC20: system descriptions, clean slabs, reference energies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_nnp.errors import DatasetError
from ase_nnp.files.regular import read_regular
from ase_nnp.files.unpickle import load

__all__ = ["as_references", "load_mapping", "load_references", "reference_of"]

_MAX_LINES = 1 << 30  # bytes


def load_mapping(path: str | Path) -> dict[Any, Any]:
    """Read ``oc20_data_mapping.pkl``, ``mapping_adslab_slab.pkl`` and their like.

    Returns
    -------
    dict
        By system id (``"random123"``): a dict of properties, or the id of the clean slab.

    Raises
    ------
    UnsafeFileError
        The pickle asks for more than plain data.
    DatasetError
        It is damaged, or no dict.
    """
    table = load(path, stand_ins={})
    if not isinstance(table, dict):
        raise DatasetError(f"holds {type(table).__name__}, not a dict", path=path)
    return table


def load_references(path: str | Path) -> dict[Any, float]:
    """Read reference energies in eV by system id: a pickled dict, or lines ``id,energy``."""
    if Path(path).suffix == ".pkl":
        table = load_mapping(path)
        try:
            return {key: float(value) for key, value in table.items()}
        except (TypeError, ValueError):
            raise DatasetError("its values are no energies", path=path) from None

    table = {}
    try:
        lines = read_regular(path, _MAX_LINES).decode(errors="replace").splitlines()
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", path=path) from None
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        try:
            table[fields[0].strip()] = float(fields[-1])
        except ValueError:
            raise DatasetError(f"{line!r} is not 'id,energy'", path=path, key=number) from None
    return table


def as_references(
    references: Mapping[Any, float] | str | Path | None,
) -> Mapping[Any, float] | None:
    """Return reference energies that are given as such or as a file."""
    return load_references(references) if isinstance(references, (str, Path)) else references


def reference_of(references: Mapping[Any, float] | None, sid: Any) -> dict[str, float]:
    """Return what a system's information gains by the table: its reference energy, if it has one.

    OC20's own tables say ``"random123"`` where the records of the LMDB files say 123.
    """
    if references is None:
        return {}
    energy = references.get(f"random{sid}", references.get(sid))
    return {} if energy is None else {"reference_energy": float(energy)}
