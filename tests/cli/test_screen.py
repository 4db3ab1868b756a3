"""``ase-nnp screen``: run, status, merge, and options that cannot be meant."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk

from ase_nnp import build_model, open_dataset, save_model, write_dataset
from ase_nnp.workflows.tasks import ModelTask


@pytest.fixture
def model_file(tmp_path):
    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    save_model(build_model("cgcnn_oc20", config, seed=0, device="cpu"), tmp_path / "m.nnp")
    return str(tmp_path / "m.nnp")


def numbered(n):
    structures = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        structures.append(atoms)
    return structures


def test_the_command_screens_says_how_far_it_is_and_merges(run, tmp_path, model_file):
    write_dataset(tmp_path / "in.extxyz", numbered(7))
    (tmp_path / "threads.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def executor():\n    return ThreadPoolExecutor(1)\n"
    )
    common = ("screen", tmp_path / "in.extxyz", tmp_path / "run", "--model", model_file,
              "--executor", tmp_path / "threads.py", "--chunk", 2)  # fmt: skip
    code, out, err = run(*common, "--task", "predict", "--shard", "1/2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["finished"] == 3
    code, out, _ = run(*common, "--task", "predict", "--json")
    assert json.loads(out)["computed"] == 4
    code, out, _ = run("screen", "status", tmp_path / "run", "--json")
    assert json.loads(out)["complete"]
    code, out, _ = run("screen", "merge", tmp_path / "run", tmp_path / "out.extxyz")
    assert code == 0
    assert "7 of 7 structures" in out
    expected = ModelTask(model_file, task="predict", device="cpu").many(numbered(7))
    for one, two in zip(open_dataset(tmp_path / "out.extxyz"), expected, strict=True):
        assert one.get_potential_energy() == pytest.approx(two.get_potential_energy(), abs=1e-6)
    code, _, err = run(*common, "--task", "relax")
    assert code == 2
    assert "holds another run" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "2/2"), "write i/n"),
        (("--task", "dance"), "No task 'dance'"),
        (("--optimizer", "Magic"), "No batched optimizer 'Magic'"),
        (("--executor", "nowhere.py"), "no such file"),
    ],
)
def test_a_bad_option_ends_in_one_line(run, tmp_path, model_file, arguments, said):
    write_dataset(tmp_path / "in.extxyz", numbered(1))
    code, out, err = run(
        "screen", tmp_path / "in.extxyz", tmp_path / "run", "--model", model_file, *arguments
    )
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
