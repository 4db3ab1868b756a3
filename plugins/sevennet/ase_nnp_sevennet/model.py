"""SevenNet's network behind our graph and our gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.quiet import quiet
from ase_nnp.models.radial import RadialNetworks, RadialSplines
from ase_nnp.registry.config import changes
from ase_nnp.registry.kinds import check_kinds
from ase_nnp_sevennet import DEFAULTS

__all__ = ["SevenNet"]

#: Kinds of the values that sevenn takes as they are, or loops over.
KINDS: dict[str, Any] = {
    "chemical_species": Sequence[str],
    "cutoff": float,
    **dict.fromkeys(("channel", "lmax", "lmax_edge", "lmax_node", "num_convolution_layer"), int),
    "weight_nn_hidden_neurons": Sequence[int],
    "readout_fcn_hidden_neurons": Sequence[int] | None,  # None in published checkpoints
    **{key: bool for key, usual in DEFAULTS.items() if isinstance(usual, bool)},
    "irreps_manual": bool | Sequence[str],
    "_modal_map": dict,
    "radial_basis": dict,
    "cutoff_function": dict,
    "radial_splines": Sequence[int] | None,
}
NESTED = {"bessel_basis_num": int, "poly_cut_p_value": int, "cutoff_on": float}
#: Where more takes minutes: tensor products are code that is written, one for each layer.
LARGEST = {"lmax": 6, "lmax_edge": 6, "lmax_node": 6, "num_convolution_layer": 20, "channel": 2000}


class OneHot(nn.Module):
    """Indices to one-hot rows in the precision of the edges (the original is always float32)."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.classes: int = original.num_classes
        self.source: str = original.key_x
        targets = (original.key_output, original.key_additional_output)
        self.targets: list[str] = [t for t in targets if t is not None]
        self.kept: str | None = original.key_save

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Write the rows under the names that the original uses."""
        index = data[self.source]
        rows = nn.functional.one_hot(index, self.classes).to(data["edge_vec"].dtype)
        data.update(dict.fromkeys(self.targets, rows))
        if self.kept is not None:
            data[self.kept] = index
        return data


class EdgeSplines(nn.Module):
    """Splines instead of basis and cutoff function; harmonics as they were."""

    def __init__(self, spherical: nn.Module, count: int, intervals: int, cutoff: float) -> None:
        super().__init__()
        self.spherical, self.cutoff = spherical, cutoff
        self.splines = RadialSplines(count, intervals)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Write what the original embedding writes."""
        vectors = data["edge_vec"]
        length = data["edge_length"] = vectors.norm(dim=1)
        data["edge_embedding"] = self.splines(length[:, None], self.cutoff)
        data["edge_attr"] = self.spherical(vectors)
        return data


class SevenNet(Conservative):
    """The network of Park et al., J. Chem. Theory Comput. 20, 4857 (2024).

    Parameters
    ----------
    config
        Hyper-parameters of the family; see :data:`ase_nnp_sevennet.DEFAULTS`. ``modal`` chooses
        the functional of a model trained on several.

    Raises
    ------
    ConfigError
        An unknown element, or a ``modal`` that the model does not have.
    """

    outputs = ("energy", "forces", "stress", "energies")

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        check_kinds("SevenNet", config, KINDS, LARGEST)
        for name in ("radial_basis", "cutoff_function"):
            check_kinds(f"SevenNet's {name}", config[name], NESTED, {"bessel_basis_num": 1000})
        if not config["cutoff"] > 0:
            raise ConfigError(f"cutoff is {config['cutoff']!r}; a radius in Angstrom was wanted.")
        species = list(config["chemical_species"])
        strange = [s for s in species if s not in atomic_numbers]
        if strange or not species:
            raise ConfigError(
                f"chemical_species holds {strange or 'nothing'}; symbols were wanted."
            )
        numbers = [atomic_numbers[s] for s in species]
        self.elements = frozenset(numbers)
        self.cutoff = float(config["cutoff"])
        self.modal = _modal_index(config)
        self.network = build_network(config, dict(zip(numbers, range(len(numbers)), strict=True)))

        if config["radial_splines"] is not None:
            count, intervals = config["radial_splines"]
            use_splines(self.network, count, intervals, self.cutoff)

        # -1 for elements the model was not trained on: they are refused before they get here.
        index = torch.full((119,), -1, dtype=torch.int64)
        index[torch.tensor(numbers)] = torch.arange(len(numbers))
        self.register_buffer("species", index, persistent=False)

    def finish_graph(self, graph: AtomGraph) -> AtomGraph:
        """As the base class, with positions in double precision, also for a float32 model.

        The published code takes differences of positions in double precision and rounds those;
        in a cell of 20 Angstrom the other order costs 1e-5 eV/Angstrom in the forces.
        """
        return graph

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV."""
        vectors = graph.edge_vectors().to(self.dtype)
        data: dict[str, Any] = {
            "x": self.species[graph.atomic_numbers],  # type: ignore[index]
            "edge_vec": vectors,
            "edge_index": graph.edge_index.flip(0),  # there the center comes first
            "batch": graph.batch,
            "num_atoms": graph.batch.new_tensor(graph.num_atoms),
        }
        if self.modal is not None:
            data["modal_type"] = graph.batch.new_full((graph.num_structures,), self.modal)

        for module in self.network.children():
            data = module(data)

        shares = data["atomic_energy"].view(-1)
        # Summed in double precision: the total of a slab has more digits than float32 holds.
        total = shares.new_zeros(graph.num_structures, dtype=torch.float64)
        return {"energy": total.index_add(0, graph.batch, shares.double()), "energies": shares}

    def radial_networks(self) -> RadialNetworks | None:
        """As :meth:`HasRadialNetworks.radial_networks`: one a convolution."""
        embedding: Any = self.network._modules["edge_embedding"]
        if isinstance(embedding, EdgeSplines):
            return None

        def basis(d: Tensor) -> Tensor:
            functions: Tensor = embedding.basis_function(d[:, 0])
            factor: Tensor = embedding.cutoff_function(d[:, 0])
            return functions * factor[:, None]

        named = convolutions(self.network)
        return RadialNetworks(basis, {name: conv.weight_nn for name, conv in named.items()})

    def with_radial_splines(self, pieces: Tensor, matrices: Mapping[str, Tensor]) -> SevenNet:
        """As :meth:`HasRadialNetworks.with_radial_splines`; weight networks become matrices."""
        count, intervals = pieces.shape[2], pieces.shape[0]
        made = deepcopy(self)  # to build one takes seconds
        made.config = {**self.config, "radial_splines": [count, intervals]}
        use_splines(made.network, count, intervals, self.cutoff)

        own = made.to(torch.float64).network.state_dict()
        own["edge_embedding.splines.pieces"].copy_(pieces)
        for name, matrix in matrices.items():
            own[f"{name}.weight_nn.weight"].copy_(matrix.T)
        return made.to(self.dtype).to(self.device)


def convolutions(network: nn.Module) -> dict[str, Any]:
    """Return the parts whose weights are a network of the distance, by name."""
    parts = network.named_children()
    return {name: part for name, part in parts if getattr(part, "weight_nn", None) is not None}


def use_splines(network: nn.Module, count: int, intervals: int, cutoff: float) -> None:
    """Put splines, still zero, where the radial basis and the weight networks were."""
    embedding: Any = network._modules["edge_embedding"]
    network._modules["edge_embedding"] = EdgeSplines(embedding.spherical, count, intervals, cutoff)
    for conv in convolutions(network).values():
        width = conv.convolution.weight_numel
        conv.weight_nn = nn.Linear(count, width, bias=False)


def _modal_index(config: Mapping[str, Any]) -> int | None:
    if not config["use_modality"]:
        if config["modal"] is not None:
            raise ConfigError(f"modal={config['modal']!r}, but this model has one functional only.")
        return None
    known = dict(config["_modal_map"])
    if config["modal"] not in known:
        raise ConfigError(
            f"This model was trained on several functionals; say modal= one of "
            f"{', '.join(map(repr, sorted(known)))}, not {config['modal']!r}."
        )
    return int(known[config["modal"]])


def build_network(config: Mapping[str, Any], type_map: dict[int, int]) -> nn.Module:
    """Return the published network without its own gradients and sums, with fresh weights."""
    with quiet():
        from sevenn.model_build import build_E3_equivariant_model

        full = {k: v for k, v in config.items() if k != "modal"}
        if full["readout_as_fcn"] is False:
            full.pop("readout_fcn_hidden_neurons"), full.pop("readout_fcn_activation")
        full["_type_map"] = type_map
        full["_number_of_species"] = len(type_map)
        full["_number_of_modalities"] = len(config["_modal_map"])
        full["_chemical_species_by_atomic_number"] = list(type_map)
        try:
            network = build_E3_equivariant_model(full)
        except (KeyError, ValueError, RuntimeError, TypeError, AssertionError) as error:
            said = changes(config, DEFAULTS) or "this configuration"
            raise ConfigError(f"sevenn cannot build {said}: {error}.") from error
    for name in ("force_output", "reduce_total_enegy"):  # sic
        network.delete_module_by_key(name)
    for name in ("onehot_idx_to_onehot", "one_hot_modality"):
        if name in network._modules:
            network._modules[name] = OneHot(network._modules[name])
    basis = network._modules["edge_embedding"].basis_function
    if not isinstance(basis.coeffs, nn.Parameter):  # a plain tensor would stay behind in .to()
        raise ConfigError("radial_basis must keep trainable_coeff=True.")
    with torch.no_grad():  # float32 values of n pi / cutoff; checkpoints bring their own
        places = torch.arange(1, len(basis.coeffs) + 1, dtype=basis.coeffs.dtype)
        basis.coeffs.copy_(places * math.pi / float(config["cutoff"]))
    return network  # type: ignore[no-any-return]
