"""Latent distance: how far atoms are from what the model was trained on, from one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from scipy.linalg import solve_triangular
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.descriptors import atom_features, radial_descriptor
from ase_nnp.uncertainty.methods.features import LastLayer
from ase_nnp.uncertainty.methods.nearest import NearestAtoms
from ase_nnp.uncertainty.progress import tracked
from ase_nnp.uncertainty.statistics.ood import (
    KNNDistance,
    Mahalanobis,
    ood_threshold,
)

__all__ = ["FeatureReader", "LatentDistanceMethod"]

#: Stands for the infinite distance of an element that was not seen, where std must be finite.
FAR = 1e6

#: What a structure's score can be.
SCORES = ("largest", "mean", "quantile", "rank")

#: Numbers of gathered inverse factors held at once.
BLOCK = 1 << 23


class FeatureReader:
    """Per-atom features of a model: inputs of a named layer, or a radial descriptor."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    @classmethod
    def of(cls, model: Potential, structures: Sequence[Atoms]) -> FeatureReader:
        """Pick the last per-atom layer that depends on more than the element."""
        return cls(atom_features(model, model.make_graph(list(structures[:2]))))

    def run(
        self, model: Potential, graph: AtomGraph, properties: Collection[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Results of the model and its features (N, d), from the same call."""
        if not self.layer:
            result = model.compute(graph, properties)
            return result, radial_descriptor(graph, min(model.cutoff, 6.0)).detach()
        with LastLayer(self.layer, "atom", 1.0).watch(model) as caught:
            result = model.compute(graph, properties)
        features = caught[0].detach()
        return result, features.reshape(graph.num_atoms, -1)


def reduce_atoms(atoms: Tensor, batch: Tensor, structures: int, how: str) -> Tensor:
    """Return one number a structure, (B,), from one an atom, (N,).

    Parameters
    ----------
    batch
        (N,) the structure of each atom.
    how
        ``"largest"``, ``"mean"``, or ``"quantile"``: the least number that 90 % of the atoms, but
        for rounding up, do not exceed.
    atoms
        Scores of atoms, (N,).
    structures
        Structure that each atom belongs to, (N,).
    """
    if how == "largest":
        worst = atoms.new_full((structures,), -torch.inf)
        return worst.scatter_reduce(0, batch, atoms, "amax")

    counts = torch.bincount(batch, minlength=structures)
    if how == "mean":
        return atoms.new_zeros(structures).index_add(0, batch, atoms) / counts

    # Sorted within structures; no value between two atoms, as one may be infinitely far.
    order = atoms.argsort()
    order = order[batch[order].argsort(stable=True)]
    first = counts.cumsum(0) - counts
    return atoms[order[first + (0.9 * (counts - 1)).ceil().long()]]


class LatentDistanceMethod(UncertainPotential):
    """Mahalanobis or nearest-neighbor distance in the model's own features, per element.

    ``forces_std`` is the distance of each atom and ``energy_std`` the root of the sum of
    squares; both are in arbitrary units until calibrated. ``ood_score`` is one number a structure,
    ``ood_flag`` whether it exceeds the given quantile of the training scores; ``uq["score"]`` says
    which number.

    Parameters
    ----------
    members
        One potential.
    train
        Training structures.
    kind
        ``"mahalanobis"`` keeps means and covariances only; ``"knn"`` keeps the features.
    score
        Of a structure, from the distances of its atoms: ``"largest"``, ``"mean"``, ``"quantile"``
        (the distance that 90 % of the atoms do not exceed, which sees a group that moves), or
        ``"rank"``: the mean of the ranks, among the training structures, of the mean distance and
        of the energy std over the root of the number of atoms; for a potential that has one.
    quantile
        Of the training scores, for the flag: one minus the rate of false alarms.
    k, max_points
        Neighbors, and features kept of each element.
    layer
        The module whose inputs are the features; ``""`` for the distances of neighbors instead of
        anything of the model, which shows atoms that are too near best. None picks one.
    ranked
        Sorted scores of the training structures by name, of an earlier fit.
    fitted
        State of an earlier fit, instead of ``train``.
    options
        Of :class:`UncertainPotential`.
    """

    method = "latent"

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        train: Sequence[Atoms] | None = None,
        kind: str = "mahalanobis",
        score: str = "largest",
        quantile: float = 0.99,
        k: int = 10,
        max_points: int = 5000,
        layer: str | None = None,
        fitted: tuple[FeatureReader, Any, float] | None = None,
        ranked: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(members, **options)
        if kind not in ("mahalanobis", "knn"):
            raise UncertaintyError(f"kind must be 'mahalanobis' or 'knn', not {kind!r}.")
        if score not in SCORES:
            raise UncertaintyError(f"score must be one of {', '.join(SCORES)}, not {score!r}.")
        if score == "rank" and "energy_std" not in self.base.outputs:
            raise UncertaintyError(
                "score='rank' needs a potential that gives energy_std: wrap a fitted 'last_layer' "
                "or an ensemble."
            )

        self.kind, self.score, self.quantile = kind, score, quantile
        self._ranked = dict(ranked or {})

        if fitted is not None:
            self.reader, self.threshold = fitted[0], fitted[2]
            self.distance: Any = fitted[1]
        elif not train:
            raise UncertaintyError("Latent distances need the training structures: train=[...].")
        else:
            self._fit(train, k, max_points, layer)

        # Around a method that gives stds of its own, only the distances are added.
        own = [p for p in ("energy", "forces") if p in self.base.outputs]
        self.own_std = [p for p in own if f"{p}_std" not in self.base.outputs]
        extra = [f"{p}_std" for p in self.own_std]
        extra += ["forces_std_norm"] if "forces" in self.own_std else []
        self.outputs = (*self.base.outputs, *extra, "ood_score", "ood_flag", "ood_scores")

    def _fit(self, train: Sequence[Atoms], k: int, max_points: int, layer: str | None) -> None:
        if layer:
            try:
                self.base.get_submodule(layer)
            except AttributeError as error:
                raise UncertaintyError(f"The model has no module '{layer}'.") from error
        self.reader = FeatureReader.of(self.base, train) if layer is None else FeatureReader(layer)
        rows, numbers, structure, stds = [], [], [], []
        wanted = ("energy", "energy_std") if self.score == "rank" else ("energy",)
        for i, atoms in enumerate(tracked(train, "features")):
            result, features = self.reader.run(self.base, self.base.make_graph(atoms), wanted)
            rows.append(features.double().cpu().numpy())
            numbers.append(atoms.numbers)
            structure.append(np.full(len(atoms), i))
            if self.score == "rank":
                stds.append(result["energy_std"].double().cpu() / len(atoms) ** 0.5)

        x, z = np.concatenate(rows), np.concatenate(numbers)
        if self.kind == "knn":
            self.distance = KNNDistance.fit(x, z, k=k, max_points=max_points)
        else:
            self.distance = Mahalanobis.fit(x, z)
        atoms_far = torch.as_tensor(self.distance(x, z))
        owner = torch.as_tensor(np.concatenate(structure))
        if self.score == "rank":
            mean = reduce_atoms(atoms_far, owner, len(train), "mean")
            known = {"distance": mean, "energy_std": torch.cat(stds)}
            self._ranked = {name: values.sort().values for name, values in known.items()}
            scores = self._rank(mean, known["energy_std"])
        else:
            scores = reduce_atoms(atoms_far, owner, len(train), self.score)
        self.threshold = ood_threshold(scores.numpy(), self.quantile)

    def _rank(self, distance: Tensor, std: Tensor) -> Tensor:
        """Mean rank of both among the training structures; beyond the last one, above 1."""
        given = {"distance": distance, "energy_std": std}
        ranks = []
        for name, values in given.items():
            known = self._ranked[name].to(values)
            rank = torch.searchsorted(known, values.contiguous()) / len(known)
            # Ranks alone could not tell what is far from what is farther.
            beyond = values / known[-1].clamp(min=1e-12)
            ranks.append(torch.where(values > known[-1], beyond, rank.to(values)))
        return (ranks[0] + ranks[1]) / 2

    @property
    def uq(self) -> dict[str, Any]:
        """As :attr:`UncertainPotential.uq`, with the score of structures and its threshold."""
        score = {"score": self.score, "score_threshold": self.threshold}
        return {**super().uq, **score, "score_false_alarms": 1 - self.quantile}

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The model's own results with distances beside them."""
        needed = {*properties, "energy"} | ({"energy_std"} if self.score == "rank" else set())
        plain = [p for p in self.base.outputs if p in needed]

        result, features = self.reader.run(self.base, graph, plain)
        asked = {p.split("_")[0] for p in properties if "_std" in p or "_interval" in p}
        own = [p for p in self.own_std if p in asked]
        distance = self.far(features, graph.atomic_numbers)
        return dict(result) | self.scores(distance, graph, own, result.get("energy_std"))

    def far(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Distances (N,) in float64, on the device of the features.

        Infinite for elements that were not seen and for features that are not finite.
        """
        if self.kind == "knn":
            return self._nearest(features.nan_to_num(nan=FAR), numbers)

        x = features.double()
        means, inverses, place = (t.to(x.device) for t in self._tables)
        index = place.index_select(0, numbers)
        size = max(1, BLOCK // x.shape[1] ** 2)
        parts = [
            torch.bmm(inverses.index_select(0, i), (rows - means.index_select(0, i))[:, :, None])
            for rows, i in zip(x.split(size), index.split(size), strict=True)
        ]
        white = parts[0] if len(parts) == 1 else torch.cat(parts)
        distance: Tensor = torch.linalg.vector_norm(white, dim=(1, 2))
        return distance.nan_to_num(nan=torch.inf).masked_fill(index == 0, torch.inf)

    @cached_property
    def _nearest(self) -> NearestAtoms:
        return NearestAtoms(self.distance)

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means, inverse factors and their places by atomic number; place 0 is nobody's."""
        known = sorted(self.distance.means)
        means = np.stack([self.distance.means[z] for z in known])
        factors = np.stack([self.distance.factors[z] for z in known])
        eye = np.eye(means.shape[1])
        inverses = np.stack([solve_triangular(f, eye, lower=True) for f in factors])
        place = torch.zeros(120, dtype=torch.int64)
        place[known] = torch.arange(1, len(known) + 1)
        first = [np.concatenate([np.zeros_like(a[:1]), a]) for a in (means, inverses)]
        return torch.as_tensor(first[0]), torch.as_tensor(first[1]), place

    def scores(
        self,
        distance: Tensor,
        graph: AtomGraph,
        own: Collection[str],
        energy_std: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Outputs made of the atoms' distances, with stds of the properties ``own``."""
        atoms = distance.to(graph.positions)
        how = "mean" if self.score == "rank" else self.score
        score = reduce_atoms(atoms, graph.batch, graph.num_structures, how)
        if self.score == "rank":
            assert energy_std is not None
            size = graph.atoms_per_structure().to(atoms)
            score = self._rank(score, energy_std.to(atoms) / size.sqrt())

        out = {"ood_scores": atoms, "ood_score": score, "ood_flag": score > self.threshold}
        if not own:
            return out

        # Finite and positive: ASE's files hold no infinities, and a calibration takes logarithms.
        near = atoms.clamp(max=FAR, min=1e-12)
        if "forces" in own:
            out["forces_std"] = near[:, None].expand(-1, 3)
        if "energy" in own:
            square = near.new_zeros(graph.num_structures)
            out["energy_std"] = square.index_add(0, graph.batch, near.square()).sqrt()
        return out

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Means and factors, or the features kept; no structures."""
        tensors: dict[str, Tensor] = {}
        d = self.distance
        tables = (
            {"training": d.training}
            if self.kind == "knn"
            else {"means": d.means, "factors": d.factors}
        )
        for what, table in tables.items():
            tensors |= {f"{what}.{z}": torch.as_tensor(v) for z, v in table.items()}

        if self.kind == "knn":
            tensors["scale"] = torch.as_tensor(d.scale)
        tensors |= {f"ranked.{name}": values for name, values in self._ranked.items()}
        values = {
            **super().state()[1],
            "kind": self.kind,
            "score": self.score,
            "quantile": self.quantile,
            "layer": self.reader.layer,
            "threshold": self.threshold,
            "k": getattr(d, "k", 10),
        }
        return tensors, values

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Read what :meth:`state` gave."""
        options = dict(values)
        reader = FeatureReader(options.pop("layer"))
        threshold, k = options.pop("threshold"), options.pop("k")

        def table(what: str) -> dict[int, np.ndarray]:
            prefix = f"{what}."
            return {
                int(n.removeprefix(prefix)): v.numpy()
                for n, v in tensors.items()
                if n.startswith(prefix)
            }

        first = "ranked."
        ranked = {k.removeprefix(first): v for k, v in tensors.items() if k.startswith(first)}
        distance: Any
        if options["kind"] == "knn":
            distance = KNNDistance(table("training"), tensors["scale"].numpy(), k)
        else:
            distance = Mahalanobis(table("means"), table("factors"))
        return cls([base], fitted=(reader, distance, threshold), ranked=ranked, **options)
