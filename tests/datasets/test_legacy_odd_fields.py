"""Fields of legacy records that are no plain data are left out, wherever they stand."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pathlib
import sys
import types
import uuid
import warnings

import numpy as np
import pytest
import torch

from ase_nnp.datasets import DatasetWarning, open_dataset, write_dataset
from ase_nnp.errors import UnsafeFileError

from .conftest import fields_of, lmdb_of, slab


class SparseTensor:
    """As torch_sparse pickles it: attributes in a state."""

    def __init__(self):
        self.storage = torch.ones(2)


ODD = {
    "datetime": datetime.datetime(
        2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
    ),
    "date": datetime.date(2020, 1, 1),
    "array of dates": np.array(["2020-01-01"], "M8[D]"),
    "numpy date": np.datetime64("2020-01-01"),
    "objects": np.array(["a", None], object),
    "records": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    "masked": np.ma.array([1, 2], mask=[0, 1]),
    "sparse": None,  # SparseTensor, under its published name
    "torch sparse": torch.eye(2).to_sparse(),
    "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 2),
    "deque": collections.deque([1, 2]),
    "range": range(3),
    "slice": slice(1, 2),
    "type": int,
    "ellipsis": ...,
    "binary": b"\xff\xfe",
}
PLACES = {
    "itself": lambda value: value,
    "a list": lambda value: [1, value],
    "a dict": lambda value: {"a": {"b": (value,)}},
}


@pytest.fixture
def published(monkeypatch):
    module = types.ModuleType("torch_sparse.tensor")
    kind = type("SparseTensor", (SparseTensor,), {"__module__": "torch_sparse.tensor"})
    module.SparseTensor = kind
    monkeypatch.setitem(sys.modules, "torch_sparse", types.ModuleType("torch_sparse"))
    monkeypatch.setitem(sys.modules, "torch_sparse.tensor", module)
    return kind


def opened(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_dataset(path)
        return [dataset[k] for k in range(len(dataset))], caught


@pytest.mark.parametrize("layout", ["flat", "_store"])
@pytest.mark.parametrize("kind", ODD)
def test_the_record_is_kept_and_one_warning_names_the_field(tmp_path, pyg, published, kind, layout):
    value = published() if kind == "sparse" else ODD[kind]
    for number, (place, put) in enumerate(PLACES.items()):
        record = pyg(fields_of(slab(), y=-1.5, note=put(value), kept=[1, "a"]), layout)
        path = lmdb_of(tmp_path / f"{number}.lmdb", {0: record, 1: record})
        structures, caught = opened(path)
        assert [one.category for one in caught] == [DatasetWarning], place
        assert "note" in str(caught[0].message)
        for atoms in structures:
            assert atoms.get_potential_energy() == -1.5
            assert atoms.info["kept"] == [1, "a"]
            assert "note" not in atoms.info


PLAIN = {
    "complex": 1 + 2j,
    "numpy complex": np.complex128(1 + 2j),
    "complex tensor": torch.tensor([1 + 2j, 3]),
    "text of bytes": b"random12",
    "set": {3, 1, 2},
    "path": pathlib.PurePosixPath("/a/b"),
    "counts": collections.Counter("aab"),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "words": np.array(["a", "bc"]),
}
EXPECTED = {"text of bytes": "random12", "set": [1, 2, 3], "path": "/a/b"}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_can_be_stored_is_kept_in_every_format(tmp_path, pyg, kind):
    value = PLAIN[kind]
    wanted = EXPECTED.get(kind, value.float() if kind == "bfloat16" else value)
    record = pyg(fields_of(slab(), y=-1.5, note=value, inner={"list": [value]}), "_store")
    (atoms,), caught = opened(lmdb_of(tmp_path / "a.lmdb", {0: record}))
    assert not caught
    for name in ("same.aselmdb", "same.extxyz", "same.h5", "flat.lmdb"):
        write_dataset(tmp_path / name, [atoms])
        again = open_dataset(tmp_path / name)[0]
        for info in (atoms.info, again.info):
            for got in (info["note"], info["inner"]["list"][0]):
                np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def test_a_name_that_is_no_data_is_still_refused(tmp_path, pyg):
    class Command:
        def __reduce__(self):
            return print, ("it ran",)

    record = pyg(fields_of(slab(), y=-1.5, note=[Command()]), "flat")
    with pytest.raises(UnsafeFileError, match=r"builtins\.print"):
        open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: record}))[0]
