"""``ase-nnp plugin``: begin a plugin, and check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_nnp.commands.output import JsonOption, print_json, print_table

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
    from ase_nnp.template import write_plugin

    written = write_plugin(name, folder)
    if as_json:
        print_json([str(path) for path in written])
        return
    for path in written:
        print(path)
    print(f"next: pip install -e {folder / ('ase_nnp_' + name)} && ase-nnp plugin check {name}")


@plugin.command("check")
def check(
    name: Annotated[str, typer.Argument(help="Name of an installed model family.")],
    as_json: JsonOption = False,
) -> None:
    """Run the conformance suite on a family; exit code 1 if it breaks a promise."""
    from ase_nnp.registry import installed
    from ase_nnp.testing import make_subject, run_checks

    outcomes = list(run_checks(make_subject(installed().family(name))))
    if as_json:
        print_json([{**vars(o), "ok": o.ok} for o in outcomes])
    else:
        print_table(
            f"Conformance of '{name}'",
            ("check", "status", "measured", "allowed", ""),
            [
                (
                    o.check,
                    o.status,
                    "" if o.figure is None else f"{o.figure:.1e}",
                    f"{o.tolerance:.1e}",
                    "" if o.status == "violated" else o.message,
                )
                for o in outcomes
            ],
        )
    if not all(o.ok for o in outcomes):
        raise typer.Exit(1)
