"""Facet (arXiv:2509.08418): equivariant message passing with an MLP on the sphere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.files import build_model
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.long_range import MESSAGES, long_range_block
from ase_nnp.models.potential import Potential
from ase_nnp.models.radial import RadialNetworks, RadialSplines

from . import doubt as doubt  # its error bars are found by name once a model is there
from .angular import Harmonics
from .blocks import blocks
from .convolution import Edges
from .energy import EnergyScale
from .evaluation import evaluate
from .grid import SphereMixer
from .irreps import Irreps
from .layer import RECOMPUTE_ABOVE, Layer
from .layers import MLP, learn_or_keep
from .multilinear import Layout
from .places import sort_edges
from .radial import envelope, make_basis
from .settings import MPTRJ_ELEMENTS, resolve, splined

__all__ = ["Facet"]


class Geometry(NamedTuple):
    """Functions of the edges."""

    basis: Tensor  # (E, K), with the envelope
    harmonics: Tensor  # (E, (L + 1)^2)


class Facet(Conservative):
    """The Facet potential; ``config`` as in :data:`ase_nnp_facet.settings.DEFAULTS`."""

    outputs: tuple[str, ...] = ("energy", "forces", "stress", "energies")
    rmax: Tensor
    species_index: Tensor
    table_r: Tensor
    table_average: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        cfg = resolve(config)
        self.reference = bool(cfg["reference"])
        self.summation = cfg["summation"]
        species = tuple(cfg["species"] or MPTRJ_ELEMENTS)
        self.elements = frozenset(int(z) for z in species)
        index = torch.zeros(120, dtype=torch.int64)
        index[list(species)] = torch.arange(1, len(species) + 1)
        self.register_buffer("species_index", index, persistent=False)

        parsed = [Irreps.parse(text) for text in cfg["hidden_irreps"]]
        kinds = {kind for _, kind in parsed}
        if len(kinds) > 1:
            raise ConfigError(f"hidden_irreps mix O(3) and SO(3) labels: {cfg['hidden_irreps']}.")
        self.symmetry = kinds.pop() if kinds else "SO(3)"
        width = int(cfg["node_embed"]["embed_dim"])
        outs = int(cfg["outs_per_node"])
        levels = [Irreps((width,)), *(irreps for irreps, _ in parsed), Irreps((outs,))]

        edge = cfg["edge_embed"]
        self.embedding = nn.Parameter(torch.randn(len(species) + 1, width) * width**-0.5)
        self.basis = make_basis(edge["radial_basis"], cfg["radial_splines"])
        learn_or_keep(self, "rmax", torch.tensor([float(edge["r_max"])]), edge["r_max_trainable"])
        self.envelope = dict(edge["envelope"])

        # The published envelopes have a kink, or no second derivative, at one end: vibrations feel
        # it.
        if not self.reference and self.envelope["kind"] in ("exp", "xplor"):
            self.envelope["kind"] = "smooth"
        self.harmonics = Harmonics(int(cfg["interaction"]["message"]["max_ell"]))
        self.layers = nn.ModuleList(Layer(a, b, self.symmetry, cfg) for a, b in pairwise(levels))
        blocks_of = [long_range_block(cfg["long_range"], i.mult(0), MESSAGES) for i in levels[1:-1]]
        self.messages = nn.ModuleList(block for block in blocks_of if block is not None)
        self.charges = long_range_block(cfg["long_range"], outs, ("charges",))
        if self.charges is not None:
            self.outputs = (*self.outputs, "charges")
        self.head = MLP([outs, *cfg["head"]["inner_dims"], 1], cfg["head"])
        self.head_dropout = float(cfg["head"]["dropout"])
        self.energy_scale = EnergyScale(len(species), cfg["rescale"], self.reference)
        self.gamma = float(cfg["interaction"]["message"]["radial_power"])
        self._set_neighbor_average(cfg)
        limit = cfg["max_neighbors"]
        self.max_neighbors = int(limit) if self.reference and limit else None
        self.prior = self._prior(**cfg["prior"])
        if self.prior is not None:
            self.corrections = (self.prior.family,)  # so that nobody adds it a second time
            self.repulsive_core = self.prior.repulsive_core
        self.config = cfg

    def _prior(self, family: str | None, config: Mapping[str, Any]) -> Conservative | None:
        """Build what lies beneath: its energy is added, so training learns what it lacks."""
        if not family:
            return None

        # A physical term beneath the network: where there are no data its repulsion still stands.
        prior = build_model(family, config, device="cpu")
        if not isinstance(prior, Conservative) or prior.cutoff > self.cutoff:
            raise ConfigError(
                f"'{family}' cannot lie beneath this model: it must have an energy with a gradient "
                f"and a cutoff of at most {self.cutoff:g} Angstrom."
            )
        return prior.train()

    def _set_neighbor_average(self, cfg: dict[str, Any]) -> None:
        fixed = cfg["avg_num_neighbors"] or cfg["interaction"]["message"]["avg_num_neighbors"]
        table = cfg["avg_num_neighbors_table"]
        if fixed:
            r, average = [0.0, 12.0], [float(fixed)] * 2
        elif table:
            r, average = table["r"], table["avg"]
        else:  # about that of MPtrj: 35 at 5 Angstrom
            r = [0.5 * k for k in range(1, 25)]
            average = [35.0 * (x / 5.0) ** 3 for x in r]
        for name, values in (("table_r", r), ("table_average", average)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Angstrom; the value of the parameter, which a published configuration trains."""
        return float(self.rmax.detach())

    @property
    def plain_graph(self) -> bool:
        """Whether all pairs within the cutoff are there, as they are without a published cap."""
        return self.plain_search and self.max_neighbors is None

    def finish_graph(self, graph: AtomGraph) -> AtomGraph:
        """As :meth:`Potential.finish_graph`; a published cap on neighbors cuts senders' lists."""
        graph = super().finish_graph(graph)
        if self.max_neighbors is None:
            return graph

        # The published code caps what an atom sends and not what it receives.
        return graph.replace(edge_index=graph.edge_index.flip(0), edge_shift=-graph.edge_shift)

    def describe(self) -> dict[str, Any]:
        """As :meth:`Potential.describe`, with the symmetry and how exactly it is kept."""
        mixers = [layer.mixer for layer in self.layers if isinstance(layer, Layer)]
        points = [int(m.to_grid.shape[0]) for m in mixers if isinstance(m, SphereMixer)]
        rotations = f"up to a grid of {max(points)} points" if points else "exact"
        return {**super().describe(), "symmetry": self.symmetry, "rotations": rotations}

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV; with latent charges these (N,), e."""
        return self._energies(graph, self._features(graph), self.prior and self.prior.energies)

    def energies_once(self, graph: AtomGraph) -> dict[str, Tensor]:
        """As :meth:`energies`; faster, and differentiable once, in positions and cell."""
        if not self._written(graph):
            return self.energies(graph)

        geometry = self._geometry(graph)
        basis = geometry.basis / self._neighbors() ** self.gamma
        x = self.embedding[self.species_index[graph.atomic_numbers]]
        layers: Any = self.layers
        x = evaluate(layers, x, graph.edge_index, basis, geometry.harmonics)
        return self._energies(graph, x, self.prior and self.prior.energies_once)

    def traceable(self) -> Facet:
        """As :meth:`Potential.traceable`: messages, where a sum over neighbors comes in blocks."""
        twin = deepcopy(self)
        twin.summation = "paths"
        return twin

    def _energies(self, graph: AtomGraph, x: Tensor, prior: Any) -> dict[str, Tensor]:
        """Results from the features of the last layer (N, outs) and what lies beneath."""
        species = self.species_index[graph.atomic_numbers]
        e = self.head(x)[:, 0]
        shares: Tensor = self.energy_scale(e, species, graph.batch, graph.num_structures)
        charges = {}
        if self.charges is not None:
            own, charges["charges"] = self.charges(graph, x)
            shares = shares + own.to(shares)
        if prior is not None:
            shares = shares + prior(graph)["energies"]

        total = shares.new_zeros(graph.num_structures)
        return {"energy": total.index_add(0, graph.batch, shares), "energies": shares, **charges}

    def intermediates(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return what the network computes on its way, under the published names."""
        record: dict[str, Tensor] = {}
        record["head"] = self.head(self._features(graph, record))
        return {k: v.detach() for k, v in record.items()}

    def _features(self, graph: AtomGraph, record: dict[str, Tensor] | None = None) -> Tensor:
        """Features of the last layer (N, outs), differentiable as often as one likes."""
        geometry = self._geometry(graph, record)

        # Recomputed parts know no second derivative, which training on forces needs.
        again = self.training or self.differentiable
        recompute = not again and graph.num_atoms > RECOMPUTE_ABOVE
        edges, order = self._edges(graph, geometry, again and record is None)
        species = self.species_index[graph.atomic_numbers]
        x = {0: self.embedding[species if order is None else species[order]][:, None]}
        if record is not None:
            record["node_embedding"] = x[0][:, 0]
        for number, layer in enumerate(self.layers):
            inner: dict[str, Tensor] | None = None if record is None else {}
            x = layer(x, edges, recompute, inner)
            if number < len(self.messages):
                scalars = self.messages[number].features
                sent = self.messages[number](graph, x[0][:, 0, :scalars])
                x = {**x, 0: torch.cat([sent, x[0][:, 0, scalars:]], dim=1)[:, None]}
            if record is not None and inner is not None:
                record.update({f"mace/layer_{number}{k}": v for k, v in inner.items()})

        last = x[0][:, 0] if order is None else x[0][torch.argsort(order), 0]
        if self.training and self.head_dropout:
            last = F.dropout(last, self.head_dropout)
        return last

    def _edges(
        self, graph: AtomGraph, geometry: Geometry, again: bool
    ) -> tuple[Edges, Tensor | None]:
        """What the layers need of the edges, and the order of atoms they work in."""
        (source, target), (basis, harmonics) = graph.edge_index, geometry
        norm, moments = self._neighbors() ** self.gamma, self._moments(graph)
        if not (again and self._written(graph)):
            tables = blocks(target, graph.num_atoms, basis.dtype) if moments else ()
            by_path = self.summation == "paths"
            return Edges(source, target, basis, harmonics, norm, tables, by_path=by_path), None

        # Memory and time of training are those of its moments: here they are made and dropped.
        places = sort_edges(source, target, graph.num_atoms, basis.dtype)
        b = basis.index_select(0, places.edge) * places.mask
        y = harmonics.index_select(0, places.edge)
        products = (y[:, :, None] * b[:, None, :]).flatten(1)
        layout = Layout(places.source, places.slices)
        edges = Edges(source, target, basis, harmonics, norm, layout=layout, products=products)
        return edges, places.order

    def _written(self, graph: AtomGraph) -> bool:
        """Whether the written gradients fit: linear radial functions on a CPU, one precision."""
        linear = all(isinstance(one, Layer) and one.conv.linear for one in self.layers)
        # Autocast would give them two precisions at a time.
        mixed = torch.is_autocast_enabled(graph.positions.device.type)
        return linear and not mixed and self._moments(graph) and not len(self.messages)

    def _moments(self, graph: AtomGraph) -> bool:
        """Whether to sum over neighbors first: on a CPU that is faster (fewer, larger products)."""
        on_cpu = graph.positions.device.type == "cpu"
        return self.summation == "moments" or (self.summation == "auto" and on_cpu)

    def _geometry(self, graph: AtomGraph, record: dict[str, Tensor] | None = None) -> Geometry:
        vector = -graph.edge_vectors()  # from the sender to the receiver
        length = vector.norm(dim=1, keepdim=True)

        # The published weights know the axes in the order z, y, x.
        harmonics = self.harmonics(vector.flip(1) / length)
        functions = self.basis(length, self.rmax)
        factor = self._envelope(length)
        basis = functions * factor
        if record is not None:
            record.update(
                edge_vec=vector,
                edge_len=length[:, 0],
                edge_sh=harmonics,
                edge_embedding=basis,
            )
            record["edge_embedding/basis"] = functions
            record["edge_embedding/envelope"] = factor
        return Geometry(basis, harmonics)

    def _envelope(self, length: Tensor) -> Tensor:
        if isinstance(self.basis, RadialSplines):  # it is in them
            return torch.ones_like(length)
        kind, start, c = (self.envelope[key] for key in ("kind", "cutoff_start", "c"))
        return envelope(length, self.rmax, kind, start, c)

    def radial_networks(self) -> RadialNetworks | None:
        """As :meth:`HasRadialNetworks.radial_networks`: one a layer."""
        if isinstance(self.basis, RadialSplines):
            return None
        layers = {f"layers.{n}": x for n, x in enumerate(self.layers) if isinstance(x, Layer)}
        return RadialNetworks(
            lambda d: self.basis(d, self.rmax) * self._envelope(d),
            {name: layer.conv.radial for name, layer in layers.items()},
        )

    def with_radial_splines(self, pieces: Tensor, matrices: Mapping[str, Tensor]) -> Potential:
        """As :meth:`HasRadialNetworks.with_radial_splines`; layers become linear in them."""
        made = type(self)(splined(self.config, self.cutoff, pieces.shape[2], pieces.shape[0]))
        made.to(torch.float64)
        state, old = made.state_dict(), self.state_dict()
        for name, value in state.items():
            if name in old and ".conv.radial." not in name:
                value.copy_(old[name])

        state["basis.pieces"].copy_(pieces)
        for name, matrix in matrices.items():
            state[f"{name}.conv.radial.kernels.0"].copy_(matrix)
        return made.to(self.dtype).to(self.device)

    def _neighbors(self) -> Tensor:
        """Average number of neighbors within the present cutoff, interpolated; (1,)."""
        r, average = self.table_r, self.table_average
        at = torch.searchsorted(r, self.rmax.detach()).clamp(1, r.shape[0] - 1)
        part = ((self.rmax - r[at - 1]) / (r[at] - r[at - 1])).clamp(0.0, 1.0)
        return average[at - 1] + part * (average[at] - average[at - 1])

    def set_energy_scale(
        self, shifts: Mapping[int, float], shift: float = 0.0, scale: float = 1.0
    ) -> None:
        """Set where training starts: energies of free atoms (eV, by atomic number), a further
        shift of every atom (eV) and the size of what the network has to add (eV).
        """
        own = {int(self.species_index[z]): value for z, value in shifts.items()}
        self.energy_scale.set(own, shift, scale)

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; the energy is a sum over atoms, so there is no mean."""
        if mean:
            raise ConfigError(f"A mean of {mean} eV a structure: this energy is a sum over atoms.")
        self.set_energy_scale(references, scale=energy)

    def shift_references(self, shift: Mapping[int, float]) -> None:
        """As :meth:`Potential.shift_references`."""
        with torch.no_grad():
            for z, value in shift.items():
                self.energy_scale.shift[int(self.species_index[z])] += value

    def with_elements(self, numbers: Collection[int]) -> Potential:
        """As :meth:`Potential.with_elements`; a new element begins as the mean of the others."""
        species = [int(z) for z in self.config["species"] or MPTRJ_ELEMENTS]
        grown = type(self)({**self.config, "species": [*species, *sorted(numbers)]})
        grown.to(self.dtype).to(self.device)

        old, new = self.state_dict(), grown.state_dict()
        for name, value in old.items():
            if new[name].shape == value.shape:
                new[name].copy_(value)
            else:  # a row an element, the first for none
                new[name][: len(value)] = value
                new[name][len(value) :] = value[1:].mean(dim=0)
        return grown.train(self.training)

    def reference_names(self) -> dict[str, nn.Parameter]:
        """Return the parameters under the names of the published weights."""
        parameters: dict[str, nn.Parameter] = {"node_embedding/embed/embedding": self.embedding}
        if isinstance(self.rmax, nn.Parameter):
            parameters["edge_embedding/rmax"] = self.rmax
        parameters |= {f"edge_embedding/basis/{k}": v for k, v in self.basis.named_parameters()}
        for number, layer in enumerate(self.layers):
            if isinstance(layer, Layer):
                parameters |= {f"mace/layer_{number}/{k}": v for k, v in layer.names()}
        parameters |= {f"head/{k}": v for k, v in self.head.names()}
        return parameters | {f"rescale/{k}": v for k, v in self.energy_scale.names()}

    def reference_state_dict(self) -> dict[str, Tensor]:
        """Return the weights under their published names."""
        return {k: v.detach() for k, v in self.reference_names().items()}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights under their published names, or under this module's own."""
        if set(tensors) == set(self.state_dict()):
            Potential.load_weights(self, tensors)
            return

        own = self.reference_names()
        missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
        wrong = [
            f"{k}: {tuple(tensors[k].shape)} instead of {tuple(own[k].shape)}"
            for k in own
            if k in tensors and tensors[k].shape != own[k].shape
        ]

        if missing or extra or wrong:
            groups = (("missing", missing), ("unknown", extra), ("shape", wrong))
            said = [f"{what}: {', '.join(names[:6])}" for what, names in groups if names]
            raise CheckpointError(f"These weights do not fit this facet. {'; '.join(said)}")

        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
