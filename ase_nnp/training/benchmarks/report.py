"""What a model answered in a benchmark: errors by group, and how good its own error bars are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["Answer", "BenchmarkReport"]

COVERAGE = 0.9


@dataclass(frozen=True)
class Answer:
    """One record: what the reference says, what the model says, and how sure it is.

    Attributes
    ----------
    name, group
        Of the record, and what it belongs to (an adsorbate, a split).
    reference, prediction
        In the benchmark's unit; no prediction where the model gave none.
    std, interval
        The model's error bar, and its central 90 % interval; None without one.
    unknown
        Whether the model marked or refused it as unlike what it knows; None if it cannot tell.
    problem
        Why there is no prediction.
    label
        Class of the relaxation (``"normal"``, ``"energy_anomaly"``, ...), where there is one.
    """

    name: str
    group: str
    reference: float
    prediction: float | None = None
    std: float | None = None
    interval: tuple[float, float] | None = None
    unknown: bool | None = None
    problem: str = ""
    label: str = ""

    @property
    def error(self) -> float:
        """Prediction minus reference; NaN without a prediction."""
        return math.nan if self.prediction is None else self.prediction - self.reference


@dataclass
class BenchmarkReport:
    """A model on one benchmark.

    ``metrics`` has ``mae``, ``rmse``, ``bias`` (mean signed error), ``mae_shifted`` (each group's
    median error taken off, as a wrong gas reference would add it) and further ones of the kind;
    ``bars`` says what no table of errors does: ``coverage`` of the 90 % intervals, ``sharpness``
    (mean std), and ``unknown``, the share that the model marks or refuses.
    """

    benchmark: str
    kind: str
    model: str
    unit: str = "eV"
    answers: list[Answer] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = {**self._errors(), **self.metrics}

    def _errors(self) -> dict[str, float]:
        known = [a for a in self.answers if a.prediction is not None]
        metrics = {"records": float(len(self.answers)), "answered": float(len(known))}
        if not known:
            return metrics

        errors = np.array([a.error for a in known])
        groups = np.array([a.group for a in known])
        shifted = errors.copy()

        for group in set(groups.tolist()):
            shifted[groups == group] -= np.median(errors[groups == group])
        return metrics | {
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "bias": float(errors.mean()),
            "mae_shifted": float(np.abs(shifted).mean()),
        }

    @property
    def bars(self) -> dict[str, float | None]:
        """Coverage and sharpness of the model's error bars, and the share it does not know."""
        barred = [a for a in self.answers if a.interval is not None and a.std is not None]
        told = [a for a in self.answers if a.unknown is not None]
        inside = [a.interval[0] <= a.reference <= a.interval[1] for a in barred if a.interval]
        return {
            "with_bar": float(len(barred)),
            "coverage": float(np.mean(inside)) if inside else None,
            "wanted_coverage": COVERAGE,
            "sharpness": float(np.mean([a.std for a in barred])) if barred else None,
            "unknown": float(np.mean([bool(a.unknown) for a in told])) if told else None,
        }

    @property
    def by_group(self) -> dict[str, dict[str, float]]:
        """Records, MAE and bias of every group."""
        return self._by("group")

    @property
    def by_label(self) -> dict[str, dict[str, float]]:
        """Records, share, MAE and bias of every class of relaxation."""
        return self._by("label") if any(a.label for a in self.answers) else {}

    def _by(self, name: str) -> dict[str, dict[str, float]]:
        table: dict[str, dict[str, float]] = {}
        for value in sorted({getattr(a, name) for a in self.answers}):
            mine = [a for a in self.answers if getattr(a, name) == value]
            errors = np.array([a.error for a in mine if a.prediction is not None])
            table[value] = {
                "records": float(len(mine)),
                "rate": len(mine) / len(self.answers),
                "mae": float(np.abs(errors).mean()) if len(errors) else math.nan,
                "bias": float(errors.mean()) if len(errors) else math.nan,
            }
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as for ``--json``."""
        return {
            "benchmark": self.benchmark,
            "kind": self.kind,
            "model": self.model,
            "unit": self.unit,
            "metrics": self.metrics,
            "bars": self.bars,
            "by_group": self.by_group,
            "by_label": self.by_label,
            "notes": self.notes,
            "answers": [asdict(answer) for answer in self.answers],
        }
