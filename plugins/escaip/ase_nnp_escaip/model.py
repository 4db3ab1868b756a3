"""The potential: units, gradient or direct forces, and the graph of each generation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.models.energy_gradients import gradients
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp_escaip.attention import Geometry, kernel
from ase_nnp_escaip.config import head_kinds, settings_from
from ase_nnp_escaip.edges import Features
from ase_nnp_escaip.harmonics import Harmonics
from ase_nnp_escaip.heads import EnergyHead, ForceHead, Wrapped, make_head
from ase_nnp_escaip.knn import FULL, nearest, reach
from ase_nnp_escaip.layers import Constants, DistanceBasis
from ase_nnp_escaip.rotations import rotation_tensor
from ase_nnp_escaip.slots import Slots, blocks, reduce_rows
from ase_nnp_escaip.third import Backbone

__all__ = ["EScAIP", "ThirdGeneration"]

#: Rows of neighbors that go through a layer at once: small enough for a CPU's cache.
ROWS = {"cpu": 1024}
MANY = 1 << 40


class EScAIP(Potential):
    """What the generations share: outputs, units, the gradient, the average over rotations.

    Parameters
    ----------
    config
        Published hyper-parameters under their names, and this package's own options.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        settings = settings_from(config)
        self.settings = settings
        self.cutoff = settings.max_radius
        self.elements = frozenset(range(1, min(settings.max_num_elements, 119)))
        self.conservative = settings.conservative

        if settings.conservative:
            self.outputs = ("energy", "forces", "stress")
        elif settings.edge_outputs:
            self.outputs = ("energy", "forces")
        else:
            self.outputs = ("energy",)

        self._units(config)
        self.graph_options: dict[str, Any] = {"wrap": True}
        if not settings.use_pbc:
            self.graph_options["pbc"] = (False, False, False)
        self._rotations = Constants(rotation_tensor(settings.rotations))
        self.differentiable = False

    def _units(self, config: Mapping[str, Any]) -> None:
        """Read mean, scale and the energies of the elements; without them the output is in eV."""
        given = config.get("normalizer") or {}
        self.scale = {"energy": 1.0, "forces": 1.0, "stress": 1.0}
        self.mean = 0.0
        for name, value in given.items():
            if name not in self.scale:
                raise ConfigError(f"normalizer holds {name!r}; it takes energy, forces, stress.")
            self.scale[name] = float(value.get("rmsd", value.get("std", 1.0)))
            mean = float(value.get("mean", 0.0))
            if name == "energy":
                self.mean = mean
            elif mean:
                raise ConfigError(f"The normalizer of {name} has the mean {mean}; only 0 is known.")

        if "energy" in given:
            for name in ("forces", "stress"):  # a gradient follows the scale of its energy
                if name not in given and self.conservative:
                    self.scale[name] = self.scale["energy"]

        references = config.get("element_references")
        table = torch.tensor([] if references is None else references, dtype=torch.float64)
        self._elements = Constants(table)
        if table.numel():
            known = min(settings_from(config).max_num_elements, table.numel())
            self.elements = frozenset(range(1, known))

        if self.conservative and self.scale["forces"] != self.scale["energy"]:
            self.conservative = False  # scaled apart from the energy, as trained

        kind = config.get("energy_kind")
        self.energy_kind = kind or "total"
        self.energy_reference = config.get("energy_reference") or ""

    # -- what a generation writes -------------------------------------------------------------

    def raw(self, graph: AtomGraph, *, forces: bool, twice: bool) -> dict[str, Tensor]:
        """Return ``energy`` (B,), with ``forces`` also direct ones (N, 3), in model units."""
        raise NotImplementedError

    # -- Potential ----------------------------------------------------------------------------

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in ``outputs``."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``; forces and stress are worked out only when asked for."""
        forces, stress = "forces" in properties, "stress" in properties
        if not self.settings.conservative:
            result = self._run(graph, forces=forces and "forces" in self.outputs, twice=False)
            result["energy"] = self._energy(result["energy"], graph)
            if "forces" in result:
                result["forces"] = result["forces"] * self.scale["forces"]
            return result
        keep = self.training or self.differentiable

        def energies(at: AtomGraph) -> Tensor:
            return self._energy(self._run(at, forces=False, twice=keep)["energy"], at)

        with torch.set_grad_enabled(keep or forces or stress):
            result = gradients(energies, graph, forces=forces, stress=stress, keep=keep)
        for name in ("forces", "stress"):
            # A trainer may have scaled forces apart from the energy; the gradient carries the
            # energy's scale.
            ratio = self.scale[name] / self.scale["energy"]
            if name in result and ratio != 1.0:
                result[name] = result[name] * ratio
        return result if keep else {k: v.detach() for k, v in result.items()}

    def _run(self, graph: AtomGraph, *, forces: bool, twice: bool) -> dict[str, Tensor]:
        return self.raw(graph, forces=forces, twice=twice)

    def _energy(self, raw: Tensor, graph: AtomGraph) -> Tensor:
        energy = raw * self.scale["energy"] + self.mean
        wide = energy.double()  # thousands of eV have no meV in float32
        table = self._elements.like(wide)[0]
        if not table.numel():
            return energy
        each = table[graph.atomic_numbers]
        return wide + reduce_rows(each, graph.batch, graph.num_structures)

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; kept in the configuration under the published names."""
        normalizer: dict[str, Any] = {"energy": {"mean": mean, "std": energy}}
        if not self.settings.conservative:
            normalizer["forces"] = {"std": forces}
        table = None
        if references:
            size = min(self.settings.max_num_elements, 119)
            table = [float(references.get(z, 0.0)) for z in range(size)]

        # In the configuration, so that a saved model has them without tensors of its own.
        changes = {"normalizer": normalizer, "element_references": table}
        self.config = {**self.config, **changes}
        self._units(self.config)

    def shift_references(self, shift: Mapping[int, float]) -> None:
        """As :meth:`Potential.shift_references`."""
        size = min(self.settings.max_num_elements, 119)
        table = list(self.config.get("element_references") or [0.0] * size)
        for z, value in shift.items():
            table[z] += float(value)
        self.config = {**self.config, "element_references": table}
        self._units(self.config)

    # -- shared pieces ------------------------------------------------------------------------

    def rows(self, graph: AtomGraph) -> int:
        """Return how many rows a block may have."""
        return ROWS.get(graph.positions.device.type, MANY)

    def direct(self, numbers: list[Tensor], at: list[tuple[Slots, Tensor]]) -> Tensor:
        """Sum three numbers an edge times its direction over each atom, (N, 3).

        ``numbers`` (R, 3) and ``at`` (slots, direction) are by block; the mean over rotations is
        inside.
        """
        if self.settings.rotations == 1:
            pairs = zip(numbers, at, strict=True)
            return torch.cat([slots.sum(d * u) for d, (slots, u) in pairs])
        forces = []
        for d, (slots, u) in zip(numbers, at, strict=True):
            tensor = self._rotations.like(u)[0]
            forces.append(slots.sum(torch.einsum("rb,bac,rc->ra", d, tensor, u)))
        return torch.cat(forces)

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """As the base class; says so where the weights are of another generation."""
        first = next(iter(tensors), "")

        # Generation 1 alone has this prefix; the plain message would list hundreds of missing
        # names.
        other = "exportable_model" in " ".join(tensors) if tensors else False
        if other != (self.settings.generation != 3):
            raise CheckpointError(
                f"These weights (first key {first!r}) are of generation {1 if other else 3}, the "
                f"configuration of generation {self.settings.generation}. Set generation= in it."
            )
        super().load_weights(tensors)


class ThirdGeneration(EScAIP):
    """Generation 3: soft nearest-neighbor graph, frequency attention, envelope."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        settings = self.settings
        self.cutoff = reach(settings)
        self.basis = DistanceBasis(settings, published=False)
        self.harmonics = Harmonics(settings.node_direction_expansion_size - 1)
        degrees = len(settings.freequency_list) if settings.use_frequency_embedding else 0
        self.frequencies = settings.freequency_list if degrees else ()
        self.backbone = Backbone(settings)

        kinds = head_kinds(config, settings)
        self.output_heads = nn.ModuleDict(
            {name: make_head(settings, *kind) for name, kind in kinds.items()}
        )
        self._energy_name = next(n for n, (k, _) in kinds.items() if k in ("energy", "grad"))
        self._force_name = next((n for n, (k, _) in kinds.items() if k == "force"), None)

        if settings.edge_outputs and not settings.conservative and self._force_name is None:
            self.outputs = ("energy",)
        if settings.compile:
            self.backbone.compile(dynamic=True)

    def finish_graph(self, graph: AtomGraph) -> AtomGraph:
        """As the base class; the graph says that it holds every pair in reach."""
        graph = super().finish_graph(graph)
        return graph.replace(extra={**graph.extra, FULL: graph.pbc[:, 0]})

    def _head(self, name: str) -> nn.Module:
        head = self.output_heads[name]
        return head.head if isinstance(head, Wrapped) else head

    def raw(self, graph: AtomGraph, *, forces: bool, twice: bool) -> dict[str, Tensor]:
        """Return ``energy`` and, with ``forces``, the direct ``forces``, in model units."""
        features, at = self.features(graph, twice)
        out = self.backbone(features, edge_outputs=forces)

        energy_head = self._head(self._energy_name)
        assert isinstance(energy_head, EnergyHead)
        if self.settings.use_global_readout:
            energy = energy_head(out["global"][0])
        else:
            each = energy_head(out["node"][0])
            energy = reduce_rows(each, graph.batch, graph.num_structures)
            if self.settings.energy_reduce == "mean":
                energy = energy / graph.atoms_per_structure().to(energy.dtype)

        if not forces or self._force_name is None:
            return {"energy": energy}
        head = self._head(self._force_name)
        assert isinstance(head, ForceHead)
        numbers = [head.of_edges(e) for e in out["edge"]]
        return {
            "energy": energy,
            "forces": self.direct(numbers, at) * head.magnitude(out["node"][0]),
        }

    def features(
        self, graph: AtomGraph, twice: bool = False
    ) -> tuple[Features, list[tuple[Slots, Tensor]]]:
        """Return the input of the network and the directions by block."""
        settings, n = self.settings, graph.num_atoms
        edges = nearest(graph, settings)
        device = graph.positions.device
        # An atom's own row comes first: a stable sort keeps it before its neighbors.
        own = torch.arange(n, device=device)
        receiver, order = torch.sort(torch.cat([own, edges.receiver]), stable=True)
        sender = torch.cat([own, edges.sender])[order]
        vector = torch.cat([edges.vector.new_zeros(n, 3), edges.vector])[order]
        env = torch.cat([edges.env.new_zeros(n), edges.env])[order]
        real = (order >= n)[:, None]
        # Twice where(): the derivative of the length of an atom's own vector is not a number.
        length = torch.where(real, vector, torch.ones_like(vector)).norm(dim=-1, keepdim=True)
        direction = torch.where(real, vector / length, torch.zeros_like(vector))
        distance = torch.where(real, length, torch.zeros_like(length))[:, 0]

        harmonics = self.harmonics(direction)
        weight = _weight(env)[:, None] if settings.smooth_graph else None
        total = reduce_rows(harmonics if weight is None else harmonics * weight, receiver, n)
        ones = torch.ones_like(distance[:, None]) if weight is None else weight
        power = self.harmonics.power(total / reduce_rows(ones, receiver, n))
        orders = torch.sqrt(power.clamp_min(1e-6))

        angles = settings.use_angle_embedding != "none"
        if settings.use_envelope and not angles:
            bias = -env.square() / (1 - env.square())
        else:
            bias = torch.zeros_like(env)
        chosen = kernel(
            settings.attention, device=device, twice=twice, pairwise=bool(self.frequencies)
        )
        columns = len(self.frequencies) ** 2
        cut = blocks(sender, receiver, n, self.rows(graph))
        geometry = []
        for slots in cut:
            padded = slots.pad(slots.rows(bias)).masked_fill(~slots.mask, -torch.inf)
            here = Geometry(
                slots=slots,
                bias=padded[:, None, None],
                direction=slots.rows(direction),
                repeats=self.frequencies,
                harmonics=slots.rows(harmonics)[:, :columns] if chosen == "fused" else None,
                kernel=chosen,
                dropout=settings.atten_dropout if self.training else 0.0,
            )
            geometry.append(here.prepare(angles))
        basis = [self.basis(slots.rows(distance)) for slots in cut]
        features = Features(
            graph.atomic_numbers, orders, graph.batch, graph.num_structures, basis, geometry
        )
        return features, [(slots, slots.rows(direction)) for slots in cut]


def _weight(env: Tensor) -> Tensor:
    """The envelope as a weight: 1 for the atom itself, 0 with all derivatives at the edge."""
    return torch.exp(-env.square() / (1 - env.square()))
