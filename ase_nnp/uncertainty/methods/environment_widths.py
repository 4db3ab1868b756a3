"""Errors beside what could have told them, and the formulas fitted to these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.methods.environment import EnvironmentBars
from ase_nnp.uncertainty.methods.environment_signs import atom_signs, structure_signs
from ase_nnp.uncertainty.statistics.arrays import Array
from ase_nnp.uncertainty.statistics.conformal import weighted_conformal_quantile
from ase_nnp.uncertainty.statistics.growth import LogLinearWidth, fit_log_linear

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Evidence", "fit_widths", "gather", "join"]

Widths = dict[str, LogLinearWidth]

#: eV/Angstrom; smaller forces are zero by symmetry, as no relaxation goes so far.
STILL = 1e-5
#: Weight, for each structure, of the powers that theory gives an energy's error.
THEORY = 0.5


@dataclass(frozen=True)
class Evidence:
    """Errors of labeled structures, and signs of them.

    Attributes
    ----------
    far, near, numbers, owner
        (N,) distance, that of neighbors, element and structure of each atom.
    forces, spread
        (N, 3) errors, NaN where there is no label or a force is zero by symmetry, and (N,) the
        spread within, if any.
    energy, energy_std
        (B,) errors and stds within, if any.
    stress, volume
        (B, 6) errors, NaN where there is no label, and volumes.
    source
        (B,) 0: structures that trained nothing; 1: training structures, left out of a refit.
    kind
        (B,) of training structures; None if not yet known.
    """

    far: Array
    near: Array
    numbers: NDArray[np.int64]
    owner: NDArray[np.intp]
    forces: Array
    spread: Array | None
    energy: Array
    energy_std: Array | None
    stress: Array
    volume: Array
    source: NDArray[np.intp]
    kind: NDArray[np.intp] | None = None

    @property
    def structures(self) -> int:
        """How many structures there are."""
        return len(self.energy)

    def atoms(self, rows: NDArray[np.bool_] | None = None) -> Array:
        """Signs of atoms, of those in ``rows``."""
        use = np.ones(len(self.far), bool) if rows is None else rows
        near = [torch.as_tensor(x[use]) for x in (self.far, self.near)]
        spread = None if self.spread is None else torch.as_tensor(self.spread[use])[:, None]
        return np.asarray(atom_signs(near[0], near[1], spread).numpy())


def gather(bars: EnvironmentBars, structures: Sequence[Atoms]) -> Evidence:
    """Predict labeled structures and keep errors and signs."""
    far, near, z, owner, forces, spread = [], [], [], [], [], []
    energy, stds, stress, volume = [], [], [], []
    own = set(bars.base.outputs)
    wanted = {"energy", "forces", "energy_std", "forces_std"} & own

    for number, atoms in enumerate(structures):
        labels = own_results(atoms, number)
        if not {"energy", "forces"} & set(labels):
            raise UncertaintyError(f"Calibration structure {number} has no energy and no forces.")
        tensor = labels.get("stress") is not None and "stress" in own and atoms.cell.rank == 3
        graph = bars.base.make_graph([atoms])
        result, d, n, _ = bars.look(graph, wanted | ({"stress"} if tensor else set()))

        far.append(d.cpu().numpy())
        near.append(n.cpu().numpy())
        z.append(atoms.numbers)
        owner.append(np.full(len(atoms), number))

        missed = np.full((len(atoms), 3), np.nan)
        if "forces" in labels and "forces" in result:
            true = np.asarray(labels["forces"], dtype=np.float64)
            missed = true - _numpy(result["forces"])
            # Zero by symmetry and predicted so: no evidence of how wrong a force of the element
            # can be, and a level that rests on such atoms alone is a thousand times too small.
            still = np.linalg.norm(true, axis=1) < STILL
            missed[still & (np.linalg.norm(missed, axis=1) < 10 * STILL)] = np.nan
        forces.append(missed)
        energy.append(labels.get("energy", np.nan) - float(result["energy"].detach()[0]))
        if "forces_std" in own:
            spread.append(np.sqrt((_numpy(result["forces_std"]) ** 2).mean(axis=1)))
        if "energy_std" in own:
            stds.append(float(result["energy_std"].detach()[0]))

        voigt = np.full(6, np.nan)
        if tensor:
            rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
            voigt = np.asarray(labels["stress"]) - _numpy(result["stress"])[0][rows, columns]
        stress.append(voigt)
        volume.append(atoms.get_volume() if atoms.cell.rank == 3 else np.nan)

    def joined(parts: list[Any], shape: tuple[int, ...], kind: Any = float) -> Any:
        return np.concatenate(parts) if parts else np.zeros(shape, kind)

    return Evidence(
        joined(far, (0,)), joined(near, (0,)), joined(z, (0,), int), joined(owner, (0,), int),
        joined(forces, (0, 3)), joined(spread, (0,)) if "forces_std" in own else None,
        np.array(energy), np.array(stds) if "energy_std" in own else None,
        np.array(stress).reshape(-1, 6), np.array(volume), np.zeros(len(energy), dtype=np.intp),
    )  # fmt: skip


def _numpy(values: torch.Tensor) -> Array:
    return np.asarray(values.detach().double().cpu().numpy())


def join(first: Evidence, second: Evidence) -> Evidence:
    """Both as one, the structures of the second numbered after the first."""
    other = replace(second, owner=second.owner + first.structures)
    values: dict[str, Any] = {}
    for field in fields(Evidence):
        pair = [getattr(one, field.name) for one in (first, other)]
        values[field.name] = None if pair[0] is None else np.concatenate(pair)
    return Evidence(**values)


def fit_widths(
    evidence: Evidence, folds: NDArray[np.intp], coverage: float, names: Sequence[str]
) -> tuple[Widths, dict[str, Any]]:
    """Fit all formulas; intervals are widened so that they hold kinds that were left out.

    Each fold is left out in turn. What its errors are, in units of widths fitted to the others,
    gives the conformal factor of the intervals, and the table ``left_out`` by kind.
    """
    # Each fold is judged by formulas that have not seen it.
    own = np.unique(folds)
    ratios: dict[str, list[Array]] = {"forces": [], "energy": []}
    weights: dict[str, list[Array]] = {"forces": [], "energy": []}
    table: dict[str, dict[str, float]] = {}
    for number in own if len(own) > 1 else []:
        found: dict[str, list[tuple[Array, Array, Array]]] = {}
        for out in _in_parts(folds == number):
            try:
                widths = _formulas(evidence, ~out, coverage)
            except UncertaintyError:  # the rest alone has no errors to fit
                continue
            for name, ratio in _ratios(evidence, out, widths).items():
                found.setdefault(name, []).append(ratio)

        row: dict[str, float] = {"structures": int(np.sum(folds == number))}
        for name, parts in found.items():
            squares, inside, share = (np.concatenate(x) for x in zip(*parts, strict=True))
            row[f"{name}_z_square"] = float(np.mean(squares**2))
            # Conformal for what was held back; training errors have a level of their own.
            ratios[name].append(inside.ravel())
            weights[name].append(share)
            row[f"{name}_covered"] = float(np.mean(inside <= 1))
        if found:
            table[names[number] if number < len(names) else str(number)] = row

    widths = _formulas(evidence, np.ones(len(folds), bool), coverage)
    for name, pieces in ratios.items():
        values = np.concatenate(pieces) if pieces else np.zeros(0)
        if not values.size or f"{name}_interval" not in widths:
            continue
        # Values of one structure depend on each other: a large one counts no more than a small one.
        weight = np.concatenate(weights[name])
        factor = float(weighted_conformal_quantile(values, weight, weight.mean(), 1 - coverage))
        # Too few for a finite guarantee: the widest that was seen.
        factor = factor if np.isfinite(factor) else float(values.max())
        widths[f"{name}_interval"] = widths[f"{name}_interval"].scaled(factor)
    return widths, {"left_out": table}


def _in_parts(fold: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """A fold in parts of at most a quarter of all structures: the rest has to know the law."""
    members = np.flatnonzero(fold)
    pieces = int(np.ceil(len(members) / max(1, len(fold) / 4)))
    return [np.isin(np.arange(len(fold)), members[k::pieces]) for k in range(pieces)]


def _formulas(evidence: Evidence, use: NDArray[np.bool_], coverage: float) -> Widths:
    """Formulas of stds and half widths, from the structures in ``use``."""
    widths: Widths = {}
    losses: tuple[tuple[str, Literal["likelihood", "quantile"]], ...]
    losses = (("", "likelihood"), ("_interval", "quantile"))
    atoms = use[evidence.owner] & np.isfinite(evidence.forces).all(axis=1)
    if atoms.any() and evidence.forces[atoms].any():
        signs, z = evidence.atoms(atoms), evidence.numbers[atoms]
        source = evidence.source[evidence.owner[atoms]]
        # In proportion to the sign is what few observations are drawn to (prior).
        for name, loss in losses:
            widths[f"forces{name}"] = fit_log_linear(
                evidence.forces[atoms], signs, z, source, loss=loss, coverage=coverage, prior=1.0
            )
        # A committee's spread is left out of the score: that of structures it has seen says little.
        widths["expected"] = fit_log_linear(
            evidence.forces[atoms], signs[:, :2], z, source, prior=1.0
        )

    whole = use & np.isfinite(evidence.energy)
    if whole.any() and evidence.energy[whole].any():
        signs = _structures(evidence, widths)[whole]
        # The work of force errors; a committee that learned from the same structures agrees too
        # well beyond them, so its spread has to earn its power. Structures at home vary too little
        # to tell powers: they may overrule these only where they do vary.
        prior = [1.0, *[0.0] * (signs.shape[1] - 2), 1.0]
        widths["energy"] = fit_log_linear(
            evidence.energy[whole], signs, None, evidence.source[whole],
            prior=prior, strength=THEORY,
        )  # fmt: skip
        widths["energy_interval"] = widths["energy"].scaled(float(norm.ppf(0.5 + coverage / 2)))
    if not widths:
        raise UncertaintyError("The labels show no errors: there is nothing to calibrate on.")

    tensors = use & np.isfinite(evidence.stress).all(axis=1)
    if tensors.any() and evidence.stress[tensors].any():
        rows = _structures(evidence, widths)[tensors, :1] - np.log(evidence.volume[tensors, None])
        widths["stress"] = fit_log_linear(evidence.stress[tensors], rows, prior=1.0)
    elif "forces" in widths and "energy" in widths:
        widths["stress"] = _as_energies(evidence, widths)
    return widths


def _as_energies(evidence: Evidence, widths: Widths) -> LogLinearWidth:
    """Stress errors where no label tells them: forces off by sigma act over some length.

    An energy is off by force errors times the length over which they act, a virial by the same.
    """
    signs = _structures(evidence, widths)
    length = np.median(widths["energy"](signs) / np.exp(signs[:, 0]))
    return LogLinearWidth(np.ones(1), float(np.log(length)))


def _structures(evidence: Evidence, widths: Widths) -> Array:
    """Signs (B, 2 or 3) of structures."""
    sigma = np.minimum(evidence.far, 1e6)
    if "forces" in widths:
        sigma = widths["forces"](evidence.atoms(), evidence.numbers)
    square = np.bincount(evidence.owner, np.square(sigma), minlength=evidence.structures)
    way = np.square(sigma * np.minimum(evidence.far, 1e6))
    work = np.bincount(evidence.owner, way, minlength=evidence.structures)
    std = None if evidence.energy_std is None else torch.as_tensor(evidence.energy_std)
    sums = torch.as_tensor(square), torch.as_tensor(work)
    return np.asarray(structure_signs(*sums, std).numpy())


def _ratios(
    evidence: Evidence, out: NDArray[np.bool_], widths: Widths
) -> dict[str, tuple[Array, Array, Array]]:
    """|errors| over stds and over half widths, and weights, of held-back structures in ``out``."""
    honest = out & (evidence.source == evidence.source.min())

    result = {}
    atoms = honest[evidence.owner] & np.isfinite(evidence.forces).all(axis=1)
    if atoms.any() and "forces" in widths:
        signs, z = evidence.atoms(atoms), evidence.numbers[atoms]
        error = np.abs(evidence.forces[atoms])
        parts = [widths[n](signs, z)[:, None] for n in ("forces", "forces_interval")]
        own = evidence.owner[atoms]
        share = np.repeat(1 / np.bincount(own)[own] / 3, 3)
        result["forces"] = (error / parts[0], error / parts[1], share)

    whole = honest & np.isfinite(evidence.energy)
    if whole.any() and "energy" in widths:
        signs = _structures(evidence, widths)[whole]
        error = np.abs(evidence.energy[whole])
        result["energy"] = (
            error / widths["energy"](signs),
            error / widths["energy_interval"](signs),
            np.ones(len(error)),
        )
    return result
