"""The restricted unpickler: what it reads, what it refuses, and that nothing runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from ase_nnp.errors import CheckpointError, DatasetError, UnsafeFileError
from ase_nnp.files.unpickle import (
    CHECKPOINT_STAND_INS,
    StandIn,
    UnpickleError,
    load,
    load_torch,
    loads,
    stand_in,
)


class Payload:
    """Runs ``function(*args)`` when an ordinary unpickler meets it."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def saved(value, zipped=True):
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


PLAIN = {
    "numbers": [1, -2, 2**70, 1.5, float("inf"), True, None],
    "words": ("a", "ü", b"bytes", bytearray(b"xy")),
    "sets": [{1, 2}, frozenset({3})],
    "ordered": collections.OrderedDict(b=1, a=2),
    "complex": 1 + 2j,
    3: {"nested": {"deep": [()]}},
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_come_back_as_they_were(protocol):
    assert loads(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(["ab", "c"]),
        np.array([True, False]),
        np.float32(2.5),
        np.zeros((0, 3)),
    ],
    ids=str,
)
def test_numpy_arrays_and_scalars_come_back_as_they_were(protocol, array):
    loaded = loads(pickle.dumps({"deep": [(array,)]}, protocol))["deep"][0][0]
    assert loaded.dtype == array.dtype
    assert loaded.shape == array.shape
    assert np.array_equal(loaded, array)


def test_old_and_new_module_names_of_numpy_are_one(tmp_path):
    data = pickle.dumps(np.float64(1.5), 2)
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        assert loads(data.replace(old, new)) == 1.5


@pytest.mark.parametrize(
    "value",
    [
        Payload(eval, "1"),
        Payload(print, "x"),
        Payload(getattr, "x", "upper"),
        Payload(subprocess.run, ["true"]),
        Payload(np.load, "x"),
        Payload(pickle.loads, b""),
        argparse.Namespace(a=1),
        np.array([object], dtype=object),
        np.dtype([("a", "f8")]),
        len,
        torch.nn.Linear(1, 1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_everything_else_is_refused_by_name(value, protocol):
    with pytest.raises(UnsafeFileError, match="refused"):
        loads(pickle.dumps([value], protocol))


def test_the_name_of_what_is_refused_is_in_the_message():
    with pytest.raises(UnsafeFileError, match=r"subprocess\.run"):
        loads(pickle.dumps(Payload(subprocess.run, ["true"]), 4))
    with pytest.raises(UnsafeFileError, match=r"builtin.*\.eval"):
        load_torch(saved({"weights": torch.ones(2), "more": Payload(eval, "1")}))


def test_refusals_are_checkpoint_and_dataset_errors():
    assert issubclass(UnsafeFileError, CheckpointError)
    assert issubclass(UnpickleError, CheckpointError)
    assert issubclass(UnpickleError, DatasetError)


def test_a_payload_inside_a_nested_torch_stream_is_refused():
    inner = pickle.dumps([Payload(eval, "1")], 2)
    outer = pickle.dumps(Payload(torch.storage._load_from_bytes, inner), 4)
    with pytest.raises(UnsafeFileError, match="eval"):
        load_torch(_stream(inner))
    with pytest.raises((UnsafeFileError, UnpickleError)):
        loads(outer)


def _stream(body: bytes, keys=(), tail=b"", magic=0x1950A86A20F9469CFC6C) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(part, 2) for part in (magic, 1001, system))
    return head + body + pickle.dumps(list(keys), 2) + tail


def test_a_name_in_the_dotted_form_of_protocol_4_opens_no_attribute():
    data = b"\x80\x04\x8c\x08builtins\x8c\x0bobject.mro\x94\x93."
    with pytest.raises((UnsafeFileError, UnpickleError)):
        loads(data)


def test_stand_ins_hold_attributes_and_nothing_else():
    names = {"argparse.Namespace": stand_in("argparse.Namespace")}
    loaded = loads(pickle.dumps(argparse.Namespace(lr=0.1, name="x"), 2), stand_ins=names)
    assert isinstance(loaded, StandIn)
    assert loaded.lr == 0.1
    assert vars(loaded) == {"lr": 0.1, "name": "x"}
    with pytest.raises(AttributeError):
        loaded.lr = 1
    with pytest.raises(AttributeError):
        type(loaded).lr = 1


def test_a_pickle_cannot_set_attributes_of_what_it_calls():
    # BUILD with a pair (None, {...}) sets attributes on whatever lies on the stack
    for target in (b"cargparse\nNamespace\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        data = b"\x80\x02" + target + b"(N}X\x01\x00\x00\x00aK\x01stb."
        with pytest.raises((UnpickleError, UnsafeFileError)):
            loads(data, stand_ins=CHECKPOINT_STAND_INS)


TENSORS = {
    "float": torch.arange(6.0).reshape(2, 3),
    "double": torch.ones(2, dtype=torch.float64),
    "half": torch.ones(2, dtype=torch.float16),
    "bfloat16": torch.tensor([1.5, -2.0, 3e30], dtype=torch.bfloat16),
    "int64": torch.arange(4),
    "int32": torch.arange(4, dtype=torch.int32),
    "int16": torch.arange(4, dtype=torch.int16),
    "int8": torch.arange(4, dtype=torch.int8),
    "uint8": torch.arange(4, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "slice": torch.arange(10.0)[2:8:2],
    "expanded": torch.ones(1).expand(1000),
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "buffer": torch.nn.Buffer(torch.ones(2)),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_tensors_of_every_kind_come_back_as_arrays(zipped):
    loaded = load_torch(saved(TENSORS, zipped))
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        wanted = tensor.detach()
        wanted = wanted.float() if wanted.dtype is torch.bfloat16 else wanted
        assert loaded[name].shape == tuple(tensor.shape), name
        assert loaded[name].dtype == wanted.numpy().dtype, name
        assert np.array_equal(loaded[name], wanted.numpy()), name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_tensors_that_share_a_storage_are_both_right(zipped):
    whole = torch.arange(8.0)
    loaded = load_torch(saved([whole, whole[2:5]], zipped))
    assert np.array_equal(loaded[1], [2, 3, 4])
    assert np.shares_memory(loaded[0], loaded[1])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_training_checkpoint_keeps_its_order(zipped):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "metrics": {"mae": np.float64(0.25), "curve": np.arange(3)},
        "epoch": 1.5,
    }
    loaded = load_torch(saved(checkpoint, zipped))
    assert list(loaded["state_dict"]) == list(model.state_dict())
    assert loaded["metrics"]["mae"] == 0.25
    assert loaded["metrics"]["curve"].tolist() == [0, 1, 2]
    assert loaded["optimizer"]["state"].keys() == optimizer.state_dict()["state"].keys()


def test_arrays_are_read_only_and_aligned():
    for zipped in (True, False):
        array = load_torch(saved({"a": torch.ones(3, dtype=torch.float64)}, zipped))["a"]
        assert array.flags.aligned
        assert not array.flags.writeable


def test_torch_agrees_for_uint16_and_its_like():
    tensors = [torch.arange(3).to(dtype) for dtype in (torch.uint16, torch.uint32, torch.uint64)]
    for loaded, tensor in zip(load_torch(saved(tensors)), tensors, strict=True):
        assert np.array_equal(loaded, tensor.numpy())


# ---------------------------------------------------------------- damage and bombs


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_torch_file_cut_anywhere_is_an_error(zipped):
    data = saved({"a": torch.ones(30), "b": [1, 2, 3]}, zipped)
    for cut in range(0, len(data) - 1, max(1, len(data) // 60)):
        with pytest.raises((UnpickleError, UnsafeFileError)):
            load_torch(data[:cut])


def test_a_tensor_may_not_reach_past_its_storage():
    good = pickle.dumps(torch.ones(2, 3), 2)
    name = good.index(b"_rebuild_tensor_v2")
    assert loads(good).shape == (2, 3)
    bad = good[:name] + good[name:].replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86")
    assert bad != good
    with pytest.raises(UnpickleError, match="past its storage"):
        loads(bad)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo of four billion places
        b"\x80\x02Np99999999999\n.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",  # a bytearray of a terabyte
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x04" + b"N" + b"\x85" * 1_000_000 + b".",  # tuples in tuples
        b"\x80\x04}N" + b"\x85" * 200_000 + b"Ns.",  # as a key, whose hash recurses
        b"\x80\x04}" + b"(" * 100_000 + b"t" * 100_000 + b"Ns.",
        b"",
        b"\x80",
        b".",
        b"0.",
        b"\x80\x04K\x01K\x02s.",
        b"\x80\x09N.",
        b"hello world",
    ],
    ids=range(15),
)
def test_bombs_and_nonsense_are_errors(data):
    with pytest.raises((UnpickleError, UnsafeFileError)):
        loads(data)


def test_deep_tuples_are_found_behind_lists_and_memos():
    step = b"]Na0" + b"\x85"  # a list in between resets no count
    with pytest.raises(UnpickleError, match="nested"):
        loads(b"\x80\x04}N" + step * 100_000 + b"Ns.")
    again = b"\x85\x94" + b"0h\x00"  # build, remember, drop, fetch
    deep = b"".join(
        b"\x85r" + struct.pack("<I", 0) + b"0j" + struct.pack("<I", 0) for _ in range(5000)
    )
    assert len(again) == 5
    with pytest.raises(UnpickleError, match="nested"):
        loads(b"\x80\x04}N" + deep + b"Ns.")


def test_deep_lists_of_arrays_are_bounded():
    array = pickle.dumps(np.arange(3), 2)[2:-1]
    with pytest.raises(UnpickleError):
        loads(b"\x80\x02" + b"]" * 5000 + array + b"a" * 5000 + b".")


def test_a_large_honest_table_loads():
    table = {f"random{k}": {"site": ((1.0, 2.0, k),), "miller": (1, 1, 1)} for k in range(5000)}
    assert loads(pickle.dumps(table)) == table
    assert loads(pickle.dumps(table, 2)) == table


def test_a_compressed_archive_bomb_is_refused():
    data, stream = saved({"a": torch.zeros(10)}), io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, bytes(50 << 20) if "data/0" in entry.filename else content)
    with pytest.raises(UnpickleError, match="inflates"):
        load_torch(stream.getvalue())


def test_a_file_with_a_flipped_byte_never_runs_or_crashes(tmp_path):
    data = bytearray(saved({"a": torch.arange(5.0), "b": np.float64(1)}, zipped=False))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        copy = bytearray(data)
        for place in rng.integers(0, len(copy), rng.integers(1, 4)):
            copy[place] = rng.integers(256)
        with contextlib.suppress(UnpickleError, UnsafeFileError):
            load_torch(bytes(copy))


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"nonsense")
    for read in (load, load_torch):
        with pytest.raises(UnpickleError, match=r"x\.pkl"):
            read(path)
        with pytest.raises(UnpickleError, match="absent"):
            read(tmp_path / "absent")


def test_a_torchscript_archive_is_no_checkpoint():
    module, stream = torch.nn.Linear(2, 2), io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(1))
        archive.writestr("m/constants.pkl", pickle.dumps(1))
    assert module is not None
    with pytest.raises(UnpickleError, match="TorchScript"):
        load_torch(stream.getvalue())


def test_neither_torch_nor_foreign_packages_are_imported():
    code = (
        "import sys, ase_nnp.files.unpickle, ase_nnp.datasets\n"
        "bad = {'torch', 'torch_geometric', 'omegaconf', 'ase.io'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
