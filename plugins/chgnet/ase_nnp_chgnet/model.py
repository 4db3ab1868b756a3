"""CHGNet's layers behind our graph and our gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.quiet import quiet
from ase_nnp_chgnet.bonds import Angles, Bonds, find_angles, pair_edges

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CHGNet"]

#: The 89 elements of MPtrj: up to plutonium without polonium, astatine, radon, francium, radium.
ELEMENTS = frozenset(range(1, 95)) - {84, 85, 86, 87, 88}

#: Sizes without which there is no network, or no magnetic moment.
COUNTS = ("atom_fea_dim", "bond_fea_dim", "angle_fea_dim", "num_radial", "num_angular", "n_conv")
#: Upper end of cutoffs (Angstrom) and of the envelope's exponent.
LARGEST = 100


class CHGNet(Conservative):
    """The network of Deng et al., Nat. Mach. Intell. 5, 1031 (2023), Figure 1.

    Parameters
    ----------
    config
        Hyper-parameters of the family; see :data:`ase_nnp_chgnet.DEFAULTS`.

    Raises
    ------
    ConfigError
        A configuration that the package cannot build, or one whose readout is not a sum of
        atomic energies (``mlp_first=False``).
    """

    outputs = ("energy", "forces", "stress", "energies", "magmoms")
    elements = ELEMENTS
    units = {"magmoms": "Bohr magneton"}  # noqa: RUF012

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        check_numbers(config)
        if not config["mlp_first"]:
            raise ConfigError("mlp_first=False gives no atomic energies; only True can be used.")
        self.cutoff = float(config["atom_graph_cutoff"])
        self.bond_cutoff = float(config["bond_graph_cutoff"])
        self.network = build_network(config)
        self.biased = bool(config["mlp_out_bias"])

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the graph with positions in double precision, also for a float32 model.

        Differences of large numbers are then taken before anything is rounded. Atoms are folded
        into the cell, because the package rounds fractional coordinates to single precision.
        """
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        self.check_elements(structures)
        where = self.device if device is None else device
        return AtomGraph.from_atoms(
            structures, self.cutoff, dtype=torch.float64, device=where, wrap=True, inputs=()
        )

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of the package, under its names."""
        super().load_weights({f"network.{k}": v for k, v in tensors.items()})

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,) in eV, ``magmoms`` (N,) in mu_B."""
        net: Any = self.network
        bonds = pair_edges(graph, self.cutoff)
        vectors = bonds.vectors.to(self.dtype)
        if self.dtype == torch.float32:
            # Values as the package rounds them, gradients of the exact ones: agreement in single
            # precision without giving up ours.
            vectors = vectors + (published_vectors(graph, bonds) - vectors).detach()
        every = vectors.norm(dim=1)
        lengths = every[bonds.first]
        basis = net.bond_basis_expansion.rbf_expansion_ag(lengths)
        short_basis = net.bond_basis_expansion.rbf_expansion_bg(lengths)
        angles = find_angles(bonds, lengths.detach(), self.bond_cutoff, graph.num_atoms)

        atom = net.atom_embedding(graph.atomic_numbers - 1)
        bond = net.bond_embedding(basis)
        weights, short_weights = net.bond_weights_ag(basis), net.bond_weights_bg(short_basis)
        angle = self._angle_features(angles, vectors / every[:, None])
        bent = self._has_angles(graph, bonds, angles)

        for k, layer in enumerate(net.atom_conv_layers):
            if k == len(net.atom_conv_layers) - 1:
                # Before the last convolution, as published (Fig. 1): moments come from features
                # that know bonds and angles.
                magmoms = net.site_wise(atom).abs().view(-1)
            atom = layer(
                atom_feas=atom,
                bond_feas=bond,
                bond_weights=weights,
                atom_graph=bonds.edges,
                directed2undirected=bonds.bond,
            )
            if k == len(net.atom_conv_layers) - 1 or angle is None:
                continue
            if net.bond_conv_layers[k] is not None:
                updated = net.bond_conv_layers[k](
                    atom_feas=atom,
                    bond_feas=bond,
                    bond_weights=short_weights,
                    angle_feas=angle,
                    bond_graph=angles.table,
                )
                bond = updated if bent is None else torch.where(bent, updated, bond)
                if net.angle_layers[k] is not None:
                    angle = net.angle_layers[k](
                        atom_feas=atom, bond_feas=bond, angle_feas=angle, bond_graph=angles.table
                    )
        if net.readout_norm is not None:
            atom = net.readout_norm(atom)
        shares = net.mlp(atom).view(-1).double()
        if net.composition_model is not None:
            shares = shares + net.composition_model.fc.weight[0, graph.atomic_numbers - 1]
        # Summed in double precision: the total of a slab has more digits than float32 holds.
        total = shares.new_zeros(graph.num_structures)
        return {
            "energy": total.index_add(0, graph.batch, shares),
            "energies": shares,
            "magmoms": magmoms,
        }

    def _angle_features(self, angles: Angles, unit: Tensor) -> Tensor | None:
        if len(angles.table) == 0 or not self.config["update_bond"]:
            return None
        net: Any = self.network
        features: Tensor = net.angle_embedding(
            net.angle_basis_expansion(unit[angles.left], unit[angles.right])
        )
        return features

    def _has_angles(self, graph: AtomGraph, bonds: Bonds, angles: Angles) -> Tensor | None:
        """(U, 1): whether a bond's structure has any angle, or None where it does not matter.

        The package skips the bond layers for a structure without angles; with a bias in them
        (0.2.0) that is felt, and must not depend on what shares the batch.
        """
        if not self.biased or graph.num_structures == 1:
            return None

        # The package skips the bond layer of a structure without angles; its bias would count in a
        # batch.
        bent = torch.zeros(graph.num_structures, dtype=torch.bool, device=graph.batch.device)
        bent[graph.batch[angles.table[:, 0]]] = True
        return bent[graph.batch[bonds.edges[bonds.first, 0]]][:, None]


@torch.no_grad()
def published_vectors(graph: AtomGraph, bonds: Bonds) -> Tensor:
    """Return the edge vectors (E, 3) as the package rounds them; gradients stay ours.

    It keeps fractional coordinates in single precision and takes differences of the rounded
    positions, which moves the atoms of a slab by 1e-6 Angstrom and forces by up to 1e-4
    eV/Angstrom. Structures without a full cell, which it does not take, are left as they are.
    """
    center, neighbor = bonds.edges.unbind(1)
    image = bonds.image.float()
    full = torch.linalg.det(graph.cell) != 0
    eye = torch.eye(3, dtype=graph.cell.dtype, device=graph.cell.device)
    cell = torch.where(full[:, None, None], graph.cell, eye)
    inverse = torch.linalg.inv(cell)

    if graph.num_structures == 1:  # one product rounds as theirs does
        places = (graph.positions @ inverse[0]).float() @ cell[0].float()
        offset = image @ cell[0].float()
    else:
        scaled = torch.einsum("nc,ncd->nd", graph.positions, inverse[graph.batch]).float()
        places = torch.einsum("nc,ncd->nd", scaled, cell[graph.batch].float())
        offset = torch.einsum("ec,ecd->ed", image, cell[graph.batch[center]].float())

    edge_vectors = (places[neighbor] + offset) - places[center]
    return torch.where(full[graph.batch[center], None], edge_vectors, bonds.vectors.float())


def check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse numbers with which the package builds a network that cannot answer."""
    for name in COUNTS:
        if not isinstance(config[name], int) or config[name] < 1:
            raise ConfigError(f"{name} must be a whole number above 0, not {config[name]!r}.")
    for name in ("atom_graph_cutoff", "bond_graph_cutoff", "cutoff_coeff"):
        if not 0 < float(config[name]) <= LARGEST:
            raise ConfigError(f"{name} must lie between 0 and {LARGEST}, not {config[name]!r}.")


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Return the published network with fresh weights, without its own graph builder."""
    with quiet():
        from chgnet.model.functions import find_normalization
        from chgnet.model.model import CHGNet as Network

        try:
            # Unknown names are None there, and fail when the network is called.
            for name in ("gMLP_norm", "conv_norm", "readout_norm"):
                if config[name] is not None and find_normalization(config[name], dim=1) is None:
                    raise ConfigError(f"{name} is {config[name]!r}; chgnet knows 'layer', 'batch'.")
            network = Network(**config)
        except (KeyError, ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(f"chgnet cannot build this configuration: {error}.") from error

    # Ours makes the graph; theirs would only be copied and pickled along.
    network.graph_converter = None
    return network  # type: ignore[no-any-return]
