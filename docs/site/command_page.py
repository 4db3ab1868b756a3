"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

from typing import Any


def command_page() -> str:
    """Return every command with its arguments and options."""
    import typer

    from ase_nnp.cli import _register, app

    _register()
    lines = [
        "# Every command and option",
        "",
        "Made from the program; [the command line](command-line.md) explains what is common.",
        "",
    ]
    return "\n".join([*lines, *_section(typer.main.get_command(app), "ase-nnp", 1)]) + "\n"


def _section(command: Any, name: str, depth: int) -> list[str]:
    """Return the lines of a command, and of those below it."""
    below = getattr(command, "commands", {})
    lines = []
    if depth > 1:
        lines += [f"{'#' * min(depth, 3)} {name}", "", _plain(command.help or ""), ""]
        rows = [row for p in command.params if (row := _row(p))]
        if rows:
            lines += ["| | |", "| --- | --- |", *rows, ""]
    for word, child in below.items():
        if not child.hidden:
            lines += _section(child, f"{name} {word}", depth + 1)
    return lines


def _row(parameter: Any) -> str:
    """Return the row of an argument or option."""
    if getattr(parameter, "hidden", False):
        return ""
    if parameter.opts[0].startswith("-"):
        words = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
    else:
        word = str(parameter.metavar or parameter.name.upper())
        words = f"`{word if parameter.required or '[' in word else f'[{word}]'}`"

    default = parameter.default
    text = _plain(getattr(parameter, "help", "") or "")
    if isinstance(default, (int, float, str)) and not isinstance(default, bool) and default != "":
        text += f" Default: `{default}`."
    return f"| {words} | {text} |"


def _plain(text: str) -> str:
    """Return help as one paragraph that a table can hold."""
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`").replace("<", "&lt;")
