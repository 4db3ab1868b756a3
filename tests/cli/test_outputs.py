"""Where results go: every format of ASE, or a refusal before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.io.formats import ioformats

from ase_nnp.cli.commands.targets import free_name, open_target
from ase_nnp.errors import AseNnpError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    write("cu.xyz", atoms)
    write("two.xyz", [atoms, bulk("Cu", cubic=True)])


ENDINGS = sorted(
    {e for f in ioformats.values() if f.can_write for e in (f.extensions or [f.name])}
    - {"mysql", "postgresql"}
)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_of_ase_is_written_or_refused_before(ending, count):
    data = [bulk("Cu", cubic=True), bulk("Al", cubic=True)][:count]
    path = Path(f"out.{ending}")
    before = set(Path().iterdir())
    refusal = ""
    try:
        target = open_target(path, data, default="out.extxyz")
    except AseNnpError as error:
        refusal = str(error)
    assert set(Path().iterdir()) == before
    if refusal:
        assert refusal.startswith(str(path))
        return
    assert target.write(data) == path
    assert path.exists()
    assert not [p for p in Path().iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["q.traj", "q.cif", "POSCAR", "q.json", "q.extxyz.gz", "q.db"])
def test_a_relaxation_goes_to_any_format(run, name):
    code, out, err = run("relax", "lj", "cu.xyz", "-o", name, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["output"] == name
    relaxed = read(name)
    assert relaxed.get_chemical_formula() == "Cu4"
    if name in ("q.traj", "q.json", "q.db"):
        assert relaxed.get_potential_energy() == pytest.approx(report["structures"][0]["energy"])


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        (("relax", "lj", "cu.xyz"), "q.foo", "no format that can be written"),
        (("relax", "lj", "two.xyz"), "POSCAR", "these 2 structures"),
        (("predict", "lj", "cu.xyz"), "q.xtl", "cannot hold"),
        (("predict", "lj", "cu.xyz"), ".", "folder"),
        (("relax", "lj", "cu.xyz"), "cu.xyz", "--overwrite"),
        (("predict", "lj", "cu.xyz"), "nowhere/q.xyz", "no folder"),
        (("md", "lj", "cu.xyz", "--temperature", "300"), "q.foo", "no format"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_model_is_loaded(
    run, command, name, said, monkeypatch
):
    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("ase_nnp.models.files.load_model", loaded)
    code, _, err = run(*command, "-o", name)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_the_same_command_works_twice_and_replaces_nothing(run):
    for name in ("relaxed.extxyz", "relaxed-2.extxyz", "relaxed-3.extxyz"):
        code, out, _ = run("relax", "lj", "cu.xyz", "--json")
        assert code == 0
        assert json.loads(out)["output"] == name
    assert free_name(Path("relaxed.extxyz")) == Path("relaxed-4.extxyz")


def test_overwrite_replaces_a_named_output(run):
    Path("q.traj").write_text("mine")
    code, _, err = run("relax", "lj", "cu.xyz", "-o", "q.traj")
    assert code == 2
    assert "--overwrite" in err
    assert Path("q.traj").read_text() == "mine"
    code, _, err = run("relax", "lj", "cu.xyz", "-o", "q.traj", "--overwrite")
    assert code == 0, err
    assert len(read("q.traj")) == 4


def test_finished_work_is_kept_when_the_output_fails_at_the_end(run, monkeypatch):
    import ase.io

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ase_nnp.cli.commands.targets._rehearse", lambda *_: None)
    monkeypatch.setattr(ase.io, "write", full)
    code, out, err = run("relax", "lj", "cu.xyz", "-o", "q.traj", "--json")
    assert code == 0
    assert json.loads(out)["output"] == "q.traj.extxyz"
    assert "results are in q.traj.extxyz" in err
    assert len(read("q.traj.extxyz")) == 4


def test_what_did_not_converge_is_said_and_has_its_exit_code(run):
    code, out, err = run("relax", "lj", "cu.xyz", "--steps", 1, "--fmax", 1e-9)
    assert code == 3
    assert "1 of 1 did not converge" in err
    assert "NO" in out
    assert Path("relaxed.extxyz").exists()
    code, out, _ = run("relax", "lj", "cu.xyz", "--steps", 1, "--fmax", 1e-9, "--json")
    assert code == 3
    assert json.loads(out)["structures"][0]["converged"] is False
    _, out, _ = run("relax", "--help")
    assert "did not converge" in " ".join(out.split())


def test_stress_that_is_asked_for_is_printed_and_written(run):
    code, out, _ = run("predict", "lj", "cu.xyz", "--properties", "energy,stress", "-o", "p.traj")
    assert code == 0
    assert "(GPa)" in out
    stress = read("p.traj").get_stress()
    from ase.units import GPa

    assert f"{stress[0] / GPa:.4f}" in out


def test_version_and_list_and_completion(run, monkeypatch):
    from ase_nnp import __version__

    assert run("--version") == (0, f"ase_nnp {__version__}\n", "")
    code, out, _ = run("models", "list", "--json")
    assert code == 0
    assert {m["name"] for m in json.loads(out)["models"]} >= {"facet", "scn"}
    code, out, _ = run("--help")
    assert "--install-completion" in out


def test_without_a_model_the_default_one_answers(run, monkeypatch):
    import ase_nnp.models.files as files

    asked = []
    original = files.load_model

    def default(model=None, **options):
        asked.append(model)
        return original("lj" if model is None else model, **options)

    monkeypatch.setattr(files, "load_model", default)
    assert run("predict", "cu.xyz")[0] == 0
    assert run("md", "cu.xyz", "--temperature", 300, "--steps", 1)[0] == 0
    labeled = bulk("Cu", cubic=True)
    labeled.calc = EMT()
    labeled.get_forces()
    write("labeled.xyz", labeled)
    assert run("evaluate", "labeled.xyz")[0] == 0
    assert asked.count(None) == 3


def test_a_shell_completes_commands(tmp_path):
    import os
    import subprocess
    import sys

    asked = {"_ASE_NNP_COMPLETE": "complete_bash", "COMP_WORDS": "ase-nnp rel", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from ase_nnp.cli import main; main()"],
        capture_output=True, text=True, env={**os.environ, **asked}, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["relax"]


def test_an_interruption_keeps_what_is_done(run, monkeypatch):
    import ase_nnp.workflows.batched as batched

    original = batched.iter_relax

    def interrupted(*args, **options):
        yield next(original(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(batched, "iter_relax", interrupted)
    code, out, err = run("relax", "lj", "two.xyz", "-o", "q.traj", "--json")
    assert code == 130
    assert "1 of 2 structures are done" in err
    assert len(json.loads(out)["structures"]) == 1
    assert len(read("q.traj", ":")) == 1


def test_a_run_in_a_folder_replaces_no_output_of_another(run):
    Path("relaxed.extxyz").write_text("mine")
    words = ("relax", "lj", "cu.xyz", "--steps", 1)
    for _ in range(2):
        _, out, _ = run(*words, "--folder", "run", "--json")
        assert json.loads(out)["output"] == str(Path("run/relaxed.extxyz"))
    assert Path("relaxed.extxyz").read_text() == "mine"
    # A name that is given is taken already when the run begins; when it goes on, it is its own.
    code, _, err = run(*words, "--folder", "other", "-o", "relaxed.extxyz")
    assert (code, "--overwrite" in err) == (2, True)
    run(*words, "--folder", "third", "-o", "third.extxyz")
    assert run(*words, "--folder", "third", "-o", "third.extxyz")[0] == 3
    code, _, err = run(*words, "--folder", "cu.xyz")
    assert (code, "--folder cu.xyz" in err) == (2, True)
