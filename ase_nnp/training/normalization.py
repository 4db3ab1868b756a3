"""Normalization of labels: reference energies of atoms, and the units of the network.

One pass over the training set, in fixed memory and with a progress bar. The result is set in the
model, so that the network learns numbers of about 1 and the saved model returns total energies.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ase_nnp.datasets.stats import DatasetStats, samples
from ase_nnp.datasets.streaming_statistics import Moments
from ase_nnp.errors import ConfigError, DatasetError, UnsupportedElementError
from ase_nnp.models.potential import Potential
from ase_nnp.training.data_identity import (
    HeldBack,
    geometry_digest,
    learned_digest,
    scalar_label,
)
from ase_nnp.training.report import TrainingReport
from ase_nnp.training.settings import Settings

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["apply_normalization", "fit_normalization"]

#: eV/Angstrom, and eV an atom: labels beyond are other units or slips, not physics.
STRONG, FAR = 1000.0, 50.0
LOOK = "look at its labels (`ase-nnp data verify --model`)"
#: eV: what rounding of reference energies to single precision may cost an atom.
ROUNDED = 5e-4


def fit_normalization(
    dataset: Sequence[Atoms],
    model: Potential,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    held: HeldBack | None = None,
) -> TrainingReport:
    """Read the training set once and fit references and units; nothing is set yet.

    Structures that the validation set ``held`` has too are counted.

    Raises
    ------
    DatasetError
        There are no structures, a label that the loss needs is nowhere, or kinds of energy are
        mixed.
    ConfigError
        References for elements that are missing, or labels the model cannot be compared with.
    UnsupportedElementError
        An element that the model was not made for.
    """
    from ase.data import atomic_numbers, chemical_symbols

    stats = DatasetStats(fit_references=True)
    labels = {name: 0 for name in settings.losses.scalars}
    scalar = Moments()
    compositions: list[tuple[Any, Any, float]] = []
    digest, shared, strongest = hashlib.sha256(), 0, (0.0, 0)
    for sample in samples(dataset, progress):
        stats.add(sample)

        # Digests in the pass that is made anyway.
        digest.update(learned_digest(sample, labels))
        shared += held is not None and geometry_digest(sample) in held.geometries
        for name in labels:
            value = scalar_label(sample, name)
            labels[name] += value is not None
            if value is not None and len(labels) == 1:
                scalar.add(value)
        if "energy" in sample:
            numbers, counts = np.unique(sample["atomic_numbers"], return_counts=True)
            compositions.append((numbers, counts, float(sample["energy"])))
        if "forces" in sample:
            strongest = max(strongest, (float(np.abs(sample["forces"]).max()), stats.count - 1))
    stats.flush()

    report = TrainingReport(stats.count, stats.atoms, {**stats.labels, **labels})
    report.sha256 = digest.hexdigest()
    report.elements = {chemical_symbols[z]: stats.elements[z] for z in sorted(stats.elements)}
    _check_labels(report, model, settings)
    _check_elements(model, stats)
    if len(stats.energy_kinds) > 1:
        raise DatasetError(
            "the training set mixes kinds of energy: "
            + ", ".join(f"{n} {kind}" for kind, n in stats.energy_kinds.items())
        )

    if strongest[0] > STRONG:
        report.notes.append(
            f"structure {strongest[1]} has a force of {strongest[0]:.3g} eV/Å along an axis, which "
            f"no structure has that was meant; {LOOK}"
        )
    if stats.forces.count:
        report.forces_rms = stats.free_forces.rms if stats.free_forces.count else stats.forces.rms
    adsorption = "adsorption" in (*stats.energy_kinds, model.energy_kind)
    report.energy_kind = "adsorption" if adsorption else "total"
    if compositions and "energy" in settings.wanted():
        _references(report, stats, settings, compositions, atomic_numbers, adsorption)
    elif scalar.count and "energy" not in settings.wanted():
        report.mean, report.energy_scale = scalar.mean, scalar.std or 1.0
        report.source = "mean"
    _units(report, model, settings)
    if held is not None:
        report.notes += held.notes(settings.wanted(), shared)
    return report


def _check_labels(report: TrainingReport, model: Potential, settings: Settings) -> None:
    if not report.structures:
        raise DatasetError("the training set is empty")
    if not settings.wanted():
        raise ConfigError("The loss has no term: give losses.energy, forces, stress or scalars.")

    for name in settings.wanted():
        if name not in model.outputs:
            raise ConfigError(
                f"The loss has a term for {name}, which '{model.family}' does not give. It gives: "
                f"{', '.join(model.outputs)}. Set losses.{name} to null."
            )
        have = report.labels.get(name, 0)
        if not have:
            # Numbers of these names in atoms.info may be in any unit.
            where = " in atoms.calc" if name in ("energy", "forces", "stress") else ""
            raise DatasetError(
                f"the loss has a term for {name}, but none of the {report.structures} structures "
                f"has such a label{where}; set losses.{name} to null, or look with "
                "`ase-nnp data stats`"
            )
        if have < report.structures:
            report.notes.append(f"{report.structures - have} structures have no {name}")


def _check_elements(model: Potential, stats: DatasetStats) -> None:
    from ase import Atoms

    try:
        model.check_elements([Atoms(sorted(stats.elements))])
    except UnsupportedElementError as error:
        if model.provenance.get("source") == "fresh weights":
            raise
        raise UnsupportedElementError(
            f"{error} To teach them to it: finetune.add_elements in the run file, or "
            "ase_nnp.training.new_elements.add_elements(model, [...])."
        ) from error


def _references(
    report: TrainingReport,
    stats: DatasetStats,
    settings: Settings,
    compositions: list[tuple[Any, Any, float]],
    atomic_numbers: Mapping[str, int],
    adsorption: bool,
) -> None:
    asked = settings.references
    # An adsorption energy has no energies of free atoms in it.
    if asked == "auto":
        asked = "none" if adsorption else "fit"
    if asked == "keep":
        report.source = "kept"
        return

    table: dict[int, float] = {}
    if isinstance(asked, dict):
        report.source = "given"
        unknown = sorted(set(asked) - set(atomic_numbers))
        missing = [s for s in report.elements if s not in asked]
        if unknown or missing:
            wrong = [f"{', '.join(unknown)} are no elements"] if unknown else []
            wrong += [f"no energy is given for {', '.join(missing)}"] if missing else []
            raise ConfigError(f"references: {'; '.join(wrong)}")
        table = {atomic_numbers[s]: e for s, e in asked.items()}
    elif asked == "fit":
        report.source = "least squares"
        fit = stats.fit.solve()
        table = {atomic_numbers[s]: e for s, e in fit["references"].items()}
        report.rank = fit["rank"]
        if fit["rank"] < fit["elements"]:
            report.notes.append(
                f"compositions tell only {fit['rank']} of {fit['elements']} elements apart: the "
                "references have the least norm and mean nothing for other compositions"
            )
        elif fit["count"] < 2 * fit["rank"]:
            report.notes.append(
                f"references of {fit['rank']} elements from {fit['count']} energies follow their "
                "noise: give more structures, or energies of free atoms (data.isolated_atoms)"
            )

    rest, whole, farthest = Moments(), Moments(), (0.0, 0)
    for number, (numbers, counts, energy) in enumerate(compositions):
        pairs = zip(numbers, counts, strict=True)
        residual = energy - sum(table.get(int(z), 0.0) * int(c) for z, c in pairs)
        rest.add(residual / int(counts.sum()))
        whole.add(residual)
        farthest = max(farthest, (abs(residual) / int(counts.sum()), number))

    if isinstance(asked, dict) and settings.shift and not adsorption:
        # Energies of isolated atoms leave the cohesive energy, several eV an atom, in the network's
        # output.
        table = {z: e + rest.mean for z, e in table.items()}
        report.source = f"given, shifted by {rest.mean:.4f} eV an atom"
        rest = Moments(rest.count, 0.0, rest.square, rest.low - rest.mean, rest.high - rest.mean)
    if adsorption:
        report.mean, report.energy_scale = whole.mean, whole.std
        report.source = "mean"
    else:
        # Deviations of atoms that do not depend on each other add up with the root of their number.
        report.energy_scale = rest.std * math.sqrt(max(1.0, stats.atoms / max(1, stats.count)))
    if asked == "fit" and farthest[0] > FAR:
        report.notes.append(
            f"energy {farthest[1]} of the training set is {farthest[0]:.3g} eV an atom from the "
            f"references, more than any bonds are worth; {LOOK}"
        )
    from ase.data import chemical_symbols

    report.references = {chemical_symbols[z]: float(e) for z, e in sorted(table.items())}
    report.residual = rest.as_dict()


def _units(report: TrainingReport, model: Potential, settings: Settings) -> None:
    """Set the unit of the network: of forces where they are trained, else of residual energies."""
    forces = report.forces_rms if "forces" in settings.wanted() else None

    # Forces are slopes of the energy, so both share one unit; that of the forces is the better
    # known, because there are so many.
    if forces and model.conservative and report.energy_kind == "total":
        report.energy_scale = report.forces_scale = forces
    elif forces:
        report.forces_scale = forces
    if not report.energy_scale > 1e-6:
        report.energy_scale = 1.0


def apply_normalization(model: Potential, report: TrainingReport) -> None:
    """Put references and scales of the report into the model, or note why not."""
    from ase.data import atomic_numbers

    if report.source == "kept":
        report.notes.append("the model keeps its reference energies and scales")
        return
    if type(model).set_scales is Potential.set_scales:
        report.notes.append(
            f"'{model.family}' has no reference energies or scales to set: it learns the labels "
            "as they are"
        )
        return
    references = {atomic_numbers[s]: e for s, e in report.references.items()}
    lost = max((abs(float(np.float32(e)) - e) for e in references.values()), default=0.0)
    if model.dtype == torch.float32 and lost > ROUNDED:
        report.notes.append(
            f"single precision rounds a reference energy by {1e3 * lost:.2g} meV an atom; subtract "
            "energies of free atoms from the labels, or train with model.dtype float64"
        )
    model.set_scales(
        references,
        mean=report.mean,
        energy=report.energy_scale,
        forces=report.forces_scale,
    )
    report.set_in_model = True
