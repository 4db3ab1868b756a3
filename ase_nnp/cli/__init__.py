"""``ase-nnp``: a thin shell over the package. Importing it imports no torch."""

from __future__ import annotations

import re
import sys
import warnings
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.exit_codes import EPILOG, INTERRUPTED, WRONG_INPUT
from ase_nnp.cli.commands.output import note, say, warn
from ase_nnp.errors import AseNnpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ase-nnp",
    help="Neural-network potentials as ASE calculators: models, data, predictions.",
    epilog=EPILOG,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)

#: The base of typer's errors about usage; recent versions carry click inside.
_UsageError: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

#: Files in ase_nnp/cli/commands; each adds itself with ``add_to(app)``.
COMMANDS = (
    "models",
    "predict",
    "relax",
    "md",
    "eos",
    "elastic",
    "phonons",
    "adsorb",
    "neb",
    "vibrations",
    "gibbs",
    "screen",
    "bench",
    "train",
    "evaluate",
    "doctor",
    "data",
    "data_query",
    "uncertainty",
    "plugin",
    "env",
    "compare",
    "export",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ase_nnp import __version__

        say(f"ase_nnp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error comes from.")
    ] = False,
) -> None:
    """Take the options that stand before the command; :func:`_run` looks for ``--traceback``."""
    if context.invoked_subcommand is None:
        from ase_nnp.cli.commands.greeting import greet

        greet()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a bad input ends in one line on stderr and exit code 2."""
    _register()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: warn(str(message))
        sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    """Return the exit code of a command."""
    try:
        code = _tree()(args=arguments, standalone_mode=False, prog_name="ase-nnp")
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except _UsageError as error:
        return _complain(_usage(error))
    except Exception as error:
        if arguments[:1] == ["--traceback"]:
            import traceback

            note("".join(traceback.format_exception(error)).rstrip())
        return _complain(_in_words(error, arguments))
    return code if isinstance(code, int) else 0


def _complain(text: str, code: int = WRONG_INPUT) -> int:
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    note(f"ase-nnp: {line}")
    return code


def _usage(error: Any) -> str:
    """What is wrong with the words, and how they should be."""
    text = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None:
        return str(text)
    usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
    # A group without a command has printed its help already, and has no message of its own.
    said = text or f"which command? `{context.command_path} --help` lists them"
    return f"{said} (usage: {usage})"


def _in_words(error: Exception, arguments: list[str]) -> str:
    """Return an error in the words of the command line."""
    if isinstance(error, AseNnpError):
        guide = f" (see {error.guide})" if error.guide else ""
        return _as_options(str(error), arguments) + guide
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    return (
        f"{type(error).__name__}: {error}. This was not expected: "
        "`ase-nnp --traceback ...` shows where it comes from, for a report."
    )


def _as_options(text: str, arguments: list[str]) -> str:
    """``overwrite=True`` of a function is ``--overwrite`` here, if the command has that option."""
    command: Any = _tree()
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    options = {p.name: p.opts[0] for p in command.params if p.opts[0].startswith("--")}

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("'")
        if name not in options:
            return match[0]
        return options[name] if value == "True" else f"{options[name]} {value}"

    return re.sub(r"\b([a-z_]+)=(True\b|'[^']*'|[A-Z]+\b)", option, text)


@cache
def _tree() -> Any:
    """Return the commands with all their options; typer takes 35 ms to build it, each time."""
    return typer.main.get_command(app)


def _register() -> None:
    if app.registered_commands or app.registered_groups:
        return
    for name in COMMANDS:
        import_module(f"ase_nnp.cli.commands.{name}").add_to(app)

    from ase_nnp.registry.installed import installed

    for name, function in installed().commands.items():
        app.command(name)(function)
