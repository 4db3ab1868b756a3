"""The project's own files: a checksum over header and tensors, regular files only, opened once."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ase_nnp
from ase_nnp.errors import AseNnpError, CheckpointError
from ase_nnp.models.tensors import (
    read_header,
    read_sealed,
    read_tensors,
    tensor_hash,
    write_sealed,
)
from ase_nnp.uncertainty import load_uncertainty, save_uncertainty, wrap

HEADER = {"format": 1, "cutoff": 5.25, "words": ["a", "b"], "nested": {"epsilon": 0.125}}


@pytest.fixture
def sealed(tmp_path):
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    write_sealed(tmp_path / "x.nnp", "key", HEADER, tensors)
    return tmp_path / "x.nnp"


def test_a_sealed_file_comes_back(sealed):
    header, tensors = read_sealed(sealed, "key")
    assert header == HEADER
    assert torch.equal(tensors["w"], torch.arange(6.0).reshape(2, 3))
    assert read_sealed(sealed, "other") is None


def test_no_changed_bit_of_a_sealed_file_goes_unnoticed(sealed):
    good, damaged = sealed.read_bytes(), sealed.with_name("damaged")
    header, tensors = read_sealed(sealed, "key")
    for bit in range(8 * len(good)):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(content)
        try:
            result = read_sealed(damaged, "key")
        except CheckpointError:
            continue
        # What is left are bits that mean nothing: a blank of the padding, the key of another kind.
        assert result is None or result[0] == header
        assert result is None or all(torch.equal(result[1][k], v) for k, v in tensors.items())


def test_every_digit_of_the_header_is_covered(sealed):
    good = sealed.read_bytes()
    length = 8 + int.from_bytes(good[:8], "little")
    places = [k for k in range(8, length) if good[k : k + 1].isdigit()]
    assert len(places) > 50
    for place in places:
        content = bytearray(good)
        content[place] = ord("7") if good[place] != ord("7") else ord("3")
        sealed.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_sealed(sealed, "key")


def test_a_file_without_a_checksum_is_refused(sealed):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, str(sealed), metadata={"key": json.dumps(HEADER)})
    with pytest.raises(CheckpointError, match="no checksum"):
        read_sealed(sealed, "key")


@pytest.mark.parametrize(
    "change",
    [
        {"config": "/dev/zero"},
        {"config": ["a"]},
        {"config": {"sgima": 1}},
        {"family": ["lj"]},
        {"format": "1"},
        {"provenance": 3},
        {"corrections": [3]},
        {"corrections": {"a": 1}},
    ],
    ids=str,
)
def test_a_header_that_cannot_be_meant_is_our_error(tmp_path, change):
    path = tmp_path / "lj.nnp"
    ase_nnp.save_model(ase_nnp.build_model("lj", device="cpu"), path)
    header, tensors = read_sealed(path, "ase_nnp")
    write_sealed(path, "ase_nnp", header | change, tensors)
    with pytest.raises(AseNnpError):
        ase_nnp.load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 3},
        {"layers": [{}]},
        {"layers": [{"method": ["x"]}]},
        {"model": None},
        {"format": None},
    ],
    ids=str,
)
def test_an_uncertainty_that_cannot_be_meant_is_our_error(tmp_path, change):
    model, path = ase_nnp.build_model("lj", device="cpu"), tmp_path / "u"
    save_uncertainty(wrap("rotation", model), path)
    assert load_uncertainty(path, model)
    header, tensors = read_sealed(path, "ase_nnp_uncertainty")
    write_sealed(path, "ase_nnp_uncertainty", header | change, tensors)
    with pytest.raises(AseNnpError):
        load_uncertainty(path, model)


def irregular(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    return tmp_path / "fifo", tmp_path / "link", Path("/dev/zero")


def test_pipes_and_devices_are_refused_everywhere_a_model_is_taken(tmp_path):
    for path in irregular(tmp_path):
        calls = (
            lambda p: ase_nnp.load_model(p),
            lambda p: ase_nnp.load_model("lj", checkpoint=p),
            lambda p: ase_nnp.load_model("lj", weights=p, config={}),
            lambda p: ase_nnp.build_model("lj", p),
            lambda p: ase_nnp.NNPCalculator(str(p)),
            lambda p: ase_nnp.NNPCalculator(ase_nnp.build_model("lj"), uncertainty=p),
            read_tensors,
            read_header,
        )
        for call in calls:
            with pytest.raises(AseNnpError):
                call(path)


def test_a_model_file_is_opened_once(tmp_path, monkeypatch):
    path = tmp_path / "lj.nnp"
    ase_nnp.save_model(ase_nnp.build_model("lj", device="cpu"), path)
    opened = []
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, *a, **k: (opened.append(str(file)), real(file, *a, **k))[1]
    )
    ase_nnp.load_model(path)
    assert opened.count(str(path)) == 1


def test_damaged_archives_of_arrays_are_our_error(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.arange(100.0), b=np.ones((3, 3)))
    good, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.choice((1, 3))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(AseNnpError):
            read_tensors(path)


def test_an_archive_of_packed_zeros_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * (1 << 26))
    with pytest.raises(CheckpointError, match="inflates"):
        read_tensors(tmp_path / "w.npz")


def test_a_header_nested_without_end_is_our_error(tmp_path):
    text = b'{"__metadata__":' + b"[" * 200_000
    (tmp_path / "deep").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "deep")
    with pytest.raises(AseNnpError):
        ase_nnp.load_model(tmp_path / "deep")


def test_tensors_without_numbers_have_a_hash():
    empty = [tensor_hash({"w": torch.zeros(shape)}) for shape in ((8, 0), (0,), (0, 8))]
    assert len(set(empty)) == 3
