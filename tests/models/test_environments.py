"""Environments for models: made whole or not at all, listed, removed, never taken from a file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

import ase_nnp
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError, WorkerError
from ase_nnp.models.remote.environments import (
    create_environment,
    find_environment,
    list_environments,
    remove_environment,
)
from ase_nnp.registry.installed import Registry


@pytest.fixture
def environments(tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_ENVIRONMENTS", str(tmp_path / "environments"))
    return tmp_path / "environments"


def bare(name, **options):
    """An environment without pip: quick, and nothing from the network."""
    return create_environment(name, base=(), **options)


def lend(environment, *packages):
    """Give an environment packages of ours by links, as an installation would."""
    import importlib.util

    (site,) = environment.folder.glob("lib/python*/site-packages")
    for name in packages:
        origin = Path(importlib.util.find_spec(name).origin).parent
        (site / name).symlink_to(origin)
        for extra in origin.parent.glob(f"{name}.libs"):
            (site / extra.name).symlink_to(extra)


@pytest.mark.slow
def test_an_environment_with_nothing_but_ase_runs_every_command(
    environments, tmp_path, capsys, monkeypatch
):
    made = bare("emt", calculator="ase.calculators.emt:EMT")
    lend(made, "ase", "numpy", "scipy")
    without = subprocess.run(
        [made.python, "-I", "-c", "import ase_nnp"], capture_output=True, text=True
    )
    assert "ModuleNotFoundError" in without.stderr
    registry = Registry()
    import ase_nnp.models.remote.plugin as plugin

    registry.add_plugin("workers", lambda: plugin)
    registry.add_plugin("datasets", lambda: ase_nnp.datasets)  # reads the structures
    assert registry.families["env:emt"].conservative
    monkeypatch.setattr("ase_nnp.models.files.installed", lambda: registry)
    monkeypatch.setattr("ase_nnp.registry.installed.installed", lambda: registry)
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=0)
    crystal.write(tmp_path / "cu.xyz")
    with pytest.raises(SystemExit) as stop:
        main(["predict", "env:emt", str(tmp_path / "cu.xyz"), "--json"])
    assert stop.value.code == 0
    crystal.calc = EMT()
    (row,) = json.loads(capsys.readouterr().out)
    assert row["energy"] == pytest.approx(crystal.get_potential_energy(), abs=1e-6)
    calc = ase_nnp.NNPCalculator("env:emt")
    assert calc.get_property("energy", crystal) == pytest.approx(crystal.get_potential_energy())
    remove_environment("emt")
    assert not environments.joinpath("emt").exists()


def test_an_environment_appears_whole_or_not_at_all(environments):
    with pytest.raises(WorkerError, match="nothing was kept"):
        bare("bad", python="/bin/false")
    assert list_environments() == []
    assert not (environments / "bad").exists()


def test_a_half_made_environment_is_not_there_and_is_made_anew(environments):
    (environments / "half" / "bin").mkdir(parents=True)
    (environments / "half" / "left").write_text("over")
    assert list_environments() == []
    bare("half")
    assert [e.name for e in list_environments()] == ["half"]
    assert not (environments / "half" / "left").exists()


def test_names_and_arguments_are_checked_first(environments):
    for name in ("", "a/b", "../x", "-x"):
        with pytest.raises(ConfigError, match="cannot name"):
            bare(name)
    with pytest.raises(ConfigError, match="JSON"):
        bare("x", arguments={"a": object()})
    with pytest.raises(ConfigError, match="ase-nnp env create"):
        find_environment("x")
    bare("x")
    with pytest.raises(ConfigError, match="already"):
        bare("x")


def test_the_command_line_lists_and_removes(environments, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return stop.value.code, capsys.readouterr()

    bare("one", calculator="a:b", arguments={"k": 1})
    code, out = run("env", "list", "--json")
    assert code == 0
    assert json.loads(out.out)[0]["arguments"] == {"k": 1}
    assert run("env", "create", "two", "--arguments", "[1]")[0] == 2
    assert run("env", "remove", "nobody")[0] == 2
    assert run("env", "remove", "one", "--json")[0] == 0
    assert list_environments() == []


def test_no_file_says_which_code_a_worker_runs(environments, tmp_path):
    import ase_nnp.models.remote.plugin as plugin

    bare("one", calculator="worker_models:emt")
    registry = Registry()
    registry.add_plugin("workers", lambda: plugin)
    evil = tmp_path / "environment.json"
    evil.write_text('{"calculator": "os:system", "arguments": {"command": "true"}}')
    with pytest.raises(ase_nnp.CheckpointError):
        registry.families["env:one"].load(evil)
