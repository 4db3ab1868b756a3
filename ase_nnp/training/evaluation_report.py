"""An evaluation as one HTML page that needs no other file, its figures as PNG, and JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.pictures import new_figure
from ase_nnp.files.report_page import figure, heading, page, paragraph, table
from ase_nnp.training.evaluation import Evaluation

__all__ = ["units_of", "write_report"]

_UNITS = {"energy": "eV", "energies": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
_PLAIN = ("r2", "within", "cos", "efwt", "ewt", "n_")


def units_of(metric: str) -> str:
    """Return the unit of a measure by its name, empty where it has none."""
    if any(part in metric for part in _PLAIN):
        return ""
    for name, unit in _UNITS.items():
        if name in metric:
            return (f"({unit})²" if metric.endswith("_mse") else unit) + "/atom" * (
                "per_atom" in metric
            )
    return ""


def write_report(evaluation: Evaluation, folder: str | Path, title: str = "Evaluation") -> Path:
    """Write ``report.html``, ``report.json`` and a PNG for each parity plot into a folder.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ConfigError
        matplotlib is not installed, or the folder is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the report.")

    folder.mkdir(parents=True, exist_ok=True)
    images: list[tuple[str, bytes]] = []

    names = dict.fromkeys(name for m in evaluation.models for name in m.pairs)
    for name in names:
        for number, model in enumerate(evaluation.models):
            if name in model.pairs:
                image = _parity(*model.pairs[name], name, model.name)
                images.append((f"{model.name}: {name}", image))
                with whole_file(folder / f"{name}_{number + 1}.png") as beside:
                    beside.write_bytes(image)

    text = json.dumps(evaluation.as_dict(), indent=1, default=_plain)
    for file, content in (("report.json", text + "\n"), ("report.html", "")):
        with whole_file(folder / file) as beside:
            beside.write_text(content or _page(evaluation, images, title), encoding="utf-8")

    return folder / "report.html"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _parity(true: Any, pred: Any, name: str, model: str) -> bytes:
    figure = new_figure(4.4, 3.9)
    axes = figure.add_subplot()

    # More points only make the picture slower; the figures above it count all.
    step = max(1, len(true) // 20000)
    low, high = float(min(true.min(), pred.min())), float(max(true.max(), pred.max()))
    pad = 0.03 * (high - low) or 1e-3
    axes.plot([low - pad, high + pad], [low - pad, high + pad], color="0.6", linewidth=1)
    axes.plot(true[::step], pred[::step], ".", markersize=2, alpha=0.4)
    error = float(np.abs(pred - true).mean())
    base = name.removesuffix("_per_atom")
    unit = _UNITS.get(base, "") + ("/atom" if name.endswith("_per_atom") else "")
    shown = f" ({unit})" if unit else ""
    axes.set(
        xlabel=f"label{shown}",
        ylabel=f"{model}{shown}",
        title=f"{name}: MAE {error:.4g} {unit}".rstrip(),
    )
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
    memory = io.BytesIO()

    # Without the version in it, equal pictures are equal files.
    figure.savefig(memory, format="png", dpi=120, metadata={"Software": None})
    return memory.getvalue()


def _nested(evaluation: Evaluation, attribute: str, what: str) -> str:
    """One table for all models: a row for each element or group."""
    tables = [getattr(m, attribute) for m in evaluation.models]
    keys = sorted({k for t in tables for k in t})
    columns = list(dict.fromkeys(c for t in tables for row in t.values() for c in row))
    if not keys:
        return ""

    shared = [c for c in columns if c in ("atoms", "structures", "label_rms")]
    own = [c for c in columns if c not in shared]
    head = [what, *shared, *(f"{m.name}: {c}" for m in evaluation.models for c in own)]

    rows = []
    for key in keys:
        first = next(t[key] for t in tables if key in t)
        rows.append(
            [
                key,
                *(first.get(c, "") for c in shared),
                *(t.get(key, {}).get(c, "") for t in tables for c in own),
            ]
        )
    return heading(f"By {what}") + table(head, rows)


def _page(evaluation: Evaluation, images: list[tuple[str, bytes]], title: str) -> str:
    models = evaluation.models
    names = list(dict.fromkeys(k for m in models for k in m.metrics))
    labels = ", ".join(f"{k} {n}" for k, n in evaluation.labels.items())

    return page(
        title,
        paragraph(
            f"{evaluation.structures} structures of {evaluation.data}; labels: {labels}. Energies "
            "are compared as they are, forces on free atoms."
        ),
        heading("Models"),
        table(
            ["model", "family", "parameters", "energy", "SHA-256"],
            [[m.name, m.family, m.parameters, m.energy_kind, m.sha256[:16]] for m in models],
        ),
        heading("Measures"),
        table(
            ["measure", "unit", *(m.name for m in models)],
            [[n, units_of(n), *(m.metrics.get(n, "") for m in models)] for n in names],
        ),
        _nested(evaluation, "by_element", "element"),
        _nested(evaluation, "by_group", "group"),
        heading("Parity"),
        *(figure(caption, image) for caption, image in images),
    )
