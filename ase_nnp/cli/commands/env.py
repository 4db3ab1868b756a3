"""``ase-nnp env``: environments of their own for models that cannot share ours."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.output import JsonOption, note, print_json, print_table, say
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]

env = typer.Typer(help="Environments for models: create, list, remove.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(env, name="env")


@env.command("create")
def create(
    name: Annotated[str, typer.Argument(help="The model is then called env:NAME.")],
    package: Annotated[
        list[str] | None, typer.Option(help="What pip installs there; may be repeated.")
    ] = None,
    calculator: Annotated[
        str, typer.Option(metavar="MODULE:FACTORY", help="What makes the ASE calculator there.")
    ] = "",
    arguments: Annotated[str, typer.Option(help="Its keyword arguments, as JSON.")] = "{}",
    energy_kind: Annotated[str, typer.Option(help="total, adsorption or formation.")] = "total",
    direct: Annotated[bool, typer.Option(help="Its forces are no gradient.")] = False,
    python: Annotated[str | None, typer.Option(help="Interpreter to make it with.")] = None,
    pip_argument: Annotated[
        list[str] | None, typer.Option(help="Further argument of pip install; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a virtual environment with pip's log shown; it appears whole or not at all."""
    from ase_nnp.models.remote.environments import create_environment

    try:
        values: Any = json.loads(arguments)
    except ValueError as error:
        raise ConfigError(f"--arguments is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError('--arguments must be a JSON object, such as \'{"device": "cpu"}\'.')
    made = create_environment(
        name,
        package or (),
        calculator=calculator,
        arguments=values,
        energy_kind=energy_kind,
        conservative=not direct,
        python=python,
        pip_arguments=pip_argument or (),
        say=note,
    )
    if as_json:
        print_json(_row(made))
    elif calculator:
        say(f"next: ase-nnp predict env:{name} STRUCTURES")
    else:
        say(f'next, in Python: ase_nnp.remote("{name}", "module:factory")')


@env.command("list")
def listing(as_json: JsonOption = False) -> None:
    """List the environments."""
    from ase_nnp.models.remote.environments import environment_folder, list_environments

    rows = [_row(e) for e in list_environments()]
    if as_json:
        print_json(rows)
        return
    print_table(
        f"Environments in {environment_folder()}",
        ("name", "packages", "calculator"),
        [(r["name"], ", ".join(r["packages"]), r["calculator"]) for r in rows],
    )


@env.command("remove")
def remove(name: str, as_json: JsonOption = False) -> None:
    """Remove an environment from the disk."""
    from ase_nnp.models.remote.environments import remove_environment

    gone = remove_environment(name)
    if as_json:
        print_json(_row(gone))
    else:
        say(f"removed {gone.folder}")


def _row(environment: Any) -> dict[str, Any]:
    return {
        "name": environment.name,
        "folder": str(environment.folder),
        "packages": list(environment.packages),
        "calculator": environment.calculator,
        "arguments": dict(environment.arguments),
        "energy_kind": environment.energy_kind,
        "conservative": environment.conservative,
    }
