"""``ase-nnp models``: what is installed, in what state."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ase_nnp.commands.output import JsonOption, print_json, print_table

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models")(models)


def models(
    name: Annotated[str | None, typer.Argument(help="Show one family in full.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the installed model families, and plugins that are broken with the reason."""
    from ase_nnp.registry import first_line, installed, missing_packages

    registry = installed()
    if name is not None:
        if name == "show":
            raise typer.BadParameter("say: ase-nnp models NAME")
        show(describe(registry.family(name)), as_json)
        return
    rows: list[dict[str, Any]] = []
    for family in sorted(registry.families.values(), key=lambda f: f.name):
        missing = missing_packages(family)
        state = f"missing: pip install {' '.join(missing)}" if missing else "ok"
        rows.append({**describe(family), "state": state})
    broken = {plugin: first_line(error) for plugin, error in sorted(registry.broken.items())}
    if as_json:
        print_json({"models": rows, "broken": broken})
        return
    print_table(
        "Installed model families",
        ("name", "state", "gives", "energy", "summary"),
        [
            (r["name"], r["state"], ", ".join(r["outputs"]), r["energy_kind"], r["summary"])
            for r in rows
        ],
    )
    for plugin, reason in broken.items():
        print(f"broken plugin '{plugin}': {reason}")


def describe(family: Any) -> dict[str, Any]:
    """Return everything known of a family before it is loaded."""
    names = (
        "name",
        "summary",
        "outputs",
        "energy_kind",
        "conservative",
        "cite",
        "license",
        "weights_license",
        "requires",
        "notes",
    )
    row: dict[str, Any] = {n: getattr(family, n) for n in names}
    row["defaults"] = dict(family.defaults)
    row["violations"] = dict(family.violations)
    row["pretrained"] = [
        {"name": p.name, "summary": p.summary, "license": p.license} for p in family.pretrained
    ]
    return row


def show(row: dict[str, Any], as_json: bool) -> None:
    """Print one family."""
    if as_json:
        print_json(row)
        return
    print_table(
        row["name"],
        ("", ""),
        [
            (k, v if isinstance(v, str) else repr(v))
            for k, v in row.items()
            if v not in ("", (), [])
        ],
    )
