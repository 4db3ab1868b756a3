"""``ase-nnp models``: what is installed, in what state; one family in full; downloaded weights."""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from ase_nnp.registry.correction import Correction

__all__ = ["add_to"]


class _NameMeansShow(TyperGroup):
    """``ase-nnp models NAME`` is ``ase-nnp models show NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


models = typer.Typer(
    cls=_NameMeansShow,
    help="Installed models: list, show, cite, cache.",
    invoke_without_command=True,
)
cache = typer.Typer(help="Downloaded weights: list, clear.", no_args_is_help=True)
models.add_typer(cache, name="cache")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models, name="models")


@models.callback()
def listing(
    context: typer.Context,
    as_json: JsonOption = False,
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="Say all of why a plugin is broken.")
    ] = False,
) -> None:
    """List the installed model families, and plugins that cannot be used with the reason."""
    if context.invoked_subcommand is None:
        show_all(as_json, with_traceback)


@models.command("list")
def list_command(
    context: typer.Context,
    as_json: JsonOption = False,
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="Say all of why a plugin is broken.")
    ] = False,
) -> None:
    """List the installed model families, as `ase-nnp models` does."""
    above = context.parent.params if context.parent else {}
    show_all(
        as_json or bool(above.get("as_json")),
        with_traceback or bool(above.get("with_traceback")),
    )


def show_all(as_json: bool, with_traceback: bool) -> None:
    """Print a row for each family and each plugin that cannot be used."""
    from ase_nnp.registry.installed import broken_state, first_line, installed

    registry = installed()
    rows = [
        describe(family, registry)
        for family in sorted(registry.families.values(), key=lambda f: f.name)
    ]
    broken = {name: broken_state(error) for name, error in sorted(registry.broken.items())}
    if as_json:
        print_json(
            {
                "models": rows,
                "corrections": [describe_correction(c) for c in registry.corrections.values()],
                "broken": {n: first_line(e) for n, e in sorted(registry.broken.items())},
                "broken_states": {n: s._asdict() for n, s in broken.items()},
            }
        )
        return
    lines = [(r["name"], line(r), ", ".join(r["outputs"]), kind_of(r), r["summary"]) for r in rows]
    lines += [
        (name, state.kind, "", "", state.reason + (f" ({state.fix})" if state.fix else ""))
        for name, state in broken.items()
    ]
    print_table("Installed model families", ("name", "state", "gives", "energy", ""), lines)
    terms = [describe_correction(c) for c in registry.corrections.values()]
    if terms:
        shown = [(c["name"], c["state"], c["functionals"] or "", c["summary"]) for c in terms]
        print_table("Corrections, for any model", ("name", "state", "functionals", ""), shown)
    if with_traceback:
        for name, error in sorted(registry.broken.items()):
            say(f"\nplugin '{name}':")
            say("".join(traceback.format_exception(error)).rstrip())
    elif broken:
        say("`ase-nnp models --traceback` says more about plugins that are broken")


def describe_correction(correction: Correction) -> dict[str, Any]:
    """Return what is known of a correction, and how many functionals it has parameters for."""
    from ase_nnp.registry.installed import install_line, missing_packages

    missing = missing_packages(correction)
    return {
        "name": correction.name,
        "summary": correction.summary,
        "state": f"missing dependency: {install_line(correction)}" if missing else "ok",
        "functionals": len(correction.known_functionals()),
        "defaults": dict(correction.defaults),
        "cite": correction.cite,
        "license": correction.license,
    }


def line(row: dict[str, Any]) -> str:
    """State of a family in one line, with the command that mends it."""
    return (
        row["state"] if row["state"] == "ok" else f"{row['state']}: {row['fix'] or row['reason']}"
    )


def kind_of(row: dict[str, Any]) -> str:
    """Kind of a family's energies, in words."""
    return "by weights" if row["energy_kind"] == "config" else str(row["energy_kind"])


@models.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A family, or one of its pretrained models.")],
    as_json: JsonOption = False,
) -> None:
    """Show everything known of a family before it is loaded, and its model card if it has one."""
    from ase_nnp.registry.installed import installed

    parent = context.parent
    as_json = as_json or bool(parent and parent.params.get("as_json"))
    registry = installed()
    family, chosen = find(name, registry)
    row = describe(family, registry)
    cards = {
        p.name: card_of(family, p)
        for p in family.pretrained
        if p.card and (chosen is None or p.name == chosen)
    }
    if as_json:
        print_json({**row, "cards": cards})
        return
    hidden = ("name", "pretrained", "defaults", "bibtex")
    facts = [
        (k, text_of(v))
        for k, v in (row | {"energy_kind": kind_of(row)}).items()
        if k not in hidden and v not in ("", (), [], {})
    ]
    facts.append(("defaults", ", ".join(f"{k}={v!r}" for k, v in row["defaults"].items())))
    print_table(f"{family.name}: {family.summary}", ("", ""), facts)
    for offered in row["pretrained"]:
        if chosen in (None, offered["name"]):
            print_table(
                f"weights '{offered['name']}'",
                ("", ""),
                [(k, text_of(v)) for k, v in offered.items() if v not in ("", (), [], None, False)],
            )
    say("\nTo cite:\n" + row["bibtex"])
    for card, text in cards.items():
        say(f"\nModel card of '{card}':\n\n{text}")


@models.command("cite")
def cite_command(
    names: Annotated[list[str], typer.Argument(help="Families or pretrained models.")],
    as_json: JsonOption = False,
) -> None:
    """Print BibTeX entries."""
    from ase_nnp.registry.citation import cite

    entries = {name: cite(name) for name in names}
    print_json(entries) if as_json else say("\n\n".join(dict.fromkeys(entries.values())))


@cache.command("list")
def cache_list(as_json: JsonOption = False) -> None:
    """List downloaded weights."""
    from ase_nnp.models.download import cache_folder, cached

    files = cached()
    if as_json:
        print_json([{**vars(f), "path": str(f.path)} for f in files])
        return
    rows = [
        (f.path.name, f"{f.size / 1e6:.1f}", "" if f.complete else "broken off", str(f.path.parent))
        for f in files
    ]
    print_table(f"Cache in {cache_folder()}", ("file", "MB", "", "folder"), rows)


@cache.command("clear")
def cache_clear(
    name: Annotated[str | None, typer.Argument(help="One file; all when left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove downloaded weights; they are fetched again when asked for."""
    from ase_nnp.models.download import clear_cache

    gone = clear_cache(name)
    if as_json:
        print_json([str(f.path) for f in gone])
        return
    say(f"removed {len(gone)} files, {sum(f.size for f in gone) / 1e6:.1f} MB")


def find(name: str, registry: Any) -> tuple[Any, str | None]:
    """Return the family that a name means, and the pretrained model if it means one."""
    if name not in registry.families:
        for family in registry.families.values():
            if any(p.name == name for p in family.pretrained):
                return family, name
        registry.family(name)  # raises, saying what was meant
    return registry.families[name], None


def card_of(family: Any, offered: Any) -> str:
    """Return the text of a model card."""
    from importlib.resources import files

    return files(family.package).joinpath(offered.card).read_text(encoding="utf-8")


def describe(family: Any, registry: Any) -> dict[str, Any]:
    """Return everything known of a family before it is loaded."""
    from ase_nnp.registry.citation import bibtex
    from ase_nnp.registry.installed import family_state

    owner = registry.owners.get(f"ModelFamily:{family.name}", "")
    distribution = registry.distributions.get(owner, "")
    package = distribution.partition(" ")[0]
    # What this distribution itself wants, the installer has seen to; looking takes time.
    state = family_state(family, "" if package == "ase_nnp" else package)
    names = (
        "name",
        "summary",
        "outputs",
        "energy_kind",
        "energy_reference",
        "conservative",
        "cutoff",
        "pbc",
        "required_inputs",
        "functional",
        "training_data",
        "cite",
        "license",
        "weights_license",
        "trainable",
        "requires",
        "notes",
    )
    row: dict[str, Any] = {n: getattr(family, n) for n in names}
    row["elements"] = None if family.elements is None else list(family.elements)
    row["state"], row["reason"], row["fix"] = state
    row["plugin"], row["distribution"] = owner, distribution
    row["bibtex"] = bibtex(family)
    row["defaults"] = dict(family.defaults)
    row["violations"] = dict(family.violations)
    inherited = ("energy_kind", "energy_reference", "cutoff", "outputs")
    row["pretrained"] = [
        {
            k: getattr(family, k) if k in inherited and v in ("", None, ()) else v
            for k, v in dataclasses.asdict(offered).items()
        }
        for offered in family.pretrained
    ]
    return row


def text_of(value: Any) -> str:
    """Return a value for people."""
    if value is None:
        return "not fixed"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        numbers = [v for v in value if isinstance(v, int)]
        if len(numbers) == len(value) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{numbers[0]} to {numbers[-1]}"
        return ", ".join(map(str, value))
    return str(value)
