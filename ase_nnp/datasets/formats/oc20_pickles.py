"""One pickled PyG record to its fields, by a closed list of names; odd fields become inert."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError, UnsafeFileError
from ase_nnp.files.pickle_sealed import Sealed
from ase_nnp.files.unpickle import PYG_STAND_INS, StandIn, loads

__all__ = ["plain_field", "record_fields"]


def _inert(dotted_name: str) -> type[StandIn]:
    """Make a class that takes whatever a pickle gives it, and keeps nothing."""

    def ignore(self: StandIn, *_: object) -> None:
        pass

    module, _, name = dotted_name.rpartition(".")
    about: dict[str, Any] = {"__doc__": f"In place of {dotted_name}.", "origin": module}
    # A pickle fills containers by these.
    fills = dict.fromkeys(("append", "extend", "add", "__setitem__"), ignore)
    about |= {"__init__": ignore, "__setstate__": ignore, **fills}
    return Sealed(name, (StandIn,), about)  # type: ignore[return-value]


_ODD = (
    *("torch_sparse.tensor.SparseTensor", "torch_sparse.storage.SparseStorage"),
    *("torch._utils._rebuild_sparse_tensor", "torch.sparse_coo", "torch.sparse_csr"),
    *("datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta"),
    *("datetime.timezone", "zoneinfo.ZoneInfo._unpickle", "zoneinfo.ZoneInfo"),
    *("uuid.UUID", "uuid.SafeUUID"),
    *("decimal.Decimal", "fractions.Fraction", "collections.deque", "builtins.range"),
    *("builtins.Ellipsis", "builtins.NotImplemented", "types.SimpleNamespace"),
    *("numpy.matrix", "numpy.ma.core._mareconstruct", "numpy.ma.core.MaskedArray"),
    *("numpy.matrixlib.defmatrix.matrix", "numpy.ma.MaskedArray", "numpy.rec.recarray"),
    *("numpy.recarray", "numpy.record", "numpy.datetime64", "numpy.timedelta64"),
    *("pandas._libs.tslibs.timestamps.Timestamp", "pandas.Timestamp"),
    *("pandas._libs.tslibs.timestamps._unpickle_timestamp", "pandas._libs.missing.NAType"),
    *(
        f"scipy.sparse.{module}.{kind}_{what}"
        for kind in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")
        for module in (kind, f"_{kind}")
        for what in ("matrix", "array")
    ),
    *("ase.atoms.Atoms", "ase.cell.Cell", "ase.constraints.FixAtoms"),
    *("ase.calculators.singlepoint.SinglePointCalculator",),
)


#: Fields that some writers added to records; they are left out, and the record is kept.
_HOLDERS = {
    **PYG_STAND_INS,
    **{name: _inert(name) for name in _ODD},
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


_WORDS = (str, int, float, bool, complex, type(None))
_DEEPEST = 50


def plain_field(value: Any, depth: int = 0) -> Any:
    """Return a field as numbers, words, arrays and containers of them, which any format can hold.

    Texts of bytes become words, and sets lists.

    Raises
    ------
    ValueError
        Saying what of it is something else.
    """
    kind = type(value)
    if kind in _WORDS:
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind in "biufcUS":
            return value
        raise ValueError(f"an array of {value.dtype} is no plain data")
    if depth > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST}")

    if kind is dict or kind is OrderedDict:
        items = value.items()
        return kind((plain_field(k, depth + 1), plain_field(v, depth + 1)) for k, v in items)
    if kind is list or kind is tuple:
        return kind(plain_field(item, depth + 1) for item in value)
    if kind is set or kind is frozenset:
        return [plain_field(item, depth + 1) for item in sorted(value, key=str)]
    if kind is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError("bytes that are no text") from None
    raise ValueError(f"{kind.__name__} is no plain data")
