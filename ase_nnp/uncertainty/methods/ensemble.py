"""Deep ensembles, and pools of models of different families on one energy scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.batched import Batched
from ase_nnp.uncertainty.statistics.pool import composition_matrix, fit_element_shifts

__all__ = ["DeepEnsemble", "Pool", "committee_outputs", "reduce_members"]


class DeepEnsemble(UncertainPotential):
    """Mean and sample spread of several potentials (Lakshminarayanan et al. 2017).

    Parameters
    ----------
    members
        Two or more potentials with a common energy scale.
    mode
        ``"sequential"``; ``"batched"``, all members at once by ``torch.func``; or ``"auto"``,
        the faster of the two, timed once on the first call where both are possible.
    details
        Also return ``energy_members`` (B, M), ``forces_members`` (M, N, 3) and ``forces_cov``.
    options
        Of :class:`UncertainPotential`.
    """

    method = "ensemble"

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        mode: str = "auto",
        details: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(members, **options)
        if len(members) < 2:
            raise UncertaintyError(f"A spread needs two or more members; found {len(members)}.")
        kinds = {m.energy_kind for m in members}
        if len(kinds) > 1:
            raise UncertaintyError(f"The members' energies mean different things: {sorted(kinds)}.")
        self.details = details
        self.runner = Batched(mode)
        shared = [k for k in self.base.outputs if all(k in m.outputs for m in members)]
        if not shared:
            raise UncertaintyError("The members have no output in common.")
        self._shared = tuple(shared)
        self.outputs = committee_outputs(shared, details)
        self.conservative = all(m.conservative for m in members)

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Mean and spread over the members of every shared property asked for."""
        wanted = [
            k for k in self._shared if not k.startswith("stress") or _asked("stress", properties)
        ]
        return self.reduce(self.member_outputs(graph, wanted), graph)

    def member_outputs(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Every member's own outputs, members first."""
        graphs = [self.graph_for(m, graph) for m in self.potentials]
        return self.runner(self.potentials, graphs, properties)

    def reduce(self, stacked: Mapping[str, Tensor], graph: AtomGraph) -> dict[str, Tensor]:
        """Mean and spread of outputs with the members first."""
        return reduce_members(stacked, graph.positions.dtype, self.details)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights of all members but the first."""
        tensors: dict[str, Tensor] = {}
        table = []
        for i, member in enumerate(self.potentials[1:], start=1):
            row = {"family": member.family, "config": dict(member.config)}
            table.append({**row, "provenance": dict(member.provenance)})
            tensors |= {f"members.{i}.{k}": v for k, v in member.state_dict().items()}
        values = {"mode": self.runner.mode, "details": self.details, "others": table}
        return tensors, {**super().state()[1], **values}

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Build the other members again beside the first."""
        options = dict(values)
        members = [base, *_rebuild(base, tensors, options.pop("others"))]
        return cls(members, **options)


def reduce_members(
    stacked: Mapping[str, Tensor], dtype: torch.dtype, details: bool = False
) -> dict[str, Tensor]:
    """Mean and sample spread over the first axis, summed in float64.

    With ``details`` also the members of energy and forces, and the forces' 3x3 covariance.
    """
    result: dict[str, Tensor] = {}
    for name, raw in stacked.items():
        # In float64: total energies of thousands of eV leave float32 no digits for a spread.
        values = raw.double()
        result[name] = values.mean(dim=0).to(dtype)
        std = (_voigt(values) if name == "stress" else values).std(dim=0)
        result[f"{name}_std"] = std.to(dtype)

    if details and "energy" in stacked:
        result["energy_members"] = stacked["energy"].T.contiguous()
    if details and "forces" in stacked:
        forces = stacked["forces"]
        delta = forces - forces.mean(dim=0)
        result["forces_members"] = forces
        result["forces_cov"] = torch.einsum("mni,mnj->nij", delta, delta) / (len(forces) - 1)
    return result


def _asked(stem: str, properties: Collection[str]) -> bool:
    return any(p.startswith(stem) for p in properties)


def committee_outputs(shared: Sequence[str], details: bool = False) -> tuple[str, ...]:
    """Names of what a committee returns for these shared outputs."""
    outputs = [*shared, *(f"{k}_std" for k in shared)]
    if "forces" in shared:
        outputs.append("forces_std_norm")
    if details:
        outputs += [f"{k}_members" for k in ("energy", "forces") if k in shared]
        outputs += ["forces_cov"] if "forces" in shared else []
    return tuple(outputs)


def _voigt(stress: Tensor) -> Tensor:
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    return (stress[..., rows, columns] + stress[..., columns, rows]) / 2


def _rebuild(
    base: Potential, tensors: Mapping[str, Tensor], table: Sequence[Mapping[str, Any]]
) -> list[Potential]:
    import copy

    from ase_nnp.models.files import build_model

    members = []
    for i, spec in enumerate(table, start=1):
        if spec["family"] == base.family and dict(spec["config"]) == dict(base.config):
            member = copy.deepcopy(base)
        else:
            # A configuration given as text would be the path of a file: a header names no path.
            member = build_model(spec["family"], dict(spec["config"]), device=base.device)
        prefix = f"members.{i}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        # Read in the precision they were kept in; a cast would change the members.
        kinds = {v.dtype for v in own.values() if v.is_floating_point()}
        if torch.float64 in kinds or base.dtype == torch.float64:
            member = member.to(torch.float64)
        Potential.load_weights(member, own)
        # Neither those of the model it was copied from, nor fresh.
        member.provenance = dict(spec.get("provenance", {"source": "uncertainty file"}))
        members.append(member.to(base.device).freeze())
    return members


class Pool(DeepEnsemble):
    """Models of any families as one ensemble, with their element offsets fitted away.

    Different models measure energies from different zeros. For each member one shift per element
    is fitted so that its energies match the labels of given structures, or the first member's
    energies where there are no labels; the spread of what is left means something.

    Parameters
    ----------
    members
        Potentials of any families; each searches neighbors as it wants.
    align_on
        Structures to fit the shifts on, of at least as many compositions as elements.
    shifts
        Instead, (M, 119) eV per atom to subtract, by atomic number.
    mode
        How the members' energies are put on one scale.
    options
        Of :class:`UncertainPotential`.
    """

    method = "pool"

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        align_on: Sequence[Atoms] | None = None,
        shifts: Tensor | None = None,
        mode: str = "sequential",
        **options: Any,
    ) -> None:
        super().__init__(members, mode=mode, **options)
        if shifts is None:
            if align_on is None:
                raise UncertaintyError(
                    "A pool needs structures to align the members' energies on: align_on=[...]."
                )
            shifts = self._fit(align_on)
        self.shifts = shifts.double()

    def _fit(self, structures: Sequence[Atoms]) -> Tensor:
        from ase_nnp.models.predictor import Predictor

        if any("energy" not in model.outputs for model in self.potentials):
            return torch.zeros((len(self.members), 119))  # a property has no energies of atoms
        counts, elements = composition_matrix([a.numbers for a in structures])
        energies = np.array(
            [[r["energy"] for r in Predictor(m)(structures, ("energy",), progress=False)]
             for m in self.potentials]
        )  # fmt: skip
        try:
            reference = np.array([a.get_potential_energy() for a in structures])
        except Exception:  # unlabeled structures: whatever their calculators raise
            reference = energies[0]

        fitted = fit_element_shifts(energies, reference, counts)
        table = torch.zeros((len(self.members), 119), dtype=torch.float64)
        table[:, torch.as_tensor(elements.astype(int))] = torch.as_tensor(fitted)
        return table

    def reduce(self, stacked: Mapping[str, Tensor], graph: AtomGraph) -> dict[str, Tensor]:
        """As an ensemble, after the shifts."""
        stacked = dict(stacked)
        if "energy" in stacked:
            per_atom = self.shifts.to(graph.positions.device)[:, graph.atomic_numbers]
            total = per_atom.new_zeros((len(self.members), graph.num_structures))
            total.index_add_(1, graph.batch, per_atom)
            stacked["energy"] = stacked["energy"].double() - total
        return super().reduce(stacked, graph)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Members and shifts."""
        tensors, values = super().state()
        return {**tensors, "shifts": self.shifts}, values

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Build the members and take the shifts."""
        options = dict(values)
        members = [base, *_rebuild(base, tensors, options.pop("others"))]
        return cls(members, shifts=tensors["shifts"], **options)
