"""``ase-nnp evaluate --benchmark``: runs a benchmark and prints errors, bars and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.cli.commands.output import print_json, print_table, say
from ase_nnp.cli.commands.progress import progress_bar

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential
    from ase_nnp.training.benchmarks.report import BenchmarkReport

__all__ = ["run"]


def run(
    models: Mapping[str, Potential],
    benchmarks: Sequence[str],
    relax: bool,
    limit: int | None,
    energy_kind: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run benchmarks on models; write a page and files for other programs into ``output``."""
    from ase_nnp.training.benchmarks.run import compare_reports, run_benchmark

    named = {_plain_name(name): model for name, model in models.items()}
    reports: list[BenchmarkReport] = []
    with progress_bar("relaxing") as progress:
        for one in benchmarks:
            reports += run_benchmark(
                named,
                one,
                relax=relax,
                limit=limit,
                output=output,
                energy_kind=energy_kind,
                progress=progress,
            )
    compared = {name: one.as_dict() for name, one in compare_reports(reports).items()}
    page = None
    if output is not None:
        from ase_nnp.training.benchmarks.benchmark_page import write_benchmark_page

        page = write_benchmark_page(reports, output, compared)
    if as_json:
        listed = [report.as_dict() for report in reports]
        written = {} if page is None else {"report": str(page)}
        print_json({"reports": listed, "comparisons": compared, **written})
        return
    for name in dict.fromkeys(report.benchmark for report in reports):
        _show(name, [report for report in reports if report.benchmark == name])
    for name, comparison in compared.items():
        _show_comparison(name, comparison)
    if page is not None:
        say(page)


def _plain_name(name: str) -> str:
    path = Path(name)
    return path.stem if path.exists() else name.replace("/", "-")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show(name: str, reports: Sequence[BenchmarkReport]) -> None:
    heads = [report.model for report in reports]
    unit = reports[0].unit
    metrics = list(dict.fromkeys(key for report in reports for key in report.metrics))
    rows = [[key, *(_cell(r.metrics.get(key)) for r in reports)] for key in metrics]
    print_table(f"{name} ({reports[0].kind}, {unit})", ("", *heads), rows)

    bars = [report.bars for report in reports]
    rows = [[key, *(_cell(one[key]) for one in bars)] for key in bars[0]]
    print_table("The models' own error bars", ("", *heads), rows)
    for report in reports:
        for title, table in (("group", report.by_group), ("class", report.by_label)):
            if len(table) > 1:
                cells = [[key, *map(_cell, row.values())] for key, row in table.items()]
                columns = (title, *next(iter(table.values())))
                print_table(f"{report.model}, by {title}", columns, cells)
        for note in report.notes:
            say(note)


def _show_comparison(name: str, comparison: Mapping[str, Any]) -> None:
    first, _, second = name.partition(" - ")
    verdict = "a significant difference" if comparison["significant"] else "no significant one"
    chances = (
        f"better with probability {comparison['a_better']:.3f}, within ±{comparison['rope']:g} "
        f"{comparison['equivalent']:.3f}, worse {comparison['b_better']:.3f}"
    )
    say(
        f"{first} against {second} on {comparison['over']}: |error| differs by "
        f"{comparison['difference']:.4g} ± {comparison['std']:.2g}; {chances}: {verdict}"
    )
