"""A plugin from the template: written, installed beside nothing, checked."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from ase_nnp import ConfigError
from ase_nnp.cli import main
from ase_nnp.cli.commands.plugin import _row, _why_not_built
from ase_nnp.registry.installed import Registry, installed
from ase_nnp.testing.outcomes import Outcome
from ase_nnp.testing.template import write_plugin


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


@pytest.mark.slow
def test_a_plugin_from_the_template_passes_its_check(environment, tmp_path):
    code = "from ase_nnp.cli import main; main(['plugin', 'check', 'mine', '--json'])"
    done = run("-c", code, environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = {o["check"]: o["status"] for o in json.loads(done.stdout)}
    # Lennard-Jones gives no atomic energies and declares no core, which nobody owes.
    others = {k for k, status in outcomes.items() if status != "passed"}
    assert others <= {"atomic_energies_add_up", "repulsive_core"}
    assert "forces_are_minus_the_gradient" in outcomes


@pytest.mark.slow
def test_its_own_tests_and_the_pytest_option_pass(environment, tmp_path):
    own = run("-m", "pytest", "-q", environment=environment, cwd=tmp_path / "ase_nnp_mine")
    assert own.returncode == 0, own.stdout
    option = ("-m", "pytest", "-q", "--pyargs", "ase_nnp.testing", "--nnp-model", "mine")
    done = run(*option, environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


DEFECTS = {
    "import error": ("__init__.py", "from ase_nnp import ModelFamily, hookimpl",
                     "from ase_nnp import ModelFamilly, hookimpl"),
    "missing dependency": ("__init__.py", "from ase_nnp import ModelFamily",
                           "import acme_kernels\nfrom ase_nnp import ModelFamily"),
    "wrong hook": ("__init__.py", "def register_models(", "def register_model("),
    "newer interface": ("__init__.py", "@hookimpl", "ase_nnp_api = 2\n\n@hookimpl"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_plugin_that_cannot_be_used_says_how(kind, environment, tmp_path):
    name, old, new = DEFECTS[kind]
    path = tmp_path / "ase_nnp_mine" / "ase_nnp_mine" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    code = "from ase_nnp.cli import main; main(['plugin', 'check', 'mine'])"
    done = run("-c", code, environment=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert f"cannot be used: {kind}:" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    if kind == "missing dependency":
        assert "pip install acme_kernels" in done.stderr


BROKEN_PHYSICS = {
    "stress in GPa": (
        "def compute(self, graph, properties):\n"
        "        results = super().compute(graph, properties)\n"
        "        return {k: v * 160.21766 if k == 'stress' else v for k, v in results.items()}\n",
        {"stress_is_the_strain_derivative"},
    ),
    "forces that are no gradient": (
        "def compute(self, graph, properties):\n"
        "        results = super().compute(graph, properties)\n"
        "        return {k: v * 1.01 if k == 'forces' else v for k, v in results.items()}\n",
        {"forces_are_minus_the_gradient"},
    ),
    "a leak between structures of a batch": (
        "def compute(self, graph, properties):\n"
        "        results = super().compute(graph, properties)\n"
        "        results['energy'] += 1e-3 * (graph.num_structures - 1)\n        return results\n",
        {"batching_changes_nothing"},
    ),
}


@pytest.mark.parametrize("defect", BROKEN_PHYSICS)
def test_physics_that_is_wrong_is_named_with_its_figure(defect, tmp_path, monkeypatch):
    from ase_nnp.testing import make_subject, run_checks

    write_plugin("mine", tmp_path)
    method, expected = BROKEN_PHYSICS[defect]
    package = tmp_path / "ase_nnp_mine" / "ase_nnp_mine"
    path = package / "model.py"
    path.write_text(path.read_text() + f"\n    {method}")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [n for n in sys.modules if n.startswith("ase_nnp_mine")]:
        monkeypatch.delitem(sys.modules, name)
    registry = installed()
    registry.add_plugin("mine", lambda: importlib.import_module("ase_nnp_mine"))
    try:
        outcomes = {o.check: o for o in run_checks(make_subject("mine"))}
    finally:
        registry.pm.unregister(name="mine")
        registry.families.pop("mine")
        registry.owners.pop("ModelFamily:mine")
    wrong = {name for name, o in outcomes.items() if not o.ok}
    assert expected <= wrong
    assert len(wrong) <= 2, wrong  # and nothing else is blamed but what follows from it
    for name in expected:
        assert "Measured" in outcomes[name].message


@pytest.mark.slow
def test_a_plugin_is_written_installed_and_checked(tmp_path):
    """In a virtual environment of its own, which sees the present packages (no network)."""
    import site
    from importlib.metadata import distributions

    # Looking for pip's module warns where a compiler test has imported distutils before.
    needed = {"pip", "hatchling", "editables"}
    if not needed <= {each.name.lower() for each in distributions() if each.name}:
        pytest.skip("needs pip, hatchling and editables here, to install without a network")
    python = tmp_path / "env" / "bin" / "python"

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (own,) = (tmp_path / "env").glob("lib/python*/site-packages")
    folders = [*site.getsitepackages(), *(p for p in sys.path if p.endswith("site-packages"))]
    lines = [f"import site; site.addsitedir({f!r})" for f in dict.fromkeys(folders)]
    (own / "present.pth").write_text("\n".join(lines) + "\n")
    steps = [
        ["ase-nnp", "plugin", "new", "fresh"],
        ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "-e", "ase_nnp_fresh"],
        ["ase-nnp", "models", "show", "fresh", "--json"],
        ["ase-nnp", "plugin", "check", "fresh", "--json"],
    ]  # fmt: skip
    for step in steps:
        if step[0] == "ase-nnp":
            step = ["-c", f"from ase_nnp.cli import main; main({step[1:]!r})"]
        done = subprocess.run(
            [python, *step], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    others = {o["check"] for o in outcomes if o["status"] != "passed"}
    assert others <= {"atomic_energies_add_up", "repulsive_core"}


def test_a_check_that_fails_is_exit_code_1(capsys, monkeypatch):
    from lj_model import LennardJones

    def wrong(self, graph, properties):
        results = super(LennardJones, self).compute(graph, properties)
        return {k: 2 * v if k == "stress" else v for k, v in results.items()}

    monkeypatch.setattr(LennardJones, "compute", wrong, raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["plugin", "check", "lj"])
    assert stop.value.code == 1
    assert "violated" in capsys.readouterr().out


def test_what_the_plugins_own_code_raises_is_said_with_its_place():
    def build():
        raise RuntimeError("no table")

    with pytest.raises(RuntimeError) as caught:
        build()
    said = _why_not_built("mine", caught.value)
    assert "RuntimeError: no table (test_plugin_kit.py, line " in said
    assert "ase-nnp --traceback plugin check mine" in said
    assert "build() takes" not in said
    with pytest.raises(TypeError) as caught:
        build(1)
    assert "build() takes" in _why_not_built("mine", caught.value)
    missing = _why_not_built("mine", ModuleNotFoundError("No module named 'acme'", name="acme"))
    assert "No module named 'acme'. " in missing
    assert "requires" in missing


def test_what_stops_many_checks_is_said_once():
    said = set()
    rows = [
        _row(Outcome(name, "failed", None, 0.0, "TypeError: x"), said) for name in ("one", "two")
    ]
    assert [row[-1] for row in rows] == ["TypeError: x", "as above"]


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
