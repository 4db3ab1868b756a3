"""``ase-nnp evaluate``: errors of models on a labeled dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.model_argument import CorrectionOption, model_from
from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, say
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.training.evaluation import Evaluation

__all__ = ["add_to", "show"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]... DATASET",
            help="Models (the default one without any), then the dataset; with --benchmark models.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page, figures and JSON into this folder.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Key of atoms.info that names groups of structures.")
    ] = None,
    correction: CorrectionOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark instead of DATASET: a file or a name. Repeatable."),
    ] = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="Benchmarks: relax structures in the model first.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Benchmarks: records at most.", min=1)] = None,
    energy_kind: Annotated[
        str | None, typer.Option(help="Benchmarks: convert labels to total or adsorption.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare one or several models with the labels of a dataset, or run a benchmark."""
    from ase_nnp.training.evaluation import evaluate as measure

    if report is not None and report.exists() and not report.is_dir():
        raise ConfigError(f"{report} is a file; name a folder for the report.")
    if benchmark:
        from ase_nnp.cli.commands.benchmark import run

        named = [str(path) for path in paths or ()]
        models = {
            name or "default": model_from(name or None, None, device, dtype, correction)
            for name in named or [""]
        }
        run(models, benchmark, relax, limit, energy_kind, report, as_json)
        return
    if not paths:
        raise ConfigError("Name a dataset, or a benchmark: ase-nnp evaluate [MODEL]... DATASET.")
    *names, data = paths
    if not names and not data.exists():
        raise ConfigError(f"There is no dataset {data}: ase-nnp evaluate [MODEL]... DATASET.")
    listed: list[Any] = list(names)
    if correction or not names:
        wanted = names or (None,)
        listed = [model_from(name, None, device, dtype, correction) for name in wanted]
    progress = False if as_json else None
    evaluation = measure(listed, data, group=group, device=device, dtype=dtype, progress=progress)
    page = None
    if report is not None:
        from ase_nnp.training.evaluation_report import write_report

        page = write_report(evaluation, report)
    if as_json:
        print_json({**evaluation.as_dict(), "report": None if page is None else str(page)})
        return
    show(evaluation)
    if page is not None:
        say(page)


def show(evaluation: Evaluation) -> None:
    """Print measures of all models, then errors by element and group."""
    from ase_nnp.training.evaluation_report import units_of

    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    names = list(dict.fromkeys(k for m in evaluation.models for k in m.metrics))
    rows = [
        [n, units_of(n), *(cell(m.metrics.get(n, "")) for m in evaluation.models)] for n in names
    ]
    heads = [m.name for m in evaluation.models]
    print_table(f"{evaluation.structures} structures", ("", "unit", *heads), rows)
    for attribute, what in (("by_element", "element"), ("by_group", "group")):
        for model in evaluation.models:
            table = getattr(model, attribute)
            if table:
                columns = list(dict.fromkeys(c for row in table.values() for c in row))
                cells = [[k, *(cell(r.get(c, "")) for c in columns)] for k, r in table.items()]
                print_table(f"{model.name}, by {what}", (what, *columns), cells)
