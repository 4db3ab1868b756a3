"""The words of a checkpoint are read without building it."""

from __future__ import annotations

import pickle

import pytest
import torch

import ase_nnp
from ase_nnp.files.outline import checkpoint_words
from ase_nnp.models.checkpoints import load_file

CONTENT = {
    "config": {"model": "mine", "layers": 3},
    "state_dict": {"first.weight": torch.zeros(200, 200), "first.bias": torch.zeros(200)},
}


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_keys_names_and_settings_are_words_in_both_layouts(tmp_path, zipped):
    torch.save(CONTENT, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    words = checkpoint_words(tmp_path / "a.pt")
    assert {"config", "mine", "state_dict", "first.weight", "first.bias"} <= words
    assert "collections.OrderedDict" in words or "torch._utils._rebuild_tensor_v2" in words


def test_nothing_runs_while_words_are_read(tmp_path, capsys):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"key": Payload()}, protocol=4))
    words = checkpoint_words(tmp_path / "a.pkl")
    assert {"key", "builtins.print"} <= words
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04garbage", b"x" * 999])
def test_a_file_of_another_kind_has_no_words_or_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert checkpoint_words(tmp_path / "a") == frozenset()


def test_only_the_family_that_knows_a_file_unpickles_it(shared, monkeypatch):
    asked = []
    for family in ase_nnp.list_models().values():
        if family.load is not None:
            wrapped = lambda *a, load=family.load, name=family.name, **k: (  # noqa: E731
                asked.append(name) or load(*a, **k)
            )
            monkeypatch.setitem(family.__dict__, "load", wrapped)
    files = {
        "checkpoints/scn_v1_training_format.pt": "scn",
        "checkpoints/escaip_v1_training_format.pt": "escaip",
        "checkpoints/escaip_v2_inference_ckpt.pt": "escaip",
        "cgcnn/formation-energy-per-atom.pth.tar": "cgcnn",
    }
    for file, name in files.items():
        asked.clear()
        assert load_file(shared / "reference" / file, {}).family == name
        assert asked == [name]
