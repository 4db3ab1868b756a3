"""``ase-nnp`` alone greets, and errors name the page that explains them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ase_nnp
from ase_nnp import errors
from ase_nnp.cli.commands import greeting

ROOT = Path(__file__).resolve().parents[2]


def test_without_arguments_it_shows_examples_and_whether_the_default_model_is_there(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    for command, _ in greeting.EXAMPLES:
        assert command in out
    assert "Default model: facet-metals-2, there" in out
    assert (ROOT / "docs" / "index.md").exists()


def test_warnings_of_the_doctor_are_one_line_of_the_greeting(run, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    _, out, _ = run()
    (line,) = [line for line in out.splitlines() if line.startswith("Doctor:")]
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in line
    assert "OMP_NUM_THREADS=100000" in line


def test_a_default_model_whose_file_is_gone_is_said_to_be_missing(monkeypatch):
    from dataclasses import replace

    from ase_nnp.models import default

    family, pretrained = default.default_pretrained()
    gone = replace(pretrained, source="weights/gone.nnp")
    monkeypatch.setattr(default, "default_pretrained", lambda: (family, gone))
    assert "MISSING" in greeting.default_model()


def test_greeting_leaves_torch_alone():
    code = "import sys\nfrom ase_nnp.cli import main\ntry: main([])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


ERRORS = [e for name in errors.__all__ if (e := getattr(errors, name)).guide]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_name_a_page_that_exists(error):
    page, _, anchor = error.guide.partition("#")
    text = (ROOT / page).read_text()
    headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines()]
    assert not anchor or anchor in headings
    assert error.guide in "".join(error("what was found").__notes__)


def test_the_command_line_ends_an_error_with_its_page(run, tmp_path):
    (tmp_path / "a.xyz").write_text("nothing of the kind")
    code, _, err = run("data", "info", tmp_path / "a.xyz")
    assert code == 2
    assert err.rstrip().endswith("(see docs/datasets.md)")
    with pytest.raises(ase_nnp.UnknownModelError) as caught:
        ase_nnp.build_model("nothing")
    assert "docs/models.md" in caught.value.__notes__[0]
