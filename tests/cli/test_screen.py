"""``ase-nnp screen``: run, status, merge, and options that cannot be meant."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk, fcc111

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


#: eV: what a search is made to answer, so that the table's numbers are known.
ENERGIES = {"Cu": (-0.2, 0.1), "Ni": (-0.5, -0.5), "Pd": (-0.6, -0.7)}


def answered(item, model, folder, **options):
    """The answer of a search for one item."""
    metal, guest = item.get_chemical_symbols()[0], item.info["adsorbate"]
    energy = ENERGIES[metal][["H", "O"].index(guest)]
    # The number of placements and the seed arrive where the search would use them.
    assert (options["placements"], options["seed"]) == (3, 7)
    item.info |= {"surface": f"{metal}-111", "adsorption_energy": energy, "site": "fcc hollow"}
    return item


def test_surfaces_and_adsorbates_are_screened_and_shown_as_a_table(
    run, tmp_path, model_file, monkeypatch
):
    from ase_nnp.workflows.adsorption import pairs

    monkeypatch.setattr(pairs, "most_stable", answered)
    slabs = [fcc111(metal, (1, 1, 2), vacuum=8.0) for metal in ENERGIES]
    write_dataset(tmp_path / "slabs.extxyz", slabs)
    (tmp_path / "threads.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def executor():\n    return ThreadPoolExecutor(1)\n"
    )
    command = ("screen", tmp_path / "slabs.extxyz", tmp_path / "run", "--task", "adsorb",
               "--adsorbates", "H,O", "--placements", 3, "--seed", 7, "--model", model_file,
               "--executor", tmp_path / "threads.py")  # fmt: skip
    code, out, err = run(*command, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["finished"] == 6

    table = ("screen", "table", tmp_path / "run")
    code, out, _ = run(*table, "--scaling", "H,O", "--picture", tmp_path / "line.png", "--json")
    said = json.loads(out)
    assert said["adsorbates"] == ["H", "O"]
    assert said["energies"] == [list(row) for row in ENERGIES.values()]
    # By hand: means -13/30 and -11/30, sums of products 0.1733 over squares 0.0867.
    assert said["scaling"][0]["slope"] == pytest.approx(2.0, rel=1e-9)
    assert said["scaling"][0]["count"] == 3
    assert (tmp_path / "line.png").exists()
    code, out, _ = run(*table, "--volcano", "H,-0.24", "--picture", tmp_path / "volcano.png")
    assert code == 0
    assert "Cu-111" in out
    assert (tmp_path / "volcano.png").exists()
    code, _, err = run(*table, "--scaling", "H,N")
    assert (code, "no adsorbate 'N'" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "adsorb"), "takes --adsorbates"),
        (("--adsorbates", "CO"), "go with --task adsorb"),
        (("--task", "adsorb", "--adsorbates", "CO,XY"), "XY"),
        (("--task", "adsorb", "--adsorbates", "CO", "--miller", "1x1"), "three integers"),
        (("--task", "adsorb", "--adsorbates", "CO", "--placements", "0"), "at least 1"),
    ],
)
def test_a_bad_search_ends_in_one_line(run, tmp_path, arguments, said):
    write_dataset(tmp_path / "in.extxyz", [fcc111("Cu", (2, 2, 2), vacuum=8.0)])
    code, out, err = run("screen", tmp_path / "in.extxyz", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
