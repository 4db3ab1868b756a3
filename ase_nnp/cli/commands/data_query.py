"""``ase-nnp data query``: ask a dataset's index, list, count, group, draw and export the answer."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.data import FormatOption, Source, data
from ase_nnp.cli.commands.output import JsonOption, note, print_json, print_table, say
from ase_nnp.cli.commands.progress import progress_bar
from ase_nnp.cli.commands.targets import check_place
from ase_nnp.errors import DatasetError

__all__ = ["add_to"]

SHOWN = ("sid", "fid", "formula", "adsorbate", "miller", "energy", "adsorption_energy", "fmax")


def add_to(app: typer.Typer) -> None:
    """Add the command to ``data``."""
    data.command("query")(query)


def query(
    source: Source,
    question: Annotated[
        str,
        typer.Argument(
            metavar="[QUERY]",
            help="Such as \"adsorbate = '*CO' and Cu and energy < 0\"; all records without one.",
        ),
    ] = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the records into this file (.aselmdb, ...).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    columns: Annotated[
        str | None, typer.Option(help="Columns to list, with commas; `all` for every one.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Records to list.", min=0)] = 20,
    by: Annotated[
        str | None, typer.Option(help="Statistics for each value of a column, or of `element`.")
    ] = None,
    of: Annotated[str, typer.Option(help="Column of the statistics.")] = "adsorption_energy",
    picture: Annotated[
        Path | None, typer.Option(help="Draw the groups (.png, .pdf, .svg, .jpg).")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="List adslab, clean slab and molecules of each case.")
    ] = False,
    mapping: Annotated[
        list[Path] | None,
        typer.Option(help="Pickled mapping of OC20 or OC22 (runs nothing). Repeatable."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="File of the index, instead of one in the cache folder.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index anew.")] = False,
    format: FormatOption = None,
    energy_kind: Annotated[
        str | None, typer.Option(help="Convert energies: total, adsorption or formation.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a dataset: by adsorbate, elements, surface, energies, forces, split, solvent, ions."""
    from ase_nnp.datasets import open_dataset

    if picture is not None:
        check_place(picture, "groups.png")
    options: dict[str, Any] = {"energy_kind": energy_kind} if energy_kind else {}
    dataset = open_dataset(source, format, **options)
    with progress_bar("indexing") as progress:
        catalog = dataset.index(index, mapping=mapping, rebuild=rebuild, progress=progress)
    view = dataset.where(question)
    positions = view.positions
    assert positions is not None  # every answer is a view
    answer: dict[str, Any] = {
        "query": question,
        "records": len(dataset),
        "matches": len(view),
        "damaged": len(catalog.damaged()),
        "index": str(catalog.path),
    }

    if by is not None or picture is not None:
        answer |= _grouped(catalog, by or "adsorbate", of, positions, picture, source.name)
    elif pairs:
        answer["pairs"] = [
            {"adslab": p.adslab, "slab": p.slab, "gas": list(p.gas), "by": p.by}
            for p in view.pairs()
        ]
    else:
        names = _columns(columns)
        rows = catalog.rows(positions[:limit], *names)
        answer["rows"] = [
            {"position": int(at), **row} for at, row in zip(positions[:limit], rows, strict=True)
        ]
    if to is not None:
        answer |= {"to": str(to), "written": _written(view, to, overwrite)}
    if as_json:
        print_json(answer)
        return
    _show(answer, source)
    if not len(view):
        _hint(question, catalog)


def _columns(given: str | None) -> tuple[str, ...]:
    if given is None:
        return SHOWN
    return () if given == "all" else tuple(name.strip() for name in given.split(","))


def _grouped(
    catalog: Any, by: str, of: str, positions: Any, picture: Path | None, title: str
) -> dict[str, Any]:
    if picture is None:
        from ase_nnp.datasets.catalog.groups import group_statistics

        return {
            "by": by,
            "of": of,
            "groups": group_statistics(catalog, by, column=of, positions=positions),
        }
    from ase_nnp.datasets.catalog.picture import plot_groups

    groups = plot_groups(catalog, picture, by=by, column=of, positions=positions, title=title)
    return {"by": by, "of": of, "groups": groups, "picture": str(picture)}


def _written(view: Any, target: Path, overwrite: bool) -> int:
    """Write what was found; a query without an answer leaves no file."""
    from ase_nnp.datasets.convert import convert

    if not len(view):
        raise DatasetError("no record meets the query, so nothing is written", path=target)
    with progress_bar("writing") as progress:
        return convert(view, target, overwrite=overwrite, progress=progress).written


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _show(answer: dict[str, Any], source: Path) -> None:
    for name in ("rows", "groups", "pairs"):
        rows = answer.get(name)
        if rows:
            heads = tuple(rows[0])
            cells = [[_cell(row[head]) for head in heads] for row in rows]
            title = f"{answer['of']} by {answer['by']}" if name == "groups" else str(source)
            print_table(title, heads, cells)

    shown = len(answer.get("rows", ()))
    more = f", {shown} listed" if "rows" in answer and shown < answer["matches"] else ""
    say(f"{answer['matches']:,} of {answer['records']:,} records{more}")

    if answer["damaged"]:
        say(f"{answer['damaged']:,} damaged records; the query `error is not null` lists them")
    for name, words in (("picture", "drawn in"), ("to", "written to")):
        if name in answer:
            say(f"{words} {answer[name]}")


def _hint(question: str, catalog: Any) -> None:
    """Say which names the data use, where a name of the query does not occur."""
    from ase_nnp.datasets.catalog.grammar import parse
    from ase_nnp.datasets.catalog.query_tree import comparisons

    for one in comparisons(parse(question)):
        if one.op != "=" or not isinstance(one.value, str):
            continue
        known = sorted({str(v) for v in catalog.values(one.column) if v is not None})
        if one.value not in known and known:
            near = difflib.get_close_matches(one.value, known, 5, 0.4) or known[:5]
            note(f"no record has {one.column} {one.value!r}; there are {', '.join(near)}, ...")
