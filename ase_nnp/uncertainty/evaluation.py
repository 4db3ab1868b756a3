"""How good are the error bars? All measures of a fitted uncertainty on labeled structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics.arrays import Array
from ase_nnp.uncertainty.statistics.moments import NOT_COVERED

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["Evaluation", "PropertyTable", "evaluate", "structure_scores_of", "tables_of"]


@dataclass(frozen=True)
class PropertyTable:
    """Labels, predictions and stds of one property, flat, with their units of bookkeeping.

    ``numbers`` and ``inside`` hold the atomic number and whether the interval held the label,
    for per-atom properties of which intervals are given. ``kinds`` names the kind of the structure
    of each value.
    """

    name: str
    true: Array
    pred: Array
    std: Array
    numbers: Array | None = None
    inside: Array | None = None
    width: float = float("nan")
    atom_error: Array | None = None
    atom_std: Array | None = None
    kinds: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Measures by property, scores of structures, and what was evaluated."""

    measures: dict[str, dict[str, Any]]
    tables: dict[str, PropertyTable]
    scores: Array
    shifted_scores: Array | None
    uq: dict[str, Any]
    structures: int
    score_name: str
    ood_auroc: float | None = None
    notes: tuple[str, ...] = field(default=(NOT_COVERED,))

    def to_json(self) -> dict[str, Any]:
        """The measures as plain values."""
        return {
            "structures": self.structures,
            "uq": self.uq,
            "measures": self.measures,
            "ood": {"score": self.score_name, "auroc": self.ood_auroc},
            "notes": list(self.notes),
        }


def kinds_by(structures: Sequence[Atoms], kinds: Sequence[Any] | str | None) -> list[str]:
    """Names of the kinds of structures.

    Parameters
    ----------
    structures
        What is evaluated.
    kinds
        One each; or a key of ``atoms.info`` that holds it; None for the compositions.
    """
    if kinds is None:
        return [atoms.get_chemical_formula("hill", empirical=True) for atoms in structures]
    if not isinstance(kinds, str):
        if len(kinds) != len(structures):
            raise UncertaintyError(f"{len(kinds)} kinds for {len(structures)} structures.")
        return [str(kind) for kind in kinds]
    for number, atoms in enumerate(structures):
        if kinds not in atoms.info:
            raise UncertaintyError(
                f"Structure {number} has no info['{kinds}']. It has: {', '.join(atoms.info)}."
            )
    return [str(atoms.info[kinds]) for atoms in structures]


def tables_of(
    structures: Sequence[Atoms],
    rows: Sequence[Mapping[str, Any]],
    kinds: Sequence[str] | None = None,
) -> dict[str, PropertyTable]:
    """Collect labels and predictions of energy and forces, with the kind of each structure."""
    from ase_nnp.uncertainty.fitting import labels_of

    labels = labels_of(structures)
    tables: dict[str, PropertyTable] = {}
    for name in ("energy", "forces"):
        if name not in labels[0] or f"{name}_std" not in rows[0]:
            continue
        true = np.concatenate([np.atleast_1d(label[name]) for label in labels])
        pred = np.concatenate([np.atleast_1d(row[name]) for row in rows])
        std = np.concatenate([np.atleast_1d(row[f"{name}_std"]) for row in rows])
        more: dict[str, Any] = {}
        if kinds is not None:
            size = [3 * len(a) for a in structures] if name == "forces" else 1
            more["kinds"] = np.repeat(np.asarray(kinds), size)
        if name == "forces":
            more["numbers"] = np.repeat(np.concatenate([a.numbers for a in structures]), 3)
            more["atom_error"] = np.linalg.norm(true - pred, axis=1)
            more["atom_std"] = np.linalg.norm(std, axis=1)
        if f"{name}_interval" in rows[0]:
            intervals = [np.asarray(row[f"{name}_interval"]) for row in rows]
            ends = np.concatenate(intervals, axis=1) if name == "forces" else np.array(intervals).T
            more["inside"] = ((ends[0] <= true) & (true <= ends[1])).ravel()
            more["width"] = float((ends[1] - ends[0]).mean())
        tables[name] = PropertyTable(name, true.ravel(), pred.ravel(), std.ravel(), **more)
    if not tables:
        raise UncertaintyError("Labels and predictions share no property with a std.")
    return tables


def structure_scores_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, Array]:
    """One out-of-distribution score per structure, and its name.

    ``ood_score`` where a method gives one, else the mean deviation of the forces over atoms, else
    the energy's std per structure.
    """
    if "ood_score" in rows[0]:
        # An element that was never seen is infinitely far; ranks need numbers.
        return "ood_score", np.array([min(row["ood_score"], 1e12) for row in rows])
    if "forces_std_norm" in rows[0]:
        return "mean forces_std_norm", np.array([row["forces_std_norm"].mean() for row in rows])
    return "energy_std", np.array([row["energy_std"] for row in rows])


def by_kind(table: PropertyTable) -> dict[str, dict[str, float]]:
    """Count, error, mean square of error over std and coverage of each kind."""
    assert table.kinds is not None
    error = table.true - table.pred
    result: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(table.kinds.tolist()):
        own = table.kinds == kind
        row = {
            "n": int(own.sum()),
            "rmse": float(np.sqrt((error[own] ** 2).mean())),
            "z_mean_square": float(((error[own] / table.std[own]) ** 2).mean()),
        }
        if table.inside is not None:
            row["interval_coverage"] = float(table.inside[own].mean())
        result[kind] = row
    return result


def measures_of(table: PropertyTable, bins: int) -> dict[str, Any]:
    """All measures of one property."""
    xyz = table.true, table.pred, table.std
    error = table.true - table.pred
    # Fewer than five values in a bin say nothing of a spread.
    count = max(1, min(bins, len(error) // 5))
    measures: dict[str, Any] = {
        "n": len(error),
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "sharpness": met.sharpness_rms(table.std),
        "nll": met.nll_gaussian(*xyz),
        "crps": met.crps_gaussian(*xyz),
        f"ence_{count}_bins": met.ence(*xyz, bins=count),
        "ence_by_chance": met.ence_by_chance(*xyz, bins=count),
        "miscalibration_area": met.miscalibration_area(*xyz),
        "z_mean_square": met.var_z(*xyz),
        "pit_ks": met.pit_ks_statistic(*xyz),
        "ause": met.ause(*xyz),
    }

    size, std = np.abs(error), table.std
    # A force is one vector: its components are not ranked apart.
    if table.atom_error is not None and table.atom_std is not None:
        size, std = table.atom_error, table.atom_std
    # One std for all ranks nothing.
    if len(size) >= 20 and np.ptp(std) > 0:
        measures["spearman"] = met.spearman(size, std)
        measures["auroc_top_5_percent"] = met.auroc_errors(size, std, quantile=0.95)
    if table.inside is not None:
        measures["interval_coverage"] = float(table.inside.mean())
        measures["interval_width"] = table.width
        if table.numbers is not None:
            from ase.data import chemical_symbols

            measures["interval_coverage_by_element"] = {
                chemical_symbols[int(z)]: float(table.inside[table.numbers == z].mean())
                for z in np.unique(table.numbers)
            }
    if table.kinds is not None:
        measures["by_kind"] = by_kind(table)
    return measures


def evaluate(
    model: Potential,
    structures: Sequence[Atoms],
    shifted: Sequence[Atoms] | None = None,
    *,
    kinds: Sequence[Any] | str | None = None,
    bins: int = 20,
    progress: bool | None = None,
) -> Evaluation:
    """Measure the error bars of a model with uncertainty.

    Parameters
    ----------
    model
        A fitted uncertainty.
    structures
        Labeled, of the kind that the model knows; not those of the calibration.
    shifted
        Structures of another kind, labels not needed, to tell from the first. Where they have
        labels, their errors and coverage stand in ``by_kind`` as ``"shifted: ..."``.
    kinds
        Kind of each structure, or a key of ``atoms.info``; compositions without it. Measures are
        given by kind too, as an average over all hides the kind that is wrong.
    bins
        Of equal count, for the ENCE.
    progress
        Show a bar on stderr.
    """
    from ase_nnp.models.predictor import Predictor
    from ase_nnp.uncertainty.fitting import data_hash

    if not len(structures):
        raise UncertaintyError("There are no structures to measure error bars on.")
    facts = dict(getattr(model, "uq", None) or {})
    notes = [NOT_COVERED]
    if facts.get("calibration_hash") == data_hash(structures):
        notes.append("These structures calibrated the error bars: look at others for coverage.")
    predictor = Predictor(model)
    rows = predictor(structures, progress=progress)
    tables = tables_of(structures, rows, kinds_by(structures, kinds))
    measures = {name: measures_of(table, bins) for name, table in tables.items()}
    name, scores = structure_scores_of(rows)

    other, auroc = None, None
    if shifted is not None:
        strange = predictor(shifted, progress=progress)
        other = structure_scores_of(strange)[1]
        auroc = met.auroc_ood(scores, other)
        key = kinds if isinstance(kinds, str) else None
        try:
            labels = [f"shifted: {kind}" for kind in kinds_by(shifted, key)]
            more = tables_of(shifted, strange, labels)
        except UncertaintyError:  # no labels: only to be told from the first
            more = {}
        for prop in set(more) & set(measures):
            measures[prop]["by_kind"] |= by_kind(more[prop])
    return Evaluation(
        measures,
        tables,
        scores,
        other,
        facts,
        len(structures),
        name,
        auroc,
        tuple(notes),
    )
