"""All commands print through one door, which makes names harmless."""

from __future__ import annotations

import ast
from pathlib import Path

import ase_nnp.cli

COMMANDS = Path(ase_nnp.cli.__file__).parent


def test_no_command_prints_past_the_door():
    """``print`` and rich consoles on stdout stand in output.py alone."""
    past = []
    for path in COMMANDS.rglob("*.py"):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            on_stdout = name == "Console" and not {"stderr", "file"} & {
                k.arg for k in node.keywords
            }
            if name in ("print", "typer.echo", "sys.stdout.write") or on_stdout:
                past.append(f"{path.name}:{node.lineno}")
    assert past == []
