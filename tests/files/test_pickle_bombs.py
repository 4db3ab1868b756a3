"""Pickles of a few hundred bytes that would hang or fill the memory are refused at once."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile

import numpy as np
import pytest
import torch

from ase_nnp.datasets import load_mapping, open_dataset
from ase_nnp.errors import CheckpointError, DatasetError
from ase_nnp.files import pickle_scan
from ase_nnp.files.unpickle import UnpickleError, load_torch, loads
from ase_nnp.models.tensors import read_tensors

PROTO = b"\x80\x02"


def put(index):
    return b"q%c" % index


def get(index):
    return b"h%c" % index


def doubled(levels, first=b"K\x01", make=b"\x86", again=get, index=lambda level: level):
    """A value that holds the one before twice, so many times over; the last is on the stack."""
    code = first + put(index(0))
    for level in range(levels):
        code += again(index(level)) + make + put(index(level + 1))
    return code


def word(text):
    return b"X" + struct.pack("<I", len(text)) + text


def called(name, arguments, count=None):
    module, _, name = name.rpartition(".")
    close = {1: b"\x85", 2: b"\x86", 3: b"\x87"}[count or 1]
    return b"c%s\n%s\n" % (module.encode(), name.encode()) + arguments + close + b"R"


TUPLES = doubled(40)
LISTS = b"]" + put(0) + b"".join(b"0](" + get(k) + get(k) + b"e" + put(k + 1) for k in range(40))
COLLIDING_INTEGERS = b"".join(
    b"\x8a\x1e" + (1 + k * (2**61 - 1) * 2**150).to_bytes(30, "little") for k in range(20_000)
)
# hash(a + bj) = hash(a) + 1000003 hash(b): these all have one.
COMPLEX = b"".join(
    b"h\x00G" + struct.pack(">d", -1000003.0 * k) + b"G" + struct.pack(">d", k) + b"\x86R"
    for k in range(20_000)
)
BOMBS = {
    "a key of tuples": b"}" + TUPLES + b"Ns",
    "many keys of tuples": b"}(" + TUPLES + b"Nu",
    "a key at the end": b"(" + TUPLES + b"Nd",
    "a member of a set": b"\x8f(" + TUPLES + b"\x90",
    "a member of a frozen set": b"(" + TUPLES + b"\x91",
    "a set made of a list": called("builtins.set", b"](" + TUPLES + b"e"),
    "a set made of a list that is filled late": b"cbuiltins\nset\nq\xf0]q\xf1\x85q\xf20h\xf1("
    + TUPLES
    + b"e0h\xf0h\xf2R",
    "a dictionary of pairs": called("collections.OrderedDict", b"](" + TUPLES + b"N\x86e"),
    "the state of a holder": b"ctorch_geometric.data.data\nData\n)\x81}" + TUPLES + b"Nsb",
    "tuples made by a call": b"}" + doubled(40, make=b"\x86cbuiltins\nfrozenset\n0") + b"Ns",
    "copies made by DUP": b"}K\x01" + b"2\x86" * 40 + b"Ns",
    "one index used again": b"}" + doubled(40, index=lambda level: 0) + b"Ns",
    "one index by two instructions": b"}"
    + doubled(40, again=lambda i: b"j" + struct.pack("<I", i))
    + b"Ns",
    "a message about a dtype": called("numpy.dtype", TUPLES),
    "a message about an encoding": called("_codecs.encode", word(b"a") + TUPLES, 2),
    "a message about an offset": called(
        "torch._utils._rebuild_tensor", b"cnumpy\nndarray\n" + TUPLES, 2
    ),
    "lists in lists": LISTS,
    "plain tuples": TUPLES,
    "words joined with themselves": doubled(
        40, first=word(b"abcd"), make=b"\x86q\xf00cpathlib\nPosixPath\nh\xf0R"
    ),
    "long words joined often": word(b"a" * 100_000)
    + b"q\x000cpathlib\nPosixPath\nq\x010("
    + b"h\x01h\x00h\x00\x86R" * 2000
    + b"l",
    "bytes encoded often": word(b"a" * 100_000)
    + b"q\x000c_codecs\nencode\nq\x010("
    + b"h\x01h\x00X\x06\0\0\0latin1\x86R" * 2000
    + b"l",
    "integers of one hash": b"}(" + COLLIDING_INTEGERS.replace(b"\x8a\x1e", b"N\x8a\x1e") + b"Nd",
    "complex numbers of one hash": b"cbuiltins\ncomplex\nq\x000\x8f(" + COMPLEX + b"\x90",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_unfolds_without_end_is_refused(name, protocol):
    data = b"\x80%c" % protocol + BOMBS[name] + b"."
    with pytest.raises((UnpickleError, CheckpointError)):
        loads(data)


def test_small_shared_values_are_as_good_as_ever():
    shared = (1, 2, ("a", 3))
    value = {"list": [shared] * 50, (1, 2): shared, 1.5: "x", frozenset({1}): None, 2**70: 1}
    for protocol in range(6):
        assert loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_following_values_agrees_with_python_on_what_it_lets_through(protocol):
    pairs = {(a, b): float(a) for a in range(40) for b in range(40)}
    data = pickle.dumps([pairs, {1.5 * k: [(k,) * 3] for k in range(500)}, {2**80 + 1}], protocol)
    pickle_scan.follow(data, 0, len(data) - 1)
    assert loads(data)[0] == pairs


def stored(tensors, tmp_path, rewrite):
    """Save tensors, and rewrite the pickle among them."""
    torch.save(tensors, tmp_path / "good.pt")
    source = zipfile.ZipFile(tmp_path / "good.pt")
    target = tmp_path / "bad.pt"
    with source, zipfile.ZipFile(target, "w") as archive:
        for entry in source.namelist():
            data = source.read(entry)
            archive.writestr(entry, rewrite(data) if entry.endswith("data.pkl") else data)
    return target


def test_a_thousand_tensors_of_one_number_are_refused(tmp_path):
    one = torch.zeros(1)
    views = {f"w{k}": one.expand(1 << 20) for k in range(1000)}
    torch.save(views, tmp_path / "views.pt")
    assert (tmp_path / "views.pt").stat().st_size < 200_000
    for read in (load_torch, read_tensors):
        with pytest.raises(CheckpointError, match="many times the size"):
            read(tmp_path / "views.pt")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_storage_that_is_used_again_and_again_is_refused(tmp_path, kind):
    one = torch.zeros(100_000, dtype=kind)
    torch.save({f"w{k}": one[:99_999] for k in range(5000)}, tmp_path / "views.pt")
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "views.pt")


def test_tied_weights_and_expanded_ones_are_read(tmp_path):
    weight = torch.arange(1000.0)
    torch.save({"a": weight, "b": weight, "c": torch.ones(1).expand(50, 3)}, tmp_path / "tied.pt")
    tensors = read_tensors(tmp_path / "tied.pt")
    assert torch.equal(tensors["a"], tensors["b"])
    assert torch.equal(tensors["c"], torch.ones(50, 3))


def test_every_door_of_pickles_is_guarded(tmp_path):
    import lmdb

    bomb = PROTO + BOMBS["a key of tuples"] + b"."
    (tmp_path / "map.pkl").write_bytes(bomb)
    with pytest.raises(DatasetError):
        load_mapping(tmp_path / "map.pkl")

    path = str(tmp_path / "x.lmdb")
    with lmdb.open(path, subdir=False, lock=False) as file, file.begin(write=True) as transaction:
        transaction.put(b"0", bomb)
        transaction.put(b"length", pickle.dumps(1))
    with pytest.raises(DatasetError):
        open_dataset(tmp_path / "x.lmdb")[0]

    for zipped in (True, False):
        good = io.BytesIO()
        torch.save({"marker": 77}, good, _use_new_zipfile_serialization=zipped)
        if zipped:
            path = stored({"a": 1}, tmp_path, lambda data: bomb)
        else:
            plain = pickle.dumps({"marker": 77}, 2)
            assert plain in good.getvalue()
            path = tmp_path / "old.pt"
            path.write_bytes(good.getvalue().replace(plain, bomb))
        with pytest.raises(CheckpointError):
            load_torch(path)


def test_the_bombs_are_pickles():
    for name, bomb in BOMBS.items():
        *_, last = pickletools.genops(PROTO + bomb + b".")
        assert last[0].name == "STOP", name


def test_arrays_over_the_same_bytes_count_each_time():
    array = np.zeros(100_000)
    head = pickle.dumps(array, 2)
    many = pickle.dumps([array.reshape(1, -1)[0] for _ in range(3)], 2)
    assert len(loads(many)) == 3
    assert np.array_equal(loads(head), array)
