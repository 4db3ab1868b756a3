"""A network of matgl behind our graph and our gradients."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.quiet import quiet
from ase_nnp_matgl.networks import make_network

__all__ = ["MatglPotential"]


class MatglPotential(Conservative):
    """Energy of a matgl network as its package's ``Potential`` scales it.

    ``E = data_std * network + data_mean + sum_i refs[element_i] + repulsion``, in eV.

    Parameters
    ----------
    config
        Hyper-parameters of the family; see :data:`ase_nnp_matgl.DEFAULTS`.

    Raises
    ------
    ConfigError
        A class, argument or element that is unknown, or a model that is no potential.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind: str = config["model"]
        self.network = make_network(self.kind, config["hyperparameters"], config["element_types"])
        symbols = tuple(self.network.element_types)  # type: ignore[arg-type]
        strange = [s for s in symbols if s not in atomic_numbers]
        if strange:
            raise ConfigError(f"element_types holds {strange}; chemical symbols were wanted.")
        self.config = {**config, "element_types": list(symbols)}
        self.cutoff = float(self.network.cutoff)  # type: ignore[arg-type]
        numbers = [atomic_numbers[s] for s in symbols]
        self.elements = frozenset(numbers)
        self.outputs = ("energy", "forces", "stress", *_EXTRAS.get(self.kind, ()))
        self.units = {"magmoms": "Bohr magneton"} if self.kind == "CHGNet" else {}
        self.required_inputs = ("charge",) if self.kind == "QET" else ()

        # matgl numbers elements by their place in its own list.
        place = torch.full((119,), -1, dtype=torch.int64)
        place[torch.tensor(numbers)] = torch.arange(len(numbers))
        self.register_buffer("place", place, persistent=False)
        refs = config["element_refs"]
        values = torch.zeros(len(numbers)) if refs is None else torch.as_tensor(refs)
        values = values.double().reshape(-1)
        if len(values) != len(numbers):
            raise ConfigError(
                f"element_refs has {len(values)} values for {len(numbers)} element_types."
            )
        self.register_buffer("element_refs", values)
        self.register_buffer("data_mean", torch.tensor(float(config["data_mean"])).double())
        self.register_buffer("data_std", torch.tensor(float(config["data_std"])).double())
        self.repulsion = None
        if config["calc_repuls"]:
            with quiet():
                from matgl.layers._zbl import NuclearRepulsion

                self.repulsion = NuclearRepulsion(self.cutoff, trainable=config["zbl_trainable"])
        elif self._sums_over_atoms():  # the repulsion is known by structure only
            self.outputs = (*self.outputs, "energies")

    def _sums_over_atoms(self) -> bool:
        """Whether the energy is the sum of what the last layer gives for each atom."""
        network: Any = self.network
        if self.kind == "CHGNet":
            return bool(network.readout_operation == "sum" and network.readout_field == "atom_feat")
        return not getattr(network, "is_intensive", False)

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) in eV, and ``magmoms`` or ``charges`` (N,) where there are any."""
        vectors = graph.edge_vectors()
        order = torch.argsort(graph.edge_index[1], stable=True)  # matgl lists edges by center
        vectors = vectors[order].to(self.dtype)
        edges = graph.edge_index[:, order].flip(0)  # and puts the center first
        positions = graph.positions.to(self.dtype)
        center, neighbor = edges
        g = SimpleNamespace(
            pos=positions,
            edge_index=edges,
            pbc_offset=graph.edge_shift[order].to(self.dtype),
            # So that position differences plus this are the edge vectors as they are.
            pbc_offshift=vectors - (positions[neighbor] - positions[center]),
            bond_dist=vectors.norm(dim=1),
            node_type=self.place[graph.atomic_numbers],  # type: ignore[index]
            batch=graph.batch,
            num_graphs=graph.num_structures,
            num_nodes=graph.num_atoms,
        )
        raw = self._network_energy(g, graph).reshape(-1)
        refs = self.element_refs[g.node_type].double()  # type: ignore[index]
        total = (self.data_std * raw + self.data_mean).double()  # type: ignore[operator]
        total = total.index_add(0, graph.batch, refs)

        if self.repulsion is not None and graph.num_edges:
            total = total + self._repulsion_energy(g)

        result = {"energy": total}
        if "energies" in self.outputs:
            scale, mean = self.get_buffer("data_std"), self.get_buffer("data_mean")
            shares, mean = (scale * g.shares).double() + refs, mean / graph.atoms_per_structure()
            result["energies"] = shares + mean[graph.batch]

        for name, field in (("magmoms", "magmom"), ("charges", "charge")):
            if name in self.outputs:
                result[name] = getattr(g, field).reshape(graph.num_atoms)
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network out: it may hold functions that cannot be pickled or copied."""
        state = dict(self.__dict__)
        state["_modules"] = {k: m for k, m in state["_modules"].items() if k != "network"}
        learn = [k for k, p in self.network.named_parameters() if p.requires_grad]

        # Some networks of matgl hold lambdas.
        state["_network"] = (self.network.state_dict(), learn)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network again from the configuration and give it its weights."""
        values, learn = state.pop("_network")
        super().__setstate__(state)
        config = self.config
        network = make_network(config["model"], config["hyperparameters"], config["element_types"])
        network.load_state_dict(values, assign=True)
        first = next(network.parameters())
        network.to(device=first.device, dtype=first.dtype).train(self.training)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in learn)
        self.network = network

    def _network_energy(self, g: SimpleNamespace, graph: AtomGraph) -> Tensor:
        network: Any = self.network
        arguments: dict[str, Any] = {"g": g, "state_attr": None}
        if self.kind == "M3GNet":
            arguments["l_g"] = self._triples(g)
        if self.kind == "QET":
            charge = graph.charge
            arguments["total_charge"] = (
                g.pos.new_zeros(g.num_graphs) if charge is None else charge.to(self.dtype)
            )
        rows: list[Tensor] = []

        # The shares of the atoms are summed inside and returned nowhere.
        hook = network.final_layer.register_forward_hook(lambda *call: rows.append(call[2]))
        try:
            energy: Tensor = network(**arguments)
            g.shares = network.feature_dict.get("atomic_energies", rows[-1]).reshape(-1)
            return energy
        finally:
            hook.remove()
            network.feature_dict = {}  # or the whole autograd graph would live on in the model

    def _triples(self, g: SimpleNamespace) -> dict[str, Tensor]:
        from matgl.graph._compute import create_line_graph_torch

        vectors = g.pos[g.edge_index[1]] + g.pbc_offshift - g.pos[g.edge_index[0]]
        lengths = torch.norm(vectors, dim=1)
        cutoff = float(self.network.threebody_cutoff)  # type: ignore[arg-type]
        line_graph: dict[str, Tensor] = create_line_graph_torch(
            g.edge_index, lengths, vectors, g.num_nodes, cutoff
        )
        return line_graph

    def _repulsion_energy(self, g: SimpleNamespace) -> Tensor:
        """Energy (B,); the layer sizes its result by the last atom that has a neighbor."""
        last = int(g.edge_index[0].max()) + 1
        part = SimpleNamespace(**{**vars(g), "batch": g.batch[:last]})
        assert self.repulsion is not None
        energies: Tensor = self.repulsion(self.config["element_types"], part).reshape(-1)
        total = energies.new_zeros(g.num_graphs, dtype=torch.float64)
        total[: len(energies)] = energies.double()
        return total


_EXTRAS = {"CHGNet": ("magmoms",), "QET": ("charges",)}
