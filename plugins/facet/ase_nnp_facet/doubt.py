r"""How wrong a Facet model expects to be, from what one pass of it shows.

Four things are looked at: how far each atom's features are from those of training atoms of its
element (nearest neighbors in whitened features), the same for the distances of its neighbors, which
show atoms that are too near, the prediction rigidity of the energy (Bigi et al. 2024,
arXiv:2403.02251), and how large the forces are. Their logarithms enter two linear formulas that are
fitted to the errors of structures that trained nothing,

.. math:: \log \sigma_F = w \cdot (1, \log d, \log r, \log f), \quad
          \log (\sigma_E / N) = v \cdot (1, \log(p / N), \overline{\log d}, \max \log d, \ldots)

by quantile regression, so that an interval widens by what is unknown, not by one factor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.descriptors import radial_descriptor

__all__ = ["Doubt", "Signs"]

#: eV/Angstrom and eV an atom: a result that is expected to be further off than that is flagged.
WRONG_FORCE, WRONG_ENERGY = 0.3, 0.05
#: Forces below this are all alike, eV/Angstrom; keeps the logarithm finite.
FLOOR_FORCE = 0.05
FLOOR = 1e-3
NEIGHBORS = 3


@dataclass(frozen=True)
class Signs:
    """What one pass shows: logarithms of atoms (N, 3) and of structures (B, 8)."""

    atoms: Tensor
    structures: Tensor


class Doubt(UncertainPotential):
    """Expected errors and a flag around one Facet model.

    Parameters
    ----------
    members
        The model.
    tables
        Training features of each element, the factor of the energy's precision, the weights of both
        formulas and the threshold; :func:`ase_nnp_facet.doubt_fit.fit` makes them.
    options
        Of :class:`~ase_nnp.uncertainty.UncertainPotential`.
    """

    method = "doubt"

    def __init__(
        self, members: Sequence[Potential], *, tables: Mapping[str, Tensor], **options: Any
    ) -> None:
        super().__init__(members, **options)
        self.tables = dict(tables)
        self.outputs = (
            *self.base.outputs,
            *("energy_std", "forces_std", "forces_std_norm", "ood_score", "ood_flag", "ood_scores"),
        )

    @property
    def uq(self) -> dict[str, Any]:
        """As everywhere, with the flag's threshold: expected errors over what would be wrong."""
        threshold = float(self.tables["threshold"]) if "threshold" in self.tables else None
        score = {"score": "expected error over what is very wrong", "score_threshold": threshold}
        return {**super().uq, **score}

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The model's results, the expected errors and the flag."""
        asked = {p for p in self.base.outputs if p in properties} | {"energy", "forces"}
        result, signs = self.look(graph, asked)
        t = {k: v.to(signs.atoms) for k, v in self.tables.items() if k in ("force", "energy")}
        force = torch.exp(with_one(signs.atoms) @ t["force"])
        per_atom = torch.exp(with_one(signs.structures) @ t["energy"])
        count = graph.atoms_per_structure().to(per_atom)

        # The flag compares what is expected with what would be very wrong.
        square = torch.zeros_like(per_atom).index_add(0, graph.batch, force.square())
        parts = (square / count).sqrt() / WRONG_FORCE, per_atom / WRONG_ENERGY
        score = torch.maximum(*parts)
        like = graph.positions
        return dict(result) | {
            "energy_std": (per_atom * count).to(like),
            "forces_std": force.to(like)[:, None].expand(-1, 3),
            "ood_score": score.to(like),
            "ood_scores": (force / WRONG_FORCE).to(like),
            "ood_flag": score > float(self.tables["threshold"]),
        }

    def look(self, graph: AtomGraph, asked: Collection[str]) -> tuple[dict[str, Tensor], Signs]:
        """Results of the model and the signs, from one call."""
        result, x = features(self.base, graph, asked)
        radial = radial_descriptor(graph, min(self.cutoff, 6.0)).detach().double()
        numbers, batch = graph.atomic_numbers, graph.batch
        far = self.distance("latent", x, numbers).clamp(min=FLOOR).log()
        near = self.distance("radial", radial, numbers).clamp(min=FLOOR).log()
        strong = result["forces"].detach().double().norm(dim=1)
        strength = (strong.square() + FLOOR_FORCE**2).sqrt().log()
        atoms = torch.stack([far, near, strength], dim=1)

        b, count = graph.num_structures, graph.atoms_per_structure().double()
        total = x.new_zeros((b, x.shape[1])).index_add(0, batch, x)
        rigid = torch.linalg.vector_norm(total @ self.tables["rigidity"].to(x), dim=1)

        def mean(values: Tensor) -> Tensor:
            return values.new_zeros(b).index_add(0, batch, values) / count

        def most(values: Tensor) -> Tensor:
            return values.new_full((b,), -torch.inf).scatter_reduce(0, batch, values, "amax")

        columns = [(rigid / count).clamp(min=1e-9).log(), count.log()]
        columns += [f(v) for v in (far, near, strength) for f in (mean, most)]
        return result, Signs(atoms, torch.stack(columns, dim=1))

    def energy_rows(self, graph: AtomGraph) -> Tensor:
        """Rows (B, d) whose products are the covariances of energies by prediction rigidity."""
        _, x = features(self.base, graph, ("energy",))
        total = x.new_zeros((graph.num_structures, x.shape[1])).index_add(0, graph.batch, x)
        return total @ self.tables["rigidity"].to(x)

    def distance(self, kind: str, rows: Tensor, numbers: Tensor) -> Tensor:
        """Mean distance (N,) to the nearest training atoms of the same element, whitened."""
        distances = rows.new_full((len(rows),), 1e3)
        for z in numbers.unique().tolist():
            if f"{kind}.points.{z}" not in self.tables:
                continue
            own = (numbers == z).nonzero()[:, 0]
            points = self.tables[f"{kind}.points.{z}"].to(rows.device)
            white = (rows[own] - self.tables[f"{kind}.mean"].to(rows)) @ (
                self.tables[f"{kind}.white.{z}"].to(rows)
            )
            near = torch.cdist(white.float(), points).topk(NEIGHBORS, dim=1, largest=False).values
            distances[own] = near.double().mean(dim=1)
        return distances

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tables."""
        return dict(self.tables), super().state()[1]

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Read what :meth:`state` gave."""
        return cls([base], tables=tensors, **values)


def with_one(rows: Tensor) -> Tensor:
    """A column of ones in front."""
    return torch.cat([torch.ones_like(rows[:, :1]), rows], dim=1)


def features(
    model: Potential, graph: AtomGraph, asked: Collection[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """Results, and what the read-out of a Facet model is given (N, d), from one call."""
    caught: list[Tensor] = []
    head = model.get_submodule("head")
    handle = head.register_forward_pre_hook(lambda module, args: caught.append(args[0].detach()))
    try:
        result = model.compute(graph, asked)
    finally:
        handle.remove()
    return result, caught[-1].double()
