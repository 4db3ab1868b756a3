"""Shallow ensembles: many last layers on one backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from ase import Atoms
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.features import LastLayer, ParameterLayer, layer_from
from ase_nnp.uncertainty.methods.jacobian import feature_jacobian, plain_features
from ase_nnp.uncertainty.methods.last_layer import LastLayerLaplace, linear_problem

__all__ = ["ShallowEnsemble"]


class ShallowEnsemble(UncertainPotential):
    """M read-outs ``E_m = w_m . Phi`` of one model; one pass and one batched backward.

    The heads start as draws from the last-layer Laplace posterior and are tuned by the Gaussian
    likelihood of energies and forces with the mean and variance over the heads
    (Kellner and Ceriotti 2024, arXiv:2402.16621). The backbone stays as it is.

    Parameters
    ----------
    members
        One potential with a linear last layer.
    train
        Labeled training structures.
    heads
        M.
    tune
        Steps of Adam on the likelihood; 0 leaves the Laplace draws.
    noise, seed
        As for the last-layer method.
    force_std
        ``"exact"``: spreads of forces and stresses too, by one batched backward pass of M rows; a
        force of a head is the derivative of its energy. ``"none"``: a spread of energies alone, for
        the cost of a plain pass; forces are those of the mean.
    details
        Also return ``energy_members`` and ``forces_members``.
    fitted
        State of an earlier fit, instead of ``train``.
    options
        Of :class:`UncertainPotential`.
    """

    method = "shallow"

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        train: Sequence[Atoms] | None = None,
        heads: int = 16,
        tune: int = 200,
        noise: Mapping[str, float] | None = None,
        seed: int = 0,
        force_std: str = "exact",
        details: bool = False,
        fitted: tuple[LastLayer | ParameterLayer, Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(members, **options)
        if force_std not in ("exact", "none"):
            raise UncertaintyError(f"force_std must be 'exact' or 'none', not {force_std!r}.")
        if fitted is not None:
            self.layer, self.shifts = fitted
        else:
            if heads < 2 or not train:
                raise UncertaintyError("A shallow ensemble needs two heads and train=[...].")
            laplace = LastLayerLaplace([self.base], train=train, noise=noise)
            self.layer = laplace.layer
            weight = self.layer.weight(self.base)
            draws = laplace.sample_weights(heads, seed) - weight.detach().double().cpu().flatten()
            self.shifts = _tune(self.base, self.layer, train, laplace.noise, draws, tune)

        self.details, self.force_std = details, force_std
        if force_std == "none":
            # The model's own forces are those of the mean head only if the heads are around it.
            self.shifts = self.shifts - self.shifts.mean(dim=0)
        mean, size = self.shifts.mean(dim=0).abs().max(), self.shifts.abs().max()
        self.centered = bool(mean <= 1e-12 * size)

        outputs = [*self.base.outputs, "energy_std"]
        if "forces" in outputs and force_std == "exact":
            outputs += ["forces_std", "forces_std_norm"]
            outputs += ["stress_std"] if "stress" in outputs else []
        if details:
            outputs += ["energy_members", *(["forces_members"] if "forces_std" in outputs else [])]
        self.outputs = tuple(outputs)

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Mean and spread over the heads."""
        plain = {"energy", *(p for p in self.base.outputs if p in properties)}
        shifts = self.shifts.to(graph.positions.device)

        # Where the mean head is the model, its own forces and stress need no pass for each head.
        asked = set(properties) - (set(self.base.outputs) if self.centered else set())
        slopes = any(p.startswith(("forces", "stress")) for p in asked)
        if slopes and "forces_std" in self.outputs:
            stress = any(p.startswith("stress") for p in properties)
            result, total = self._derivatives(graph, plain | {"forces"}, shifts, stress)
        else:
            result, _, total = plain_features(self.base, self.layer, graph, plain)

        # In double precision: the spread is a small difference of total energies.
        energies = result["energy"].double()[:, None] + total.double() @ shifts.T
        like = result["energy"].dtype
        result["energy"] = energies.mean(dim=1).to(like)
        result["energy_std"] = energies.std(dim=1).to(like)
        if self.details:
            result["energy_members"] = energies.to(like)
        return result

    def _derivatives(
        self, graph: AtomGraph, plain: set[str], shifts: Tensor, stress: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Results with forces and stresses of the heads, and features (B, d) of structures."""
        own = plain | ({"stress"} if stress else set())
        slope = feature_jacobian(self.base, self.layer, graph, own, shifts.T, stress=stress)
        result = dict(slope.result)

        forces = result["forces"] + slope.forces
        result["forces"], result["forces_std"] = forces.mean(dim=0), forces.std(dim=0)
        if self.details:
            result["forces_members"] = forces
        if slope.stress is not None:
            tensors = result["stress"] + slope.stress
            result["stress"] = tensors.mean(dim=0)
            voigt = tensors.std(dim=0)[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            result["stress_std"] = voigt
        return result, slope.total.detach()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The heads, as differences from the model's own."""
        return {"shifts": self.shifts}, {
            **super().state()[1],
            "layer": self.layer.state(),
            "details": self.details,
            "force_std": self.force_std,
        }

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Read what :meth:`state` gave."""
        options = dict(values)
        return cls([base], fitted=(layer_from(options.pop("layer")), tensors["shifts"]), **options)


def _tune(
    model: Potential,
    layer: LastLayer | ParameterLayer,
    train: Sequence[Atoms],
    noise: Mapping[str, float],
    shifts: Tensor,
    steps: int,
) -> Tensor:
    """Minimize ``log s^2 + (y - mu)^2 / s^2`` over the heads; the problem is linear in them."""
    if steps == 0:
        return shifts

    tables = linear_problem(model, layer, train, noise)
    with torch.enable_grad():
        # In units of the spread of the draws, so that one step size suits every weight.
        unit = shifts.std(dim=0, keepdim=True).clamp(min=1e-12)
        z = (shifts / unit).detach().requires_grad_(True)

        adam = torch.optim.Adam([z], lr=0.05)
        for _ in range(steps):
            adam.zero_grad()
            loss = torch.zeros((), dtype=torch.float64)
            for kind, (rows, errors) in tables.items():
                members = rows @ (z * unit).T
                variance = members.var(dim=1) + (1e-3 * noise[kind]) ** 2
                misfit = (errors - members.mean(dim=1)) ** 2
                loss = loss + (variance.log() + misfit / variance).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return (z * unit).detach()
