"""CGCNN as the OC20 baseline: energies of slabs with adsorbates, forces by differentiation.

Chanussot et al. 2021, arXiv:2010.09990, Sec. 5. Against the 2018 model: all neighbors within 6
Angstrom, at most 50; Gaussians one spacing wide; a layer normalization in the place of the second
batch normalization; a deeper network after the mean over atoms. That mean makes the energy
intensive although it stands for the whole slab.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn
from torch.nn.functional import softplus

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.long_range import MESSAGES, long_range_block

from .elements import MAX_Z, NUM_FEATURES, element_features
from .layers import GatedEdges, check_sizes, gated_sum, head, mean_over_atoms, with_batch_counters
from .scaling import oc20_scales

__all__ = ["AdsorptionModel", "from_config"]


def from_config(config: Mapping[str, Any]) -> AdsorptionModel:
    """Build the model of a configuration; ConfigError where it contradicts itself."""
    keys = dict(config)
    if keys.pop("embeddings") != "khot":
        raise ConfigError(
            f"embeddings is {config['embeddings']!r}; only 'khot', the table of the "
            "published models, is here."
        )
    constructor = keys.pop("constructor") or {}

    # OC20's trainer handed the sizes of an older constructor beside the model's own.
    gaussians = constructor.get("bond_feat_dim", keys["num_gaussians"])
    if gaussians != keys["num_gaussians"]:
        raise ConfigError(
            f"bond_feat_dim is {gaussians} and num_gaussians {keys['num_gaussians']}; "
            "they must be equal."
        )
    if constructor.get("num_targets", 1) != 1:
        raise ConfigError(
            f"num_targets is {constructor['num_targets']}; a potential has one target, the energy."
        )
    return AdsorptionModel(**keys)


class AdsorptionModel(Conservative):
    """Adsorption energy with its forces (S2EF), or the relaxed adsorption energy (IS2RE).

    Parameters
    ----------
    atom_embedding_size, num_graph_conv_layers
        Width of atoms and number of convolutions.
    fc_feat_size, num_fc_layers
        Width and number of the layers after pooling.
    cutoff, num_gaussians, max_neighbors
        Neighbors within ``cutoff`` (Angstrom), at most so many nearest; Gaussians from 0 to
        ``cutoff``.
    regress_forces
        False for IS2RE models, which give an energy only.
    use_pbc
        False: no periodic images at all.
    pbc
        Lattice vectors along which a structure that is periodic there has images. The published
        models were trained without images along the third: that matters in a cell without vacuum.
    normalizer
        ``{"target": {"mean", "std"}, "grad_target": {"mean", "std"}}`` in eV and eV/Angstrom, or
        just ``{"mean", "std"}``. Without one the network's number is the energy in eV.
    long_range
        ``{"kind": "ewald" | "neural_atoms", ...}``: a block of :mod:`ase_nnp.models.long_range`
        after each convolution.
    """

    energy_kind = "adsorption"
    elements = frozenset(range(1, MAX_Z + 1))
    outputs: tuple[str, ...] = Conservative.outputs
    features: Tensor

    def __init__(
        self,
        *,
        atom_embedding_size: int,
        num_graph_conv_layers: int,
        fc_feat_size: int,
        num_fc_layers: int,
        cutoff: float,
        num_gaussians: int,
        max_neighbors: int | None,
        regress_forces: bool,
        use_pbc: bool,
        pbc: Sequence[bool],
        normalizer: Mapping[str, Any] | None,
        long_range: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            atom_embedding_size=atom_embedding_size,
            num_graph_conv_layers=num_graph_conv_layers,
            fc_feat_size=fc_feat_size,
            num_fc_layers=num_fc_layers,
            cutoff=cutoff,
            num_gaussians=num_gaussians,
            max_neighbors=1 if max_neighbors is None else max_neighbors,
        )
        self.cutoff, self.max_neighbors = float(cutoff), max_neighbors
        flags = np.array(pbc, dtype=bool) & bool(use_pbc)
        if flags.shape != (3,):
            raise ConfigError(f"pbc must be three booleans, not {pbc!r}.")
        self.images = tuple(map(bool, flags))
        self.energy_reference = "clean slab and gas-phase N2, H2O, CO, H2 (OC20)"
        if not regress_forces:
            self.outputs = ("energy",)
            self.energy_reference += "; of the relaxed structure, from the initial one"
        self._set_scale(oc20_scales(normalizer))

        if num_gaussians < 2:
            raise ConfigError("num_gaussians must be 2 or more: their spacing is their width.")
        offset = torch.linspace(0.0, cutoff, num_gaussians)

        # Of the rounded offsets, as published: exact ones differ in the last digits.
        self.steepness = -0.5 / float(offset[1] - offset[0]) ** 2
        self.distance_expansion = Offsets(offset)
        features = torch.from_numpy(element_features())
        self.register_buffer("features", features, persistent=False)
        size = atom_embedding_size
        self.embedding_fc = nn.Linear(NUM_FEATURES, size)
        self.convs = nn.ModuleList(
            Convolution(size, num_gaussians) for _ in range(num_graph_conv_layers)
        )
        if dict(long_range or {}).get("kind") == "charges":
            raise ConfigError("An energy that is a mean over atoms takes no long_range 'charges'.")
        blocks = [long_range_block(long_range, size, MESSAGES) for _ in self.convs]
        self.messages = nn.ModuleList(block for block in blocks if block is not None)
        self.conv_to_fc = nn.Sequential(nn.Linear(size, fc_feat_size), nn.Softplus())
        self.fcs = nn.Sequential()
        for _ in range(num_fc_layers - 1):
            self.fcs.extend([nn.Linear(fc_feat_size, fc_feat_size), nn.Softplus()])
        self.fc_out = nn.Linear(fc_feat_size, 1)

    def _set_scale(self, scales: Mapping[str, Mapping[str, float]]) -> None:
        energy = scales.get("target", {"mean": 0.0, "std": 1.0})
        self.mean, self.std = energy["mean"], energy["std"]
        # The published forces are the gradient of the normalized energy times a scale of their own.
        self.force_scale = scales.get("grad_target", energy)["std"] / self.std
        if self.force_scale != 1.0:
            self.conservative = False
            self.outputs = tuple(name for name in self.outputs if name != "stress")

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; an adsorption energy has no energies of free atoms."""
        if any(references.values()):
            raise ConfigError("This energy is a mean over atoms: it takes no reference energies.")
        normalizer = {"target": {"mean": mean, "std": energy}}
        self._set_scale(oc20_scales(normalizer))
        self.config = {**self.config, "normalizer": normalizer}

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """As the base class, with periodic images along :attr:`images` only."""
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)

        # The search leaves images out, the structure stays periodic: error bars and stress ask the
        # flags.
        flags = np.array([one.pbc for one in structures])
        graph = super().make_graph([self._searched(one) for one in structures], device)
        return graph.replace(pbc=torch.from_numpy(flags).to(graph.pbc.device))

    def _searched(self, atoms: Atoms) -> Atoms:
        """The structure without the images that the model does not see."""
        if not (atoms.pbc & ~np.array(self.images)).any():
            return atoms
        less: Atoms = atoms.copy()
        less.pbc = atoms.pbc & np.array(self.images)
        return less

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """As the base class, with the forces on their own scale where a checkpoint has one."""
        results = super().compute(graph, properties)
        if self.force_scale != 1.0 and "forces" in results:
            results["forces"] = results["forces"] * self.force_scale
        return results

    def energies(self, graph: AtomGraph) -> Tensor:
        """Return the energy of each structure, (B,) eV."""
        distance = graph.edge_vectors().norm(dim=1)
        offset = self.distance_expansion.offset
        edges = torch.exp(self.steepness * (distance[:, None] - offset) ** 2)
        source, target = graph.edge_index
        atoms = self.embedding_fc(self.features[graph.atomic_numbers])
        for number, convolution in enumerate(self.convs):
            atoms = convolution(atoms, edges, source, target)
            if len(self.messages):
                atoms = self.messages[number](graph, atoms)
        layers = (m for m in (*self.conv_to_fc, *self.fcs, self.fc_out) if isinstance(m, nn.Linear))
        raw = head(layers, mean_over_atoms(atoms, graph))[:, 0]
        return (raw * self.std + self.mean).to(self.fc_out.weight.dtype)

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """As the base class; the batch counters may be missing."""
        super().load_weights(with_batch_counters(self, tensors))


class Offsets(nn.Module):
    """Centers of the Gaussians, (n,) Angstrom; part of the published weights."""

    offset: Tensor

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("offset", offset)


class Convolution(nn.Module):
    """One exchange of messages, gated as in Eq. 5 of arXiv:1710.10324."""

    def __init__(self, atom_size: int, edge_size: int) -> None:
        super().__init__()
        self.lin1 = GatedEdges(atom_size, edge_size)
        self.bn1 = nn.BatchNorm1d(2 * atom_size)
        self.ln1 = nn.LayerNorm(atom_size)

    def forward(self, atoms: Tensor, edges: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return the atoms (N, A) after one exchange with their neighbors."""
        total = gated_sum(self.bn1(self.lin1(atoms, edges, source, target)), atoms, target)
        return softplus(self.ln1(total) + atoms)
