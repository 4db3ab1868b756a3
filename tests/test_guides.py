"""Code blocks of README and guides are run, and the commands in them exist."""

from __future__ import annotations

import doctest
import gc
import re
import shlex
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "site"))

from blocks import GUIDES, Block, blocks  # noqa: E402

#: Why a block may be left out; anything else is a mistake in the mark.
REASONS = re.compile(
    r"run by (\.ci/(run|clients)|benchmarks/first_hour\.py).*"
    r"|run by tests/models/test_export_cpp\.py|takes minutes|starts many processes"
    r"|needs (a cluster|a GPU|the network|another environment|SevenNet|matgl)"
    r"|a fragment( of a plugin)?, run by tutorial \d+|installs a package"
)


def command_lines(block: Block) -> list[list[str]]:
    """Return the commands of a shell block as words, comments and continuations resolved."""
    text = block.code.replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def run_command(words: list[str]) -> None:
    """Run ``ase-nnp ...`` or ``ase ...`` in this process; 3: something has not converged."""
    from ase_nnp.cli import main

    if words[0] == "ase":
        from ase.cli.main import main as ase_main

        ase_main(args=words[1:])
        return
    assert words[0] == "ase-nnp", words
    with pytest.raises(SystemExit) as stop:
        main(words[1:])
    assert stop.value.code in (0, 3, None), words


@cache
def program():
    """The command line as click sees it."""
    from ase_nnp.cli import _register, app

    _register()
    return typer.main.get_command(app)


@pytest.mark.slow
@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_code_block_runs(path, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "__main__"}

    for block in blocks(path):
        if block.reason or not (block.counts or block.language == "setup"):
            continue
        where = f"{path.name}:{block.line}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if block.language == "sh":
                for words in command_lines(block):
                    run_command(words)
            elif block.code.startswith(">>>"):
                test = doctest.DocTestParser().get_doctest(block.code, names, where, where, 0)
                assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
            elif block.language == "yaml":
                Path("run.yaml").write_text(block.code)
                run_command(["ase-nnp", "train", "run.yaml", "--check"])
            elif block.language in ("python", "setup"):
                exec(compile("\n" * block.line + block.code, str(path), "exec"), names)
            else:
                pytest.fail(f"{where}: nothing runs a block of '{block.language}'")

    # Files that a guide's objects hold are closed here, not in the middle of another test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        names.clear()
        gc.collect()


@pytest.mark.parametrize(
    "path",
    [*GUIDES, *sorted((ROOT / "plugins").glob("*/README.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_line_of_code_is_wider_than_the_page_of_the_site(path):
    for block in blocks(path):
        wide = [line for line in block.code.splitlines() if len(line) > 100]
        assert not block.counts or wide == [], f"{path.name}:{block.line}"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_block_has_a_language_and_a_known_reason(path):
    known = {"python", "sh", "yaml", "text", "setup", "cpp", "cmake"}
    for block in blocks(path):
        where = f"{path.name}:{block.line}"
        assert block.language in known or block.language.startswith("{toctree"), where
        assert not block.reason or REASONS.fullmatch(block.reason), f"{where}: {block.reason}"
    # An indented block would be shown as code, and escape.
    outside = re.sub(r"^```.*?^```$|^<!--.*?-->", "", path.read_text(), flags=re.S | re.M)
    assert not re.search(r"\n\n {4}\S", outside), path.name


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_command_and_option_that_is_shown_exists(path):
    shown = [words for b in blocks(path) if b.language == "sh" for words in command_lines(b)]
    inline = re.findall(r"`(ase-nnp [^`]+)`", path.read_text())
    shown += [shlex.split(text.replace("[", "").replace("]", "")) for text in inline]
    for words in shown:
        while words and words[0] != "ase-nnp":
            words = words[1:]
        command, rest = program(), words[1:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        word = rest[0] if command.name == "ase-nnp" and rest else "COMMAND"
        assert not word.isalpha() or word.isupper(), words
        # A group with a file in the place of a command falls back on a command of its own.
        takers = [command, *getattr(command, "commands", {}).values()]
        options = {o for c in takers for p in c.params for o in [*p.opts, *p.secondary_opts]}
        own = {"--help", "--traceback", "--version", "--install-completion"}
        # Keys of a run file are options of `train`: its own parser names the unknown ones.
        asked = {w.partition("=")[0] for w in rest if re.match(r"--?[a-zA-Z]", w)}
        if command.name != "train":
            assert asked <= options | own, (words, asked - options)


@pytest.mark.slow
def test_the_ten_tasks_of_the_first_hour_work(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import first_hour

    assert len(first_hour.try_all()) == 10


def test_the_page_of_the_first_hour_is_what_its_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import first_hour
    import tables

    shown = (ROOT / "docs" / "first-hour.md").read_text()
    assert shown == tables.fill(first_hour.page()), "python benchmarks/first_hour.py"
