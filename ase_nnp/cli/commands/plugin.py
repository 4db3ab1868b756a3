"""``ase-nnp plugin``: begin a plugin, and check one, or any ASE calculator."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, say
from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.testing.outcomes import Outcome

__all__ = ["add_to"]

plugin = typer.Typer(help="Plugins: new, check.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(plugin, name="plugin")


@plugin.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the family: lower-case letters, digits, _.")],
    folder: Annotated[Path, typer.Option(help="Where to put it.")] = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Write a complete plugin with a working model and its tests."""
    from ase_nnp.testing.template import write_plugin

    _check_name(name)
    written = write_plugin(name, folder)
    if as_json:
        print_json([str(path) for path in written])
        return
    for path in written:
        say(path)
    say(f"next: pip install -e {folder / ('ase_nnp_' + name)} && ase-nnp plugin check {name}")


@plugin.command("check")
def check(
    name: Annotated[
        str | None, typer.Argument(help="An installed model family or correction.")
    ] = None,
    ase_calculator: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="Instead of a family, any ASE calculator: what makes it without arguments.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Where the check runs_on_a_device puts it: standin, cuda, ..."),
    ] = "standin",
    as_json: JsonOption = False,
) -> None:
    """Run the conformance suite on a family or correction, or the ASE contract on any calculator.

    Exit code 1 if a promise is broken.
    """
    if (name is None) == (ase_calculator is None):
        raise typer.BadParameter(
            "name either a model family or correction, or --ase-calculator module:factory"
        )
    if ase_calculator is not None:
        from ase_nnp.testing.ase_contract import CONTRACT, check_calculator

        outcomes = _watched(check_calculator(ase_calculator), len(CONTRACT))
        title = f"ASE contract of {ase_calculator}"
    else:
        from ase_nnp.registry.installed import installed

        registry = installed()
        if name in registry.corrections and name not in registry.families:
            registry.correction(str(name))
        else:
            registry.family(str(name))  # raises for a plugin that cannot be used
        from ase_nnp.testing import CHECKS, make_subject, run_checks

        try:
            subject = make_subject(str(name))
            subject.device = device
        except AseNnpError:
            raise
        except Exception as error:  # a plugin's constructor may raise anything
            raise ConfigError(_why_not_built(str(name), error)) from error
        outcomes = _watched(run_checks(subject), len(CHECKS))
        title = f"Conformance of '{name}'"
    if as_json:
        print_json([{**vars(o), "ok": o.ok} for o in outcomes])
    else:
        said: set[str] = set()
        rows = [_row(outcome, said) for outcome in outcomes]
        print_table(title, ("check", "status", "measured", "allowed", ""), rows)
    if not all(o.ok for o in outcomes):
        raise typer.Exit(1)


def _check_name(name: str) -> None:
    """Refuse a name under which an installed family or package would disappear."""
    from importlib.util import find_spec

    from ase_nnp.registry.installed import installed

    registry = installed()
    taken = {*registry.families, *registry.broken, *registry.distributions}
    if name in taken:
        raise ConfigError(f"A plugin or family '{name}' is installed already; choose another name.")
    package = f"ase_nnp_{name}"
    if package.isidentifier() and find_spec(package) is not None:
        raise ConfigError(
            f"A package '{package}' is installed already, which a plugin '{name}' would shadow; "
            "choose another name."
        )


def _why_not_built(name: str, error: Exception) -> str:
    """Say what a plugin's own code raised, where, and what may mend it."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"'{name}' cannot be built: {error}. If the package is to be installed, name it in the "
            "family's requires, and users are told how."
        )
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    hint = " Do they name what its build() takes?" if isinstance(error, TypeError) else ""
    return (
        f"'{name}' cannot be built from its defaults and test_config: {type(error).__name__}: "
        f"{error} ({place}).{hint} `ase-nnp --traceback plugin check {name}` shows the way there."
    )


def _row(outcome: Outcome, said: set[str]) -> tuple[str, ...]:
    figure = "" if outcome.figure is None else f"{outcome.figure:.1e}"
    short = outcome.status == "violated" and outcome.figure is not None
    if short and (of := getattr(outcome.figure, "of", "")):
        figure += f" {of}"  # which of the results, where the check looks at all
    message = "" if short else outcome.message
    if outcome.status == "failed":  # what stops one check stops many
        message = "as above" if message in said else message
        said.add(outcome.message)
    return outcome.check, outcome.status, figure, f"{outcome.tolerance:.1e}", message


def _watched(outcomes: Iterable[Outcome], total: int) -> list[Outcome]:
    """Run the checks with a progress bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return list(
        track(outcomes, "checking", total, console=console, disable=not console.is_terminal)
    )
