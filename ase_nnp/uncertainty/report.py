"""An evaluation as one HTML page that needs no other file, its figures as PNG, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.files.atomic import whole_file
from ase_nnp.files.pictures import new_figure
from ase_nnp.files.report_page import figure, heading, page, paragraph, table
from ase_nnp.uncertainty.evaluation import Evaluation, PropertyTable
from ase_nnp.uncertainty.statistics import metrics as met

__all__ = ["write_report"]

UNITS = {"energy": "eV", "forces": "eV/Å"}


def write_report(
    evaluation: Evaluation, folder: str | Path, title: str = "Uncertainty report"
) -> Path:
    """Write ``report.html``, ``report.json`` and the figures into a folder.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ConfigError
        matplotlib is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[tuple[str, bytes]] = []

    def draw(name: str, caption: str, plot: Callable[..., None], *given: Any) -> None:
        canvas = new_figure(4.6, 3.8)
        plot(canvas.add_subplot(), *given)
        with whole_file(folder / f"{name}.png") as beside:
            canvas.savefig(beside, dpi=120, metadata={"Software": None})
        images.append((caption, (folder / f"{name}.png").read_bytes()))

    for key, values in evaluation.tables.items():
        for what, (caption, plot) in _PLOTS.items():
            draw(f"{key}_{what}", f"{key}: {caption}", plot, values)
        if values.inside is not None and values.numbers is not None:
            caption = f"{key}: interval coverage per element"
            draw(f"{key}_coverage", caption, _coverage, values, evaluation)
    draw("ood", f"structures: {evaluation.score_name}", _ood, evaluation)

    text = json.dumps(evaluation.to_json(), indent=1, default=str)
    contents = {"report.json": f"{text}\n", "report.html": _page(evaluation, images, title)}
    for name, content in contents.items():
        with whole_file(folder / name) as beside:
            beside.write_text(content, encoding="utf-8")
    return folder / "report.html"


def _reliability(axes: Any, t: PropertyTable) -> None:
    nominal, observed = met.calibration_curve(t.true, t.pred, t.std)
    area = met.miscalibration_area(t.true, t.pred, t.std)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.plot(nominal, observed)
    axes.fill_between(nominal, nominal, observed, alpha=0.2)
    axes.set(xlabel="nominal coverage", ylabel="observed coverage", title=f"area {area:.3f}")


def _error_std(axes: Any, t: PropertyTable) -> None:
    error = np.maximum(np.abs(t.true - t.pred), 1e-12)
    # Of a hundred thousand points in one place none can be told apart.
    step = max(1, len(error) // 5000)
    axes.loglog(t.std[::step], error[::step], ".", markersize=2, alpha=0.3)
    bins = met.ence_bins(t.true, t.pred, t.std, max(1, min(20, len(error) // 5)))
    axes.loglog(bins.rmv, bins.rmse, "o-", color="C1", markersize=4, label="RMSE of a bin")
    ends = [bins.rmv.min(), bins.rmv.max()]
    axes.loglog(ends, ends, color="0.4", linewidth=1)
    unit = UNITS.get(t.name, "")
    axes.set(xlabel=f"predicted std ({unit})", ylabel=f"|error| ({unit})")
    axes.set_ylim(bottom=np.quantile(error, 0.02) / 2)
    axes.legend()


def _confidence(axes: Any, t: PropertyTable) -> None:
    curve = met.confidence_curve(t.true, t.pred, t.std)
    axes.plot(curve.fractions, curve.curve, label="by std")
    axes.plot(curve.fractions, curve.oracle, "--", label="oracle")
    axes.axhline(curve.random_level, color="0.6", linewidth=1)
    axes.set(xlabel="fraction removed", ylabel=f"MAE of the rest ({UNITS.get(t.name, '')})")
    axes.legend()


def _pit(axes: Any, t: PropertyTable) -> None:
    axes.hist(met.pit(t.true, t.pred, t.std), bins=20, range=(0, 1), density=True)
    axes.axhline(1, color="0.4", linewidth=1)
    axes.set(xlabel="probability integral transform", ylabel="density")


_PLOTS: dict[str, tuple[str, Callable[[Any, PropertyTable], None]]] = {
    "reliability": ("reliability diagram", _reliability),
    "error_std": ("error against std", _error_std),
    "confidence": ("confidence curve", _confidence),
    "pit": ("PIT histogram", _pit),
}


def _coverage(axes: Any, t: PropertyTable, evaluation: Evaluation) -> None:
    table = evaluation.measures[t.name]["interval_coverage_by_element"]
    axes.bar(list(table), list(table.values()))
    axes.axhline(evaluation.uq.get("coverage") or 0.9, color="0.3", linewidth=1)
    axes.set(ylim=(0, 1), ylabel="covered")


def _ood(axes: Any, e: Evaluation) -> None:
    parts = [e.scores] if e.shifted_scores is None else [e.scores, e.shifted_scores]
    # A few structures far out would squeeze all others into one bin.
    top = np.quantile(np.concatenate(parts), 0.99)
    span = (min(p.min() for p in parts), max(top, parts[0].max() + 1e-12))
    for values, label in zip(parts, ("known kind", "shifted"), strict=False):
        axes.hist(values.clip(*span), bins=30, range=span, alpha=0.6, density=True, label=label)
    if e.ood_auroc is not None:
        axes.set_title(f"AUROC {e.ood_auroc:.3f}")
    axes.set(xlabel=e.score_name, ylabel="density")
    axes.legend()


def _page(e: Evaluation, images: list[tuple[str, bytes]], title: str) -> str:
    names = sorted({k for m in e.measures.values() for k in m} - {"by_kind"})

    return page(
        title,
        paragraph(f"{e.structures} structures."),
        *(paragraph(note, strong=True) for note in e.notes),
        heading("Method"),
        table([], [[k, json.dumps(v) if isinstance(v, dict) else v] for k, v in e.uq.items()]),
        heading("Measures"),
        table(
            ["", *e.measures],
            [[n, *(m.get(n, "") for m in e.measures.values())] for n in names],
        ),
        heading("By kind"),
        *(part for name in e.measures for part in _by_kind(name, e.measures[name])),
        heading("Figures"),
        *(figure(caption, image) for caption, image in images),
    )


def _by_kind(name: str, measures: dict[str, Any]) -> list[Any]:
    """A table of one property, a row a kind: an average hides the kind that is wrong."""
    rows = measures.get("by_kind", {})
    heads = ["n", "rmse", "z_mean_square", "interval_coverage"]
    cells = [[kind, *(row.get(h, "") for h in heads)] for kind, row in rows.items()]
    return [paragraph(f"{name} ({UNITS.get(name, '')})"), table(["kind", *heads], cells)]
