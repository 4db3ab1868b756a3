r"""Error bars by environment: expected errors from how novel an atom and its neighbors are.

The force on an atom is the derivative of its neighbors' energies too, so its error depends on how
far the neighbors are from the training atoms, not on its own distance alone. With the distance
:math:`d_i` in the model's features and its mean :math:`\bar d_i` over the neighbors,

.. math:: \log\sigma_i = c_z + p_1 \log d_i + p_2 \log\bar d_i \;(+\; p_3 \log s_i), \qquad p \ge 0

with the spread :math:`s_i` of a committee, if the potential around which this is put is one.
Energies and stresses are expected to be wrong as the forces are: their formulas have
:math:`\sqrt{\sum_i \sigma_i^2}` as sign. Intervals come from formulas of the same form fitted by
quantile regression (compare arXiv:2510.00721) and made conformal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.latent import FAR, FeatureReader, reduce_atoms
from ase_nnp.uncertainty.statistics.growth import LogLinearWidth
from ase_nnp.uncertainty.statistics.ood import KNNDistance

__all__ = ["SCORES", "EnvironmentBars", "score_table"]

#: What a structure's score can be, from the one preferred: the expected error of its forces (root
#: mean square), mean, 90 % quantile and largest of the atoms' distances, and the mean rank of the
#: mean distance and the energy std.
SCORES = ("expected", "mean", "quantile", "largest", "rank")
FLOOR = 1e-12


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
        self.widths, self.ranked = dict(widths or {}), dict(ranked or {})
        self.facts: dict[str, Any] = {"score": "expected", "score_threshold": float("inf")}
        self.facts["nearest"] = FLOOR
        self.facts |= facts or {}
        self.set_outputs()

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
        table = {**super().uq, **self.facts}
        table["calibrated"] = bool(self.widths)
        inner = getattr(self.base, "method", "")
        return table | ({"around": inner} if inner else {})

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The potential's results, with expected errors, intervals, score and flag."""
        wanted = {p for p in properties if p in self.base.outputs} | {"energy"}
        wanted |= {p for p in self.spreads if p in self.base.outputs}
        if any(p.startswith("forces") for p in properties):
            wanted |= {"forces"}
        result, far, near = self.look(graph, wanted)
        return dict(result) | self.bars(result, far, near, graph)

    @property
    def spreads(self) -> tuple[str, ...]:
        """Outputs of the potential within that are signs."""
        return tuple(p for p in ("forces_std", "energy_std") if p in self.base.outputs)

    def look(
        self, graph: AtomGraph, properties: Collection[str]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Results, distances (N,) of atoms, and their means (N,) over neighbors; float64."""
        result, features = self.reader.run(self.base, graph, properties)
        rows = features.double().nan_to_num(nan=FAR, posinf=FAR, neginf=-FAR).cpu().numpy()
        far = torch.as_tensor(self.distance(rows, graph.atomic_numbers.cpu().numpy()))
        # A copy of a training atom is at distance zero, and still not known exactly.
        far = far.to(graph.positions.device).clamp(min=float(self.facts["nearest"]))
        return result, far, neighbor_mean(far.clamp(max=FAR), graph, self.cutoff)

    def bars(
        self, result: Mapping[str, Tensor], far: Tensor, near: Tensor, graph: AtomGraph
    ) -> dict[str, Tensor]:
        """Everything that follows from the distances and the spreads within ``result``."""
        like, batch, b = graph.positions, graph.batch, graph.num_structures
        z = graph.atomic_numbers.cpu().numpy()
        signs = atom_signs(far, near, result.get("forces_std"))
        out: dict[str, Tensor] = {}

        def width(name: str, rows: Tensor, groups: np.ndarray | None = None) -> Tensor:
            value = self.widths[name](rows.detach().cpu().numpy(), groups)
            return torch.as_tensor(np.minimum(value, FAR)).to(like)

        # Without forces in the labels the distances themselves stand for their errors.
        sigma = far
        if "forces" in self.widths:
            sigma = width("forces", signs, z).double()
            out["forces_std"] = sigma.to(like)[:, None].expand(-1, 3)
        # Errors of atoms are taken to be independent, so their squares add up.
        square = far.new_zeros(b).index_add(0, batch, sigma.clamp(max=FAR).square())
        total = structure_signs(square, result.get("energy_std"))
        if "energy" in self.widths:
            out["energy_std"] = width("energy", total)
        # A virial is off as forces are, over the volume.
        if "stress" in self.widths and "stress" in result:
            volume = torch.linalg.det(graph.cell).abs().clamp(min=FLOOR).double().log()
            rows = 0.5 * square.clamp(min=FLOOR).log() - volume
            out["stress_std"] = width("stress", rows[:, None])[:, None].expand(-1, 6)

        if "forces_interval" in self.widths and "forces" in result:
            half = width("forces_interval", signs, z)[:, None]
            out["forces_interval"] = torch.stack([result["forces"] - half, result["forces"] + half])
        if "energy_interval" in self.widths:
            half = width("energy_interval", total)
            ends = [result["energy"] - half, result["energy"] + half]
            out["energy_interval"] = torch.stack(ends, dim=1)

        if "expected" in self.widths:
            sigma = width("expected", signs[:, :2], z).double()
        square = far.new_zeros(b).index_add(0, batch, sigma.clamp(max=FAR).square())
        table = score_table(far, square, batch, b, result.get("energy_std"))
        score = self.score_of(table)
        threshold = float(self.facts["score_threshold"])
        return out | {
            "ood_scores": far.to(like),
            "ood_score": score.to(like),
            "ood_flag": score > threshold,
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


def neighbor_weights(graph: AtomGraph, cutoff: float) -> Tensor:
    """Weights (E,) of edges that sum to 1 for each atom with neighbors, near ones larger.

    They fall smoothly to zero at the cutoff, or 6 Angstrom; float64.
    """
    # Near neighbors tell most: means over 3 Angstrom gave better error bars than over 5.
    reach = min(cutoff, 6.0)
    distance = graph.edge_vectors().detach().double().norm(dim=1)
    envelope = (0.5 * (1 + torch.cos(torch.pi * distance.clamp(max=reach) / reach))).square()
    target = graph.edge_index[1]
    mass = envelope.new_zeros(graph.num_atoms).index_add(0, target, envelope)
    return envelope / mass.clamp(min=FLOOR)[target]


def neighbor_mean(values: Tensor, graph: AtomGraph, cutoff: float) -> Tensor:
    """Mean (N,) of atoms' values over their neighbors; an atom without any keeps its own value."""
    source, target = graph.edge_index
    weight = neighbor_weights(graph, cutoff).to(values)
    zero = values.new_zeros(len(values))
    total = zero.index_add(0, target, weight * values[source])
    return torch.where(zero.index_add(0, target, weight) > 0.5, total, values)


def atom_signs(far: Tensor, near: Tensor, forces_std: Tensor | None) -> Tensor:
    """Logarithms (N, 2 or 3): own distance, neighbors' distance, and a committee's spread."""
    columns = [far.clamp(FLOOR, FAR).log(), near.clamp(FLOOR, FAR).log()]
    if forces_std is not None:
        columns.append(forces_std.double().square().mean(dim=1).sqrt().clamp(min=1e-6).log())
    return torch.stack([c.double() for c in columns], dim=1)


def structure_signs(square: Tensor, energy_std: Tensor | None) -> Tensor:
    """Logarithms (B, 1 or 2): root of the summed variances of forces, and an energy std."""
    columns = [0.5 * square.clamp(min=FLOOR**2).log()]
    if energy_std is not None:
        columns.append(energy_std.double().clamp(min=1e-6).log())
    return torch.stack(columns, dim=1)


def score_table(
    far: Tensor, square: Tensor, batch: Tensor, structures: int, energy_std: Tensor | None
) -> dict[str, Tensor]:
    """Every score (B,) that can be had, and the energy std over the root of the size."""
    count = torch.bincount(batch, minlength=structures).to(far)
    table = {
        "expected": (square / count).sqrt(),
        **{
            how: reduce_atoms(far, batch, structures, how)
            for how in ("mean", "quantile", "largest")
        },
    }
    # An element that was never seen is infinitely far, whatever is expected of its force.
    table["expected"] = torch.where(
        torch.isinf(table["largest"]), table["largest"], table["expected"]
    )
    if energy_std is not None:
        table["energy_std"] = energy_std.double() / count.sqrt()
    return table
