"""A plugin from the template: written, installed beside nothing, checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ase_nnp import ConfigError
from ase_nnp.cli import main
from ase_nnp.registry import Registry, installed
from ase_nnp.template import write_plugin


@pytest.fixture
def environment(tmp_path):
    """A process environment in which a plugin from the template is installed."""
    write_plugin("mine", tmp_path)
    info = tmp_path / "ase_nnp_mine" / "ase_nnp_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ase_nnp_mine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[ase_nnp]\nmine = ase_nnp_mine\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "ase_nnp_mine")}


def run(*arguments, environment, cwd):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd
    )


def test_a_plugin_from_the_template_passes_its_check(environment, tmp_path):
    code = "from ase_nnp.cli import main; main(['plugin', 'check', 'mine', '--json'])"
    done = run("-c", code, environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = {o["check"]: o["status"] for o in json.loads(done.stdout)}
    assert set(outcomes.values()) == {"passed"}
    assert "forces_are_minus_the_gradient" in outcomes


@pytest.mark.slow
def test_its_own_tests_and_the_pytest_option_pass(environment, tmp_path):
    own = run("-m", "pytest", "-q", environment=environment, cwd=tmp_path / "ase_nnp_mine")
    assert own.returncode == 0, own.stdout
    option = ("-m", "pytest", "-q", "--pyargs", "ase_nnp.testing", "--nnp-model", "mine")
    done = run(*option, environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_a_check_that_fails_is_exit_code_1(capsys, monkeypatch):
    from lj_model import LennardJones

    def wrong(self, graph, properties):
        found = super(LennardJones, self).compute(graph, properties)
        return {k: 2 * v if k == "stress" else v for k, v in found.items()}

    monkeypatch.setattr(LennardJones, "compute", wrong, raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["plugin", "check", "lj"])
    assert stop.value.code == 1
    assert "violated" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["My-Model", "class", "1st", ""])
def test_names_that_cannot_be_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="cannot name"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    write_plugin("mine", tmp_path)
    with pytest.raises(ConfigError, match="already"):
        write_plugin("mine", tmp_path)


def test_the_registry_of_these_tests_is_whole():
    assert isinstance(installed(), Registry)
    assert not installed().broken
