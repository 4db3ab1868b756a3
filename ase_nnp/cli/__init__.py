"""``ase-nnp``: a thin shell over the package. Importing it imports no torch."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

from ase_nnp.errors import AseNnpError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ase-nnp",
    help="Neural-network potentials as ASE calculators: models, data, predictions.",
    no_args_is_help=True,
    add_completion=False,
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
    "screen",
    "bench",
    "train",
    "evaluate",
    "doctor",
    "data",
    "uncertainty",
    "plugin",
    "env",
    "compare",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a bad input ends in one line on stderr and exit code 2."""
    _register()
    try:
        code = app(args=arguments, standalone_mode=False)
    except AseNnpError as error:
        sys.exit(_complain(str(error)))
    except _UsageError as error:
        sys.exit(_complain(error.format_message()))
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(_complain("interrupted", 130))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        sys.exit(_complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")))
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str, code: int = 2) -> int:
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    print(f"ase-nnp: {line}", file=sys.stderr)
    return code


def _register() -> None:
    if app.registered_commands or app.registered_groups:
        return
    for name in COMMANDS:
        import_module(f"ase_nnp.cli.commands.{name}").add_to(app)
    from ase_nnp.registry.installed import installed

    for name, function in installed().commands.items():
        app.command(name)(function)
