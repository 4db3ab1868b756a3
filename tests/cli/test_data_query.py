"""``ase-nnp data query``: lists, counts, groups, joins and writes, and refuses in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp import open_dataset, write_dataset
from ase_nnp.cli import main


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path / "cache"))
    frames = []
    for k, metal in enumerate(["Cu", "Pt", "Cu", "Ni"]):
        atoms = fcc111(metal, (1, 1, 3), vacuum=6.0)
        atoms.set_tags(np.where(atoms.get_tags() == 1, 1, 0))
        adsorbate = molecule("CO")
        adsorbate.set_tags([2, 2])
        add_adsorbate(atoms, adsorbate, 2.0)
        atoms.pbc = True
        atoms.info = {"sid": k, "adsorption_energy": -0.5 * k}
        atoms.calc = SinglePointCalculator(atoms, energy=float(-k))
        frames.append(atoms)
    write_dataset(tmp_path / "data.extxyz", frames)
    return tmp_path / "data.extxyz"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    output = capsys.readouterr()
    return stop.value.code, output.out, output.err


def test_a_query_lists_and_writes_what_meets_it(source, tmp_path, capsys):
    question = "adsorbate = '*CO' and Cu and energy <= 0"
    target = tmp_path / "out.aselmdb"
    code, out, _ = run(capsys, "data", "query", source, question, "--json", "--to", target)
    answer = json.loads(out)
    assert code == 0
    assert (answer["matches"], answer["records"], answer["written"]) == (2, 4, 2)
    assert [row["position"] for row in answer["rows"]] == [0, 2]
    assert [a.info["sid"] for a in open_dataset(target)] == [0, 2]

    code, out, _ = run(capsys, "data", "query", source, question)
    assert code == 0
    assert "2 of 4 records" in out


def test_groups_are_printed_and_drawn(source, tmp_path, capsys):
    picture = tmp_path / "groups.png"
    arguments = ["--by", "element", "--picture", picture, "--json"]
    code, out, _ = run(capsys, "data", "query", source, *arguments)
    groups = {row["group"]: row for row in json.loads(out)["groups"]}
    assert code == 0
    assert groups["Cu"]["records"] == 2
    assert groups["Cu"]["mean"] == pytest.approx(-0.5)
    assert picture.stat().st_size > 1000


def test_pairs_are_listed(source, capsys):
    code, out, _ = run(capsys, "data", "query", source, "Cu", "--pairs", "--json")
    assert code == 0
    assert [pair["adslab"] for pair in json.loads(out)["pairs"]] == [0, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["energy <"],
        ["adsorbate = '*CO'; DROP TABLE records"],
        ["Cu", "--by", "nothing"],
        ["Cu", "--columns", "sid,nothing"],
        ["Cu", "--by", "adsorbate", "--of", "formula"],
        ["Au", "--to", "nothing.aselmdb"],
        ["Cu", "--mapping", "nowhere.pkl"],
    ],
)
def test_a_wrong_question_ends_in_one_line_and_exit_code_2(source, capsys, arguments):
    code, _, err = run(capsys, "data", "query", source, *arguments)
    assert code == 2
    assert err.startswith("ase-nnp: ")
    assert len(err.strip().splitlines()) == 1


def test_a_name_that_no_record_has_is_answered_with_those_there_are(source, capsys):
    code, out, err = run(capsys, "data", "query", source, "adsorbate = 'CO'")
    assert code == 0
    assert "0 of 4 records" in out
    assert "*CO" in err


@pytest.mark.parametrize("command", [["query", "--picture"], ["plot", "--output"]])
def test_a_picture_without_a_folder_is_refused_before_anything_is_read(
    source, tmp_path, capsys, command
):
    arguments = ["data", command[0], source, command[1], tmp_path / "none" / "a.png"]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "there is no folder" in err
    assert not (tmp_path / "cache").exists()


def test_an_option_that_a_format_does_not_have_is_named(source, capsys):
    code, _, err = run(capsys, "data", "info", source, "--units", "energy=Hartree")
    assert code == 2
    assert "format extxyz has no option 'units'" in err
