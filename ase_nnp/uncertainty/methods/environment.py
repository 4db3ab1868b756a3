r"""Error bars by environment: expected errors from how novel an atom and its neighbors are.

The force on an atom is the derivative of its neighbors' energies too, so its error depends on how
far the neighbors are from the training atoms, not on its own distance alone. With the distance
:math:`d_i` in the model's features and its mean :math:`\bar d_i` over the neighbors,

.. math:: \log\sigma_i = c_z + p_1 \log d_i + p_2 \log\bar d_i \;(+\; p_3 \log s_i), \qquad p \ge 0

with the spread :math:`s_i` of a committee, if the potential around which this is put is one.
An energy is wrong by the work of the force errors on the way from what is known: its formula has
the signs :math:`\sqrt{\sum_i \sigma_i^2}` and, for the length of that way, the mean of
:math:`d_i` with these weights, both to a power near 1. Stresses have the first sign alone.
Intervals of forces come from formulas of the same form fitted by quantile regression (compare
arXiv:2510.00721), those of energies from their stds; both are made conformal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import EDGE_LENGTHS, UncertainPotential
from ase_nnp.uncertainty.methods.environment_signs import (
    FLOOR,
    atom_signs,
    edge_lengths,
    neighbor_mean,
    score_table,
    structure_signs,
)
from ase_nnp.uncertainty.methods.latent import FAR, FeatureReader
from ase_nnp.uncertainty.methods.nearest import NearestAtoms
from ase_nnp.uncertainty.methods.width_table import WidthTable
from ase_nnp.uncertainty.statistics.calibrated import Calibration
from ase_nnp.uncertainty.statistics.growth import LogLinearWidth
from ase_nnp.uncertainty.statistics.ood import KNNDistance

__all__ = ["SCORES", "EnvironmentBars"]

#: What a structure's score can be, from the one preferred: the expected error of its forces (root
#: mean square), mean, 90 % quantile and largest of the atoms' distances, and the mean rank of the
#: mean distance and the energy std.
SCORES = ("expected", "mean", "quantile", "largest", "rank")


class EnvironmentBars(UncertainPotential):
    """Standard deviations, intervals and a flag around one potential, for little more than a pass.

    :func:`ase_nnp.uncertainty.methods.environment_fit.fit_environment` makes it.

    Parameters
    ----------
    members
        One potential; it may be an uncertainty itself, whose spread is then one more sign.
    reader, distance
        Features of atoms, and the training atoms among them.
    widths
        Formulas by name: ``"forces"``, ``"energy"``, ``"stress"`` for stds, ``"forces_interval"``
        and ``"energy_interval"`` for half widths.
    ranked
        Sorted scores of training structures, for ``score="rank"``.
    facts
        Score, threshold, coverage, hashes and the like; plain values.
    options
        Of :class:`UncertainPotential`.
    """

    method = "environment"

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        reader: FeatureReader,
        distance: KNNDistance,
        widths: Mapping[str, LogLinearWidth] | None = None,
        ranked: Mapping[str, Tensor] | None = None,
        facts: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(members, **options)
        self.reader, self.distance = reader, distance
        self.nearest = NearestAtoms(distance)
        self.set_widths(widths or {})
        self.ranked = dict(ranked or {})
        self.facts: dict[str, Any] = {"score": "expected", "score_threshold": float("inf")}
        self.facts["nearest"] = FLOOR
        self.facts |= facts or {}
        self.set_outputs()

    def set_widths(self, widths: Mapping[str, LogLinearWidth]) -> None:
        """Take formulas; those of the same signs are evaluated together."""
        self.widths = dict(widths)
        groups = (
            ("forces", "forces_interval", "expected"),
            ("energy", "energy_interval"),
            ("stress",),
        )
        self.tables = [WidthTable({n: widths[n] for n in names if n in widths}) for names in groups]

    def set_calibration(self, calibration: Calibration) -> Self:
        """Take a calibration on top; intervals of the formulas stay where it gives none."""
        super().set_calibration(calibration)
        own = [name for name in self.widths if name.endswith("_interval")]
        self.outputs = tuple(dict.fromkeys([*self.outputs, *own]))
        return self

    def set_outputs(self) -> None:
        """State what the formulas that are there give."""
        own = list(self.base.outputs)
        more = [f"{name}_std" for name in ("energy", "forces", "stress") if name in self.widths]
        more += ["forces_std_norm"] if "forces" in self.widths else []
        more += [name for name in self.widths if name.endswith("_interval")]
        more += ["ood_score", "ood_flag", "ood_scores"]
        self.outputs = tuple(dict.fromkeys([*own, *more]))

    @property
    def uq(self) -> dict[str, Any]:
        """What the error bars rest on, and the score of structures."""
        own = super().uq
        table = {**own, **self.facts}
        table["calibrated"] = bool(self.widths)
        if self.calibration.properties:
            # Calibrated anew on other structures, which then say how large the bars are.
            table |= {k: own[k] for k in ("calibrator", "coverage", "n_cal", "calibration_hash")}
            table["level"] = "structures of a later calibration"
        inner = getattr(self.base, "method", "")
        return table | ({"around": inner} if inner else {})

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The potential's results, with expected errors, intervals, score and flag."""
        wanted = {p for p in properties if p in self.base.outputs} | {"energy"}
        wanted |= {p for p in self.spreads if p in self.base.outputs}
        if any(p.startswith("forces") for p in properties):
            wanted |= {"forces"}
        result, far, near, lengths = self.look(graph, wanted)
        bars = self.bars(result, far, near, graph, properties)
        return {**result, **bars, EDGE_LENGTHS: lengths}

    @property
    def spreads(self) -> tuple[str, ...]:
        """Outputs of the potential within that are signs."""
        return tuple(p for p in ("forces_std", "energy_std") if p in self.base.outputs)

    def look(
        self, graph: AtomGraph, properties: Collection[str]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Results, distances (N,) of atoms, their means (N,) over neighbors, and edges' lengths.

        Distances are in float64.
        """
        result, features = self.reader.run(self.base, graph, properties)
        rows = features.nan_to_num(nan=FAR, posinf=FAR, neginf=-FAR)
        # A copy of a training atom is at distance zero, and still not known exactly.
        far = self.nearest(rows, graph.atomic_numbers).clamp(min=float(self.facts["nearest"]))
        lengths = edge_lengths(graph)
        return result, far, neighbor_mean(far.clamp(max=FAR), graph, self.cutoff, lengths), lengths

    def bars(
        self,
        result: Mapping[str, Tensor],
        far: Tensor,
        near: Tensor,
        graph: AtomGraph,
        properties: Collection[str],
    ) -> dict[str, Tensor]:
        """What follows from distances and spreads within ``result``; intervals if asked for."""
        like, batch, b = graph.positions, graph.batch, graph.num_structures
        signs = atom_signs(far, near, result.get("forces_std"))
        out: dict[str, Tensor] = {}

        # Without forces in the labels the distances themselves stand for their errors.
        atoms = self.tables[0](signs, graph.atomic_numbers)
        sigma = atoms.get("forces", far.clamp(max=FAR))
        if "forces" in atoms:
            out["forces_std"] = sigma.to(like)[:, None].expand(-1, 3)
        # Errors of atoms are taken to be independent, so their squares add up.
        columns = [sigma, sigma * far.clamp(max=FAR), atoms.get("expected", sigma)]
        squares = torch.stack(columns, dim=1).square_()
        sums = far.new_zeros((b, 3)).index_add_(0, batch, squares)
        square, work, expected = sums.unbind(1)

        whole = self.tables[1](structure_signs(square, work, result.get("energy_std")))
        if "energy" in whole:
            out["energy_std"] = whole["energy"].to(like)
        # A virial is off as forces are, over the volume.
        if "stress" in self.widths and "stress" in result:
            volume = torch.linalg.det(graph.cell).abs().clamp(min=FLOOR).double().log()
            rows = 0.5 * square.clamp(min=FLOOR).log() - volume
            stress = self.tables[2](rows[:, None])["stress"].to(like)
            out["stress_std"] = stress[:, None].expand(-1, 6)

        if "forces_interval" in properties and "forces_interval" in atoms:
            half = atoms["forces_interval"].to(like)[:, None]
            out["forces_interval"] = torch.stack([result["forces"] - half, result["forces"] + half])
        if "energy_interval" in properties and "energy_interval" in whole:
            half = whole["energy_interval"].to(like)
            ends = [result["energy"] - half, result["energy"] + half]
            out["energy_interval"] = torch.stack(ends, dim=1)

        names = ("mean", "energy_std") if self.facts["score"] == "rank" else (self.facts["score"],)
        score = self.score_of(score_table(far, expected, batch, b, result.get("energy_std"), names))
        return out | {
            "ood_scores": far.to(like),
            "ood_score": score.to(like),
            "ood_flag": score > float(self.facts["score_threshold"]),
        }

    def score_of(self, table: Mapping[str, Tensor]) -> Tensor:
        """The score (B,) that was chosen, from all that can be had."""
        name = str(self.facts["score"])
        return self.rank(table) if name == "rank" else table[name]

    def rank(self, table: Mapping[str, Tensor]) -> Tensor:
        """Mean rank among training structures of mean distance and energy std; beyond, above 1."""
        ranks = []
        for name in ("mean", "energy_std"):
            known, values = self.ranked[name].to(table[name]), table[name].contiguous()
            place = torch.searchsorted(known, values) / len(known)
            # Ranks alone could not tell what is far from what is farther.
            beyond = values / known[-1].clamp(min=FLOOR)
            ranks.append(torch.where(values > known[-1], beyond, place.to(values)))
        return (ranks[0] + ranks[1]) / 2

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Training atoms in features, formulas and facts; no structures."""
        d = self.distance
        tensors = {f"training.{z}": torch.as_tensor(rows) for z, rows in d.training.items()}
        tensors["scale"] = torch.as_tensor(d.scale)
        tensors |= {f"ranked.{name}": values for name, values in self.ranked.items()}
        values = {
            **super().state()[1],
            "layer": self.reader.layer,
            "k": d.k,
            "widths": {name: one.to_json() for name, one in self.widths.items()},
            "facts": dict(self.facts),
        }
        return tensors, values

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Read what :meth:`state` gave."""
        options = dict(values)
        training = {
            int(name.removeprefix("training.")): rows.numpy()
            for name, rows in tensors.items()
            if name.startswith("training.")
        }
        first = "ranked."
        ranked = {n.removeprefix(first): v for n, v in tensors.items() if n.startswith(first)}
        distance = KNNDistance(training, tensors["scale"].numpy(), options.pop("k"))
        widths = {n: LogLinearWidth.from_json(v) for n, v in options.pop("widths").items()}
        reader = FeatureReader(options.pop("layer"))
        return cls(
            [base], reader=reader, distance=distance, widths=widths, ranked=ranked, **options
        )
