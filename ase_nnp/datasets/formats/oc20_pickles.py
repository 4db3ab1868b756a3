"""One pickled PyG record to its fields, by a closed list of names; odd fields become inert."""

from __future__ import annotations

from typing import Any

from ase_nnp.errors import DatasetError, UnsafeFileError
from ase_nnp.files.pickle_sealed import Sealed
from ase_nnp.files.unpickle import PYG_STAND_INS, StandIn, loads

__all__ = ["record_fields"]


def _inert(dotted_name: str) -> type[StandIn]:
    """Make a class that takes whatever a pickle gives it, and keeps nothing."""

    def ignore(self: StandIn, *_: object) -> None:
        pass

    module, _, name = dotted_name.rpartition(".")
    about = {"__doc__": f"In place of {dotted_name}.", "origin": module}
    return Sealed(name, (StandIn,), {**about, "__init__": ignore, "__setstate__": ignore})  # type: ignore[return-value]


#: Fields that some writers added to records; they are left out, and the record is kept.
_HOLDERS = {
    **PYG_STAND_INS,
    **{
        name: _inert(name)
        for name in (
            *("torch_sparse.tensor.SparseTensor", "torch_sparse.storage.SparseStorage"),
            *("datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta"),
            *("datetime.timezone", "pathlib.PosixPath", "pathlib.PurePosixPath", "uuid.UUID"),
        )
    },
}
_NUMPY = {
    name: _inert(name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    )
}


def record_fields(data: bytes) -> dict[str, Any]:
    """Return the fields of one pickled record, without the empty ones."""
    try:
        record = loads(data, stand_ins=_HOLDERS)
    except UnsafeFileError as error:
        # Arrays of Python objects: once more, with every numpy array of the record left alone.
        if "numpy dtype" not in str(error):
            raise
        record = loads(data, stand_ins={**_HOLDERS, **_NUMPY}, without_numpy=True)
    if not isinstance(record, StandIn):
        raise DatasetError(f"holds {type(record).__name__}, not a structure")
    fields: Any = record.__dict__
    store = fields.get("_store")
    if store is not None:
        fields = store.__dict__.get("_mapping") if isinstance(store, StandIn) else None
    if not isinstance(fields, dict):
        raise DatasetError("a record without fields")
    return {name: value for name, value in fields.items() if value is not None}
