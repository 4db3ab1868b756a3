"""Benchmarks as one HTML page that needs no other file, and the same as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import write_whole
from ase_nnp.files.pictures import new_figure
from ase_nnp.files.report_page import figure, heading, page, paragraph, table
from ase_nnp.training.benchmarks.report import BenchmarkReport

__all__ = ["write_benchmark_page"]

WORST = 10  # records that a report lists


def write_benchmark_page(
    reports: Sequence[BenchmarkReport],
    folder: str | Path,
    comparisons: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write ``benchmark.html`` and ``benchmark.json`` into a folder.

    The page has the metrics of all models, their own error bars, errors by group and class, a
    picture of predictions against references, the records with the largest errors and those
    without an answer.

    Parameters
    ----------
    reports
        As :func:`~ase_nnp.training.benchmarks.run.run_benchmark` gives them.
    folder
        Made if missing.
    comparisons
        Of pairs of models, as plain values by ``"one - other"``.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ConfigError
        matplotlib is not installed, or the folder is a file.
    """
    folder, compared = Path(folder), dict(comparisons or {})
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the report.")
    folder.mkdir(parents=True, exist_ok=True)

    parts: list[str] = []
    for name in dict.fromkeys(report.benchmark for report in reports):
        parts += _benchmark(name, [report for report in reports if report.benchmark == name])
    if compared:
        parts += [heading("Comparisons"), *map(_comparison, compared, compared.values())]
    content = {"reports": [report.as_dict() for report in reports], "comparisons": compared}

    write_whole(folder / "benchmark.json", json.dumps(content, indent=1) + "\n")
    write_whole(folder / "benchmark.html", page("Benchmarks", *parts))
    return folder / "benchmark.html"


def _benchmark(name: str, reports: Sequence[BenchmarkReport]) -> list[str]:
    heads = [report.model for report in reports]
    metrics = dict.fromkeys(key for report in reports for key in report.metrics)
    parts = [
        heading(f"{name} ({reports[0].kind}, {reports[0].unit})"),
        table(["", *heads], [[key, *(r.metrics.get(key, "") for r in reports)] for key in metrics]),
        paragraph("The models' own error bars", strong=True),
        table(
            ["", *heads],
            [[key, *(_shown(r.bars[key]) for r in reports)] for key in reports[0].bars],
        ),
    ]
    for report in reports:
        parts += _model(report)
    return parts


def _model(report: BenchmarkReport) -> list[str]:
    parts = []
    known = [answer for answer in report.answers if answer.prediction is not None]
    if known:
        parts.append(figure(f"{report.model}: {len(known)} records", _picture(report)))
    for title, rows in (("group", report.by_group), ("class", report.by_label)):
        if len(rows) > 1:
            columns = [title, *next(iter(rows.values()))]
            parts.append(paragraph(f"{report.model}, by {title}", strong=True))
            parts.append(table(columns, [[key, *row.values()] for key, row in rows.items()]))

    worst = sorted(known, key=lambda answer: -abs(answer.error))[:WORST]
    if worst:
        parts.append(paragraph(f"{report.model}, largest errors", strong=True))
        columns = ["record", "group", "reference", "prediction", "error", "bar", "unknown", "class"]
        listed = [
            [a.name, a.group, a.reference, _shown(a.prediction), a.error, _shown(a.std),
             _shown(a.unknown), a.label]
            for a in worst
        ]  # fmt: skip
        parts.append(table(columns, listed))

    silent = [answer for answer in report.answers if answer.prediction is None]
    if silent:
        parts.append(paragraph(f"{report.model}: {len(silent)} without an answer", strong=True))
        parts.append(table(["record", "why"], [[a.name, a.problem] for a in silent[:WORST]]))
    return [*parts, *map(paragraph, report.notes)]


def _shown(value: Any) -> Any:
    return "" if value is None else value


def _comparison(name: str, comparison: Mapping[str, Any]) -> str:
    first, _, second = name.partition(" - ")
    verdict = "a significant difference" if comparison["significant"] else "no significant one"
    return paragraph(
        f"{first} against {second} on {comparison['over']}: |error| differs by "
        f"{comparison['difference']:.4g} ± {comparison['std']:.2g}; better with probability "
        f"{comparison['a_better']:.3f}, worse {comparison['b_better']:.3f}: {verdict}."
    )


def _picture(report: BenchmarkReport) -> bytes:
    """Draw predictions with their intervals against references."""
    known = [answer for answer in report.answers if answer.prediction is not None]
    true = np.array([answer.reference for answer in known])
    given = np.array([answer.prediction for answer in known], float)
    plot = new_figure(4.4, 3.9)
    axes = plot.add_subplot()

    bars = [(a.reference, *a.interval) for a in known if a.interval is not None]
    if bars:
        places, lower, upper = np.array(bars).T
        axes.vlines(places, lower, upper, color="0.8", linewidth=0.8, zorder=0)
    axes.plot(true, given, ".", markersize=3)
    low, high = float(min(true.min(), given.min())), float(max(true.max(), given.max()))
    pad = 0.03 * (high - low) or 1e-3
    limits = (low - pad, high + pad)
    axes.plot(limits, limits, color="0.6", linewidth=1)
    axes.set(
        xlabel=f"reference ({report.unit})",
        ylabel=f"{report.model} ({report.unit})",
        title=f"MAE {report.metrics['mae']:.4g} {report.unit}",
        xlim=limits,
        ylim=limits,
    )

    memory = io.BytesIO()
    # Without the version in it, equal pictures are equal files.
    plot.savefig(memory, format="png", dpi=120, metadata={"Software": None})
    return memory.getvalue()
