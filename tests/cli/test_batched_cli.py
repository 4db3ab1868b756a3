"""``ase-nnp relax`` and ``ase-nnp md`` on files of many structures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from ase_nnp import load_model
from ase_nnp.uncertainty import fit, save_uncertainty

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def clusters(tmp_path):
    structures = []
    for seed in range(3):
        atoms = bulk("Cu", cubic=True) * (1 + seed, 1, 1)
        atoms.rattle(0.1, seed=seed)
        structures.append(atoms)
    write(tmp_path / "in.xyz", structures)
    return tmp_path / "in.xyz"


@pytest.mark.slow
def test_many_structures_relax_and_the_same_command_goes_on(run, clusters, tmp_path):
    call = (
        "relax", DATA / "toy.nnp", clusters, "-o", tmp_path / "out.extxyz", "--dtype", "float64",
        "--folder", tmp_path / "run", "--optimizer", "FIRE", "--json",
    )  # fmt: skip
    code, out, err = run(*call)
    assert code == 0, err
    rows = json.loads(out)["structures"]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert all(row["converged"] and row["energy"] < row["energy_before"] for row in rows)
    last = read(tmp_path / "out.extxyz", ":")
    for k, row in enumerate(rows):
        path = read(tmp_path / "run" / f"{k:06d}.traj", ":")
        assert len(path) == row["steps"] + 1
        np.testing.assert_allclose(path[-1].positions, last[k].positions, atol=1e-7)
    code, out, err = run(*call)
    assert code == 0, err
    assert json.loads(out)["structures"] == rows


def test_dynamics_of_many_structures_end_where_they_should(run, clusters, tmp_path):
    code, out, err = run(
        "md", DATA / "toy.nnp", clusters, "-o", tmp_path / "last.extxyz", "--steps", 20,
        "--temperature", 300, "--folder", tmp_path / "run", "--interval", 5, "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert [row["status"] for row in report["structures"]] == ["finished"] * 3
    frames = read(tmp_path / "run" / "000002.traj", ":")
    assert [atoms.info["step"] for atoms in frames] == [0, 5, 10, 15, 20]
    assert frames[-1].get_temperature() > 30
    assert len(read(tmp_path / "last.extxyz", ":")) == 3


@pytest.fixture
def bars(tmp_path):
    """Error bars of the small model that know crystals of copper, with EMT as the truth."""

    def crystals(count, seed):
        frames = [bulk("Cu", cubic=True) for _ in range(count)]
        for number, atoms in enumerate(frames):
            atoms.rattle(0.05, seed=1000 * seed + number)
            truth = atoms.copy()
            truth.calc = EMT()
            results = {"energy": truth.get_potential_energy(), "forces": truth.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **results)
        return frames

    model = load_model(DATA / "toy.nnp", device="cpu")
    fitted = fit("auto", model, train=crystals(20, 1), calibration=crystals(12, 2))
    save_uncertainty(fitted, tmp_path / "toy.uq")
    return tmp_path / "toy.uq"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["relax", "md"])
def test_a_structure_that_the_flag_marks_stops_and_the_others_go_on(run, bars, tmp_path, command):
    known, strange = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    known.rattle(0.02, seed=3)
    strange.positions[1] += [0.0, 0.5, 0.5]
    write(tmp_path / "in.xyz", [known, strange])
    more = {"relax": ("--fmax", 0.2), "md": ("--temperature", 1)}[command]
    code, out, err = run(
        command, DATA / "toy.nnp", tmp_path / "in.xyz", "-o", tmp_path / "out.extxyz",
        "--uncertainty", bars, "--stop-at-flag", "--steps", 3, "--json", *more,
    )  # fmt: skip
    rows = json.loads(out)["structures"]
    assert rows[0]["status"] != "stopped", err
    assert rows[1]["status"] == "stopped"
    assert "ood_flag" in rows[1]["reason"]
    assert rows[1]["steps"] == 0
    assert code == (3 if command == "relax" else 0)
    last = read(tmp_path / "out.extxyz", 1)
    np.testing.assert_allclose(last.positions, strange.positions, atol=1e-6)


def test_one_structure_that_fails_is_named_and_the_exit_code_is_1(run, tmp_path):
    good = bulk("Cu", cubic=True)
    strange = Atoms("Xe2", positions=[[0, 0, 0], [0, 0, 2]])
    write(tmp_path / "in.xyz", [good, strange])
    code, out, _ = run(
        "relax", DATA / "toy.nnp", tmp_path / "in.xyz", "-o", tmp_path / "out.extxyz", "--json"
    )
    rows = json.loads(out)["structures"]
    assert code == 1
    assert [row["status"] for row in rows] == ["converged", "failed"]
    assert "Xe" in rows[1]["reason"]
    assert len(read(tmp_path / "out.extxyz", ":")) == 1
    code, _, err = run("md", DATA / "toy.nnp", tmp_path / "in.xyz", "--index", 1, "--steps", 2)
    assert code == 2
    assert len(err.strip().splitlines()[-1:]) == 1
    assert "temperature" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("md", "--ensemble", "npx"),
        ("md", "--ensemble", "nvt"),
        ("md", "--index", 9),
        ("md", "--temperature", 300, "--timestep", 0),
        ("relax", "--folder", "run", "--optimizer", "FIRE2"),
        ("relax", "--folder", "run", "--trajectory", "xyz"),
        ("relax", "--stop-above", 0.1),
        ("relax", "--stop-at-flag"),
        ("md", "--temperature", 300, "--stop-at-flag"),
        ("relax", "--stop-above", 0.1, "--stop-at-flag"),
    ],
)
def test_bad_options_end_in_one_line(run, clusters, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    code, _, err = run(command, DATA / "toy.nnp", clusters, "-o", "o.xyz", "--json", *rest)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("ase-nnp: ")
