"""README and tutorials are run, so that they stay true."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Tutorials that train or relax for more than a few seconds.
LONG = {"03_train", "04_bulk_to_rate", "05_uncertainty", "08_add_a_term"}
TUTORIALS = [
    pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else (), id=path.stem)
    for path in sorted((ROOT / "tutorials").glob("*.py"))
]


@pytest.mark.parametrize("path", TUTORIALS)
def test_tutorials_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def test_the_readme_is_a_doctest(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testfile(
        str(ROOT / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS
    )
    assert result.attempted > 5
    assert result.failed == 0


def test_the_guide_to_plugins_shows_what_its_tutorial_runs():
    script = (ROOT / "tutorials" / "06_write_a_plugin.py").read_text()
    guide = (ROOT / "docs" / "write-a-plugin.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    assert len(blocks) == 4
    shown = [block for block in blocks if not block.startswith("pretrained=")]
    assert len(shown) == 3
    for block in shown:
        assert block.strip() in script, block


def test_every_user_visible_file_that_is_named_exists():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\(((?!http)[\w./-]+)\)", text):
        assert (ROOT / name).exists(), name


def test_the_changelog_speaks_of_this_version():
    import ase_nnp

    assert ase_nnp.__version__ in (ROOT / "CHANGELOG.md").read_text()
