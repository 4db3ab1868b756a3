"""What every uncertainty method is: a potential around potentials."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.models.structures import structures_of
from ase_nnp.uncertainty.ase_storage import ALIASES
from ase_nnp.uncertainty.methods.bonding import KnownBonding
from ase_nnp.uncertainty.statistics.calibrated import Calibration
from ase_nnp.uncertainty.statistics.moments import NOT_COVERED

__all__ = ["NOT_COVERED", "UncertainPotential", "structures_of"]

#: Under this name a method may leave the lengths (E,) of edges that it needed; no output.
EDGE_LENGTHS = "edge_lengths"
PER_ATOM = {"forces_std_norm", "forces_cov", "forces_members", "forces_interval", "ood_scores"}
PER_ATOM |= {"forces_comm", "forces_var", "forces_uncertainty"}


class UncertainPotential(Potential):
    """A potential whose outputs hold ``*_std`` beside what the wrapped one gives.

    Canonical outputs, where a method has them: ``energy_std`` (B,) eV; ``energies_std`` (N,) eV,
    which does not add up; ``forces_std`` (N, 3) eV/Angstrom, equal columns unless
    ``force_std_mode="component"``; ``forces_std_norm`` (N,); ``stress_std`` (B, 6) Voigt;
    ``ood_score`` (B,), ``ood_flag`` (B,), ``ood_scores`` (N,); with a calibration
    ``energy_interval`` (B, 2) and ``forces_interval`` (2, N, 3).

    Parameters
    ----------
    members
        The potentials; the first speaks for all (cutoff, what it reads, what energy means).
    force_std_mode
        ``"isotropic"`` or ``"component"``.
    calibration
        Applied to every spread; see :meth:`calibrate`.
    shared
        Part of the covariances of two energies to be believed, 0 to 1; the rest of each error is
        its own. See :func:`ase_nnp.uncertainty.calibrate_differences`.
    """

    method: ClassVar[str] = ""
    #: Adds outputs of its own beside stds, or gives stds of other properties.
    row_axis: Mapping[str, int] = {"forces_members": 1, "forces_interval": 1, "forces_comm": 1}
    #: Names of another package that are given too; see :meth:`with_aliases`.
    aliases: str | None = None
    #: What flags bonding that training never had; see :meth:`remember_bonding`.
    bonding: KnownBonding | None = None

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        force_std_mode: str = "isotropic",
        calibration: Calibration | None = None,
        shared: float = 1.0,
    ) -> None:
        super().__init__()
        if not members:
            raise UncertaintyError("An uncertainty method needs at least one potential.")
        if force_std_mode not in ("isotropic", "component"):
            raise UncertaintyError(
                f"force_std_mode must be 'isotropic' or 'component', not {force_std_mode!r}."
            )
        if not 0 <= shared <= 1:
            raise UncertaintyError(f"shared must lie in [0, 1]; found {shared}.")

        self.members = nn.ModuleList(members)
        self.shared = shared
        self.force_std_mode = force_std_mode
        self.calibration = calibration or Calibration()
        base = self.base
        self.cutoff, self.max_neighbors = base.cutoff, base.max_neighbors
        self.conservative, self.energy_kind = base.conservative, base.energy_kind
        self.repulsive_core = base.repulsive_core
        self.energy_reference, self.units = base.energy_reference, base.units
        self.required_inputs, self.graph_options = base.required_inputs, base.graph_options
        self.corrections = base.corrections
        known = [m.elements for m in members if m.elements is not None]
        self.elements = frozenset.intersection(*known) if known else None
        spreads = {f"{name}_std" for name in base.per_atom if not name.endswith("_std")}
        self.per_atom = frozenset(base.per_atom | PER_ATOM | spreads)
        self.eval()

    @property
    def base(self) -> Potential:
        """The first member."""
        # Past the look-ups of Module and ModuleList: this is read several times a call.
        members: Any = self._modules["members"]
        member: Potential = members._modules["0"]
        return member

    @property
    def unwrapped(self) -> Potential:
        """The innermost first member, which knows its family and where its weights are from."""
        return self.base.unwrapped

    @property
    def plain_graph(self) -> bool:
        """Whether the graph of the first member is nothing but positions and edges."""
        return self.base.plain_graph

    @property
    def plain_search(self) -> bool:
        """Whether the first member's graph is made of pairs within the cutoff alone."""
        return self.base.plain_search

    @property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Where the weights are from: that of the first member, beside it those of the others."""
        origin = dict(self.base.provenance)
        if len(self.members) > 1:
            origin["members"] = [dict(member.provenance) for member in self.potentials]
        return origin

    @property
    def potentials(self) -> list[Potential]:
        """The members."""
        return list(self.members)  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the first member."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Device of the first member."""
        return self.base.device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every member; the method's own tables stay in float64."""
        for member in self.members:
            member.to(*args, **kwargs)
        return self

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the graph that the first member wants."""
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        self.check_elements(structures)
        return self.base.make_graph(structures, device)

    def finish_graph(self, graph: AtomGraph) -> AtomGraph:
        """Return the graph that the first member wants, from positions and pairs."""
        return self.base.finish_graph(graph)

    def graph_for(self, member: Potential, graph: AtomGraph) -> AtomGraph:
        """Return the batch as ``member`` wants it, searched anew where members differ."""
        base = self.base
        same = (
            type(member).make_graph is type(base).make_graph
            and (member.cutoff, member.max_neighbors) == (base.cutoff, base.max_neighbors)
            and dict(member.graph_options) == dict(base.graph_options)
        )
        if not same:
            return member.make_graph(structures_of(graph))
        return graph if member.dtype == graph.positions.dtype else graph.to(dtype=member.dtype)

    @property
    def uq(self) -> dict[str, Any]:
        """What the error bars are: method, calibrated or not, on what, and what they leave out."""
        c = self.calibration
        return {
            "method": self.method,
            "calibrated": bool(c.properties),
            "calibrator": c.calibrator if c.properties else None,
            "coverage": c.coverage if c.properties else None,
            "n_cal": c.structures,
            "calibration_hash": c.data_hash,
            "not_covered": NOT_COVERED,
            **({"bonding": list(self.bonding.counts)} if self.bonding else {}),
        }

    def remember_bonding(self, train: Sequence[Atoms], false_alarms: float = 0.05) -> Self:
        """Flag from now on every structure with bonding that training structures never had.

        Parameters are those of :meth:`~ase_nnp.uncertainty.methods.bonding.KnownBonding.fit`; a
        method without a flag has one from then on. Returns the method.
        """
        self.bonding = KnownBonding.fit(self.base, train, false_alarms=false_alarms)
        self.outputs = tuple(dict.fromkeys([*self.outputs, "ood_score", "ood_flag"]))
        return self

    def explain(self, atoms: Atoms) -> list[str]:
        """Return what of a structure's bonding training never had, a sentence each."""
        return self.bonding.explain(self.base, atoms) if self.bonding else []

    def set_calibration(self, calibration: Calibration) -> Self:
        """Take a calibration; from then on stds are calibrated and intervals are given."""
        self.calibration = calibration
        intervals = [f"{k}_interval" for k in calibration.properties]
        rest = [k for k in self.outputs if not k.endswith("_interval")]
        self.outputs = (*rest, *intervals)
        return self

    def with_aliases(self, style: str) -> Self:
        """Also give the uncertainties under the names of ``"mace"``, ``"metatomic"``, ..."""
        if style not in ALIASES:
            raise UncertaintyError(f"No aliases '{style}'. There are: {', '.join(ALIASES)}.")
        own = [k for k in self.outputs if k not in ALIASES.get(self.aliases or "", {})]
        more = [k for k, (ours, _) in ALIASES[style].items() if ours in own and k not in own]
        self.aliases, self.outputs = style, (*own, *more)
        return self

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in :attr:`outputs`."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``."""
        result = {k: v.detach() for k, v in self.spread(graph, properties).items()}
        lengths = result.pop(EDGE_LENGTHS, None)
        if "forces_std" in result and self.force_std_mode == "isotropic":
            pooled = result["forces_std"].square().mean(dim=1, keepdim=True).sqrt()
            result["forces_std"] = pooled.expand(-1, 3)
        self._calibrate(result, graph)
        if self.bonding is not None and {"ood_score", "ood_flag"} & {*properties, *result}:
            self._mark_bonding(self.bonding, result, graph, lengths)
        if "forces_std" in result:
            result["forces_std_norm"] = result["forces_std"].norm(dim=1)
        for theirs, (ours, how) in ALIASES.get(self.aliases or "", {}).items():
            if ours in result:
                result[theirs] = result[ours].square() if how == "square" else result[ours]
        return result

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Predictions and raw spreads; what a method writes."""
        raise NotImplementedError

    def _mark_bonding(
        self,
        bonding: KnownBonding,
        result: dict[str, Tensor],
        graph: AtomGraph,
        lengths: Tensor | None,
    ) -> None:
        """Flag structures with unknown bonding, with a score just above the threshold."""
        score = result.setdefault("ood_score", graph.positions.new_zeros(graph.num_structures))
        flag = result.setdefault("ood_flag", torch.zeros_like(score, dtype=torch.bool))
        # On the host, where bonding is looked up: mostly nothing is new, and nothing to be done.
        atoms = bonding.novel(graph, lengths)
        if not atoms.any():
            return

        new = torch.zeros_like(flag)
        new[graph.batch[atoms.to(flag.device)]] = True
        threshold = float(self.uq.get("score_threshold") or 1.0)
        # A monitor looks at the score alone, so that it must say what the flag says.
        above = score.clamp(min=1.001 * threshold)
        result["ood_score"] = torch.where(new, above, score)
        result["ood_flag"] = new | flag

    def _calibrate(self, result: dict[str, Tensor], graph: AtomGraph) -> None:
        for name, one in self.calibration.properties.items():
            key = f"{name}_std"
            if key not in result or name not in result:
                continue
            like = result[key]
            std = one.std(like.double().cpu().numpy())
            z = graph.atomic_numbers.cpu().numpy() if name == "forces" else None
            half = torch.as_tensor(one.half_width(std, z)).to(like)

            ends = result[name] - half, result[name] + half
            result[f"{name}_interval"] = torch.stack(ends, dim=0 if name == "forces" else 1)
            result[key] = torch.as_tensor(np.ascontiguousarray(std)).to(like)

            # Members and covariances follow a plain factor; other maps do not reach them.
            for other in (f"{name}_members", f"{name}_cov"):
                if other in result and one.kind == "scale":
                    center = result[name] if other.endswith("members") else 0.0
                    power = 1 if other.endswith("members") else 2
                    if name == "energy" and power == 1:
                        center = result[name][:, None]
                    result[other] = center + one.numbers[0] ** power * (result[other] - center)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that make this method again beside its first member."""
        # Left out where it says nothing, so that older versions go on reading such files.
        shared = {"shared": self.shared} if self.shared != 1 else {}
        return {}, {"force_std_mode": self.force_std_mode, **shared}

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Make the method from a potential and what :meth:`state` gave."""
        return cls([base], **values)
