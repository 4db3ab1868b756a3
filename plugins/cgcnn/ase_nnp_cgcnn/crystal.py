r"""The crystal graph network for crystal properties (Xie and Grossman 2018, arXiv:1710.10324).

Every atom sees its 12 nearest neighbors. With
:math:`z_{ij} = v_i \oplus v_j \oplus u_{ij}`, Eq. 5 is

.. math:: v_i' = g\Big(v_i + \sum_j \sigma(z_{ij} W_f + b_f) \odot g(z_{ij} W_s + b_s)\Big)

where g is softplus; both products and the sum go through batch normalization. Eq. 6 takes the
mean over atoms, and a small network makes one number of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn
from torch.nn.functional import softplus

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

from .elements import MAX_Z, NUM_FEATURES, element_features
from .layers import GatedEdges, check_sizes, gated_sum, head, mean_over_atoms, with_batch_counters
from .properties import choose_property
from .scaling import read_scale

__all__ = ["CrystalModel", "from_config"]

EVERYWHERE = (True, True, True)
#: Every atom has a row of so many places, whether it has the neighbors or not.
MOST_NEIGHBORS = 10_000


def from_config(config: Mapping[str, Any]) -> CrystalModel:
    """Build the model of a configuration; ConfigError where it contradicts itself."""
    keys = dict(config)
    if keys.pop("orig_atom_fea_len") != NUM_FEATURES:
        raise ConfigError(
            f"orig_atom_fea_len is {config['orig_atom_fea_len']}; this family has the "
            f"{NUM_FEATURES} element features of the published models and no others."
        )
    return CrystalModel(**keys)


class CrystalModel(Potential):
    """A property of a crystal from its structure; no forces.

    Parameters
    ----------
    property
        A published name (``"band-gap"``), an output name, or a name of one's own; names the output.
    task
        ``"regression"``, or ``"classification"`` into two classes: the output is the probability
        of the second.
    atom_fea_len, n_conv, h_fea_len, n_h
        Width of atoms, number of convolutions, width and number of the layers after pooling.
    radius, max_num_nbr
        Neighbors: the nearest ``max_num_nbr`` within ``radius`` (Angstrom). An atom with fewer
        gets the first atom of its crystal at ``radius + 1`` as often as needed.
    dmin, step, nbr_fea_len
        Gaussians at ``dmin, dmin + step, ... radius``; ``nbr_fea_len`` may repeat their number.
    normalizer
        ``{"mean": m, "std": s}`` of a regression: the output is ``raw * s + m``.
    """

    conservative = False
    elements = frozenset(range(1, MAX_Z + 1))
    max_neighbors: int
    features: Tensor

    def __init__(
        self,
        *,
        property: str | None,
        task: str,
        atom_fea_len: int,
        nbr_fea_len: int | None,
        n_conv: int,
        h_fea_len: int,
        n_h: int,
        radius: float,
        max_num_nbr: int,
        dmin: float,
        step: float,
        normalizer: Mapping[str, float] | None,
    ) -> None:
        super().__init__()
        if max_num_nbr > MOST_NEIGHBORS:
            raise ConfigError(f"max_num_nbr is {max_num_nbr}: up to {MOST_NEIGHBORS} are wanted.")
        check_sizes(
            atom_fea_len=atom_fea_len,
            n_conv=n_conv,
            h_fea_len=h_fea_len,
            n_h=n_h,
            max_num_nbr=max_num_nbr,
            radius=radius,
            step=step,
        )
        if task not in ("regression", "classification"):
            raise ConfigError(f"task must be 'regression' or 'classification', not {task!r}.")
        self.property = choose_property(property, task)
        self.classifies = task == "classification"
        self.outputs = self.property.outputs
        self.units = self.property.units
        self.energy_kind = "total" if "energy" in self.outputs else "none"
        self.cutoff, self.max_neighbors = float(radius), int(max_num_nbr)
        used = normalizer if normalizer and not self.classifies else {"mean": 0.0, "std": 1.0}
        scale = read_scale(used)
        self.mean, self.std = scale["mean"], scale["std"]

        self.first, self.step = float(dmin), float(step)

        # As the published script counts them, rounding of arange included.
        self.gaussians = len(np.arange(dmin, radius + step, step))
        if nbr_fea_len not in (None, self.gaussians):
            raise ConfigError(
                f"nbr_fea_len is {nbr_fea_len}, but dmin {dmin}, radius {radius} and step {step} "
                f"make {self.gaussians} Gaussians."
            )
        features = torch.from_numpy(element_features())
        self.register_buffer("features", features, persistent=False)
        self.embedding = nn.Linear(NUM_FEATURES, atom_fea_len)
        self.convs = nn.ModuleList(Convolution(atom_fea_len, self.gaussians) for _ in range(n_conv))
        self.conv_to_fc = nn.Linear(atom_fea_len, h_fea_len)

        # The published classifier alone was trained with dropout.
        self.dropout = nn.Dropout(0.5 if self.classifies else 0.0)
        self.fcs = nn.ModuleList(nn.Linear(h_fea_len, h_fea_len) for _ in range(n_h - 1))
        self.fc_out = nn.Linear(h_fea_len, 2 if self.classifies else 1)

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; mean and unit are those of the property."""
        if any(references.values()):
            raise ConfigError("This model gives a property: it takes no reference energies.")
        normalizer = {"mean": mean, "std": energy}
        self.mean, self.std = mean, energy
        self.config = {**self.config, "normalizer": normalizer}

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the nearest neighbors of every atom through all three lattice vectors.

        The structures' own pbc flags are not read. ``extra["edge_distance"]`` holds the distances
        in float64 whatever the precision of the model: the published features were made so.

        Raises
        ------
        StructureError
            A structure without a cell.
        """
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        self.check_elements(structures)
        for one in structures:
            if one.cell.rank < 3:
                raise StructureError(
                    f"{one.get_chemical_formula()} has {one.cell.rank} lattice vectors. This model "
                    "reads crystals, repeated along all three; set a cell (a large one for a "
                    "molecule or a slab)."
                )
        graph = AtomGraph.from_atoms(
            structures,
            self.cutoff,
            self.max_neighbors,
            dtype=torch.float64,
            device=self.device if device is None else device,
            pbc=EVERYWHERE,
        )

        # Distances stay in float64: the published features were computed by numpy.
        graph = self._padded(graph, graph.edge_vectors().norm(dim=1))
        distance = graph.extra["edge_distance"]
        return graph.to(dtype=self.dtype).replace(extra={"edge_distance": distance})

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return the property under its name, (B,), and what follows from it."""
        raw = self.raw(graph)
        value = raw.softmax(1)[:, 1] if self.classifies else raw[:, 0] * self.std + self.mean
        properties = {self.property.output: value}
        if self.property.derived == "energy":
            properties["energy"] = value * graph.atoms_per_structure()
        elif self.property.derived:
            properties[self.property.derived] = 10.0**value
        return {name: properties[name].to(self.fc_out.weight.dtype) for name in self.outputs}

    def raw(self, graph: AtomGraph) -> Tensor:
        """Return what the last layer gives, (B, 1) or (B, 2) in float64."""
        distance = graph.extra.get("edge_distance")
        if distance is None:
            distance = self._true_distances(graph)
        graph = self._padded(graph, distance)
        distance = graph.extra["edge_distance"]
        edges = self._edge_features(distance).to(self.fc_out.weight.dtype)
        source, target = graph.edge_index
        atoms = self.embedding(self.features[graph.atomic_numbers])
        for convolution in self.convs:
            atoms = convolution(atoms, edges, source, target)

        # Two softplus in a row, as in the published code.
        pooled = softplus(mean_over_atoms(atoms, graph))
        crystal = self.dropout(softplus(head([self.conv_to_fc], pooled)))
        return head([*self.fcs, self.fc_out], crystal)

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """As the base class; files older than torch's batch counters are complete without them."""
        super().load_weights(with_batch_counters(self, tensors))

    def _edge_features(self, distance: Tensor) -> Tensor:
        """Gaussians (E, F) of distances, in float64: the published features were made so."""
        number = torch.arange(self.gaussians, dtype=torch.float64, device=distance.device)
        away = distance.double()[:, None] - (self.first + self.step * number)
        return torch.exp(-((away / self.step) ** 2))

    def _padded(self, graph: AtomGraph, distance: Tensor) -> AtomGraph:
        """Give every atom ``max_neighbors`` slots; the spare ones hold atom 0 at ``radius + 1``."""
        if graph.num_edges == self.max_neighbors * graph.num_atoms:
            return graph.replace(extra={**graph.extra, "edge_distance": distance})
        source, target = graph.edge_index
        filled = torch.bincount(target, minlength=graph.num_atoms)

        # The published data fill missing neighbors with atom 0 at radius + 1, and the weights were
        # trained on that.
        spare = (self.max_neighbors - filled).clamp_min(0)
        center = torch.repeat_interleave(torch.arange(len(spare), device=spare.device), spare)
        first = _first_atoms(graph)[graph.batch[center]]
        index = torch.stack([torch.cat([source, first]), torch.cat([target, center])])
        shift = torch.cat([graph.edge_shift, graph.edge_shift.new_zeros((len(center), 3))])
        far = distance.new_full((len(center),), self.cutoff + 1.0)
        distance = torch.cat([distance, far])
        order = torch.argsort(index[1], stable=True)
        return graph.replace(
            edge_index=index[:, order],
            edge_shift=shift[order],
            extra={**graph.extra, "edge_distance": distance[order]},
        )

    def _true_distances(self, graph: AtomGraph) -> Tensor:
        """Distances of given edges, in float64, with ``radius + 1`` in slots that are padding.

        A padded slot says atom 0 of the crystal, image 0. It is no real neighbor if it is the
        center itself, too far away, or there twice.
        """
        wide = graph.replace(positions=graph.positions.double(), cell=graph.cell.double())
        distance = wide.edge_vectors().norm(dim=1)
        source, target = graph.edge_index
        first = _first_atoms(graph)[graph.batch[target]]

        # Stored edges do not say which slots are padding: it shows by atom 0, image 0.
        suspect = (source == first) & (graph.edge_shift == 0).all(dim=1)
        number = torch.arange(graph.num_edges, device=source.device)
        none = number.new_full((graph.num_atoms,), graph.num_edges)
        candidate = torch.where(suspect, number, graph.num_edges)
        earliest = none.scatter_reduce(0, target, candidate, "amin")[target]
        outside = distance > self.cutoff + 1e-5
        padding = suspect & ((source == target) | outside | (number != earliest))
        return torch.where(padding, self.cutoff + 1.0, distance)


class Convolution(nn.Module):
    """Eq. 5 with its two batch normalizations."""

    def __init__(self, atom_size: int, edge_size: int) -> None:
        super().__init__()
        self.fc_full = GatedEdges(atom_size, edge_size)
        self.bn1 = nn.BatchNorm1d(2 * atom_size)
        self.bn2 = nn.BatchNorm1d(atom_size)

    def forward(self, atoms: Tensor, edges: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the atoms (N, A) after one exchange with their neighbors."""
        total = gated_sum(self.bn1(self.fc_full(atoms, edges, source, target)), atoms, target)
        return softplus(atoms + self.bn2(total))


def _first_atoms(graph: AtomGraph) -> Tensor:
    """Index of the first atom of every structure, (B,)."""
    count = graph.atoms_per_structure()
    return torch.cumsum(count, 0) - count
