"""The models of ``training_steps.py``, ours and their peers, each as a :class:`Program`.

Imported in the worker processes; a peer's environment has no ase_nnp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import escaip
import torch


@dataclass
class Program:
    """What a training loop must know of a model."""

    parameters: list[Any]
    #: From a list of Atoms to what the model takes: the work of data-loader processes.
    prepare: Callable[[list[Any]], Any]
    #: Energies (B,) and forces (N, 3) with their graph.
    forward: Callable[[Any], tuple[Any, Any]]


def ours(family: str, config: Mapping[str, Any], weights: str) -> Program:
    """Our model, whose weights go to a file for the peer; no peer may find half of it."""
    import ase_nnp

    model = ase_nnp.build_model(family, dict(config), seed=0, device="cpu")
    torch.save(model.state_dict(), weights)
    model.train()

    def forward(graph: Any) -> tuple[Any, Any]:
        result = model.compute(graph, ("energy", "forces"))
        return result["energy"], result["forces"]

    return Program(list(model.parameters()), model.make_graph, forward)


def scn_peer(config: Mapping[str, Any], weights: str) -> Program:
    """SCN of fairchem-core 1.10; with ``otf_graph`` it finds its neighbors inside the step."""
    from fairchem.core.datasets import data_list_collater
    from fairchem.core.models.scn.scn import SphericalChannelNetwork
    from fairchem.core.preprocessing import AtomsToGraphs

    own = {k: v for k, v in config.items() if k != "random_training_frames"}
    model = SphericalChannelNetwork(**own).train()
    model.load_state_dict(torch.load(weights))
    inside = bool(config["otf_graph"])
    convert = AtomsToGraphs(
        max_neigh=config["max_num_neighbors"],
        radius=config["cutoff"],
        r_edges=not inside,
        r_pbc=True,
    ).convert

    def prepare(atoms: list[Any]) -> Any:
        return data_list_collater([convert(a) for a in atoms], otf_graph=inside)

    def forward(batch: Any) -> tuple[Any, Any]:
        result = model(batch)
        return result["energy"].flatten(), result["forces"]

    return Program(list(model.parameters()), prepare, forward)


def escaip_peer(config: Mapping[str, Any], weights: str) -> Program:
    """EScAIP of fairchem-core 2.24, which finds its neighbors inside the step."""
    model, heads = escaip.reference_parts(config, weights)
    parameters = [p for part in (model, *heads) for p in part.train().parameters()]
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    def prepare(atoms: list[Any]) -> Any:
        return atomicdata_list_to_batch([AtomicData.from_ase(a) for a in atoms])

    def forward(batch: Any) -> tuple[Any, Any]:
        features, result = model(batch), {}
        for head in heads:
            result.update(head(batch, features))
        return result["energy"].flatten(), result["forces"]

    return Program(parameters, prepare, forward)


def mace_peer(config: Mapping[str, Any], weights: str) -> Program:
    """MACE of mace-torch with fresh weights, and the batches of its own data loader."""
    from mace import data, modules  # before e3nn 0.4.4, which torch 2.6 and later do not import
    from mace.tools import AtomicNumberTable, torch_geometric

    # isort: split
    from e3nn import o3

    torch.manual_seed(0)
    numbers = AtomicNumberTable(config["species"])
    kinds = modules.interaction_classes
    model = modules.ScaleShiftMACE(
        r_max=config["edge_embed"]["r_max"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=kinds["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=kinds["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("48x0e + 48x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=[0.0] * len(numbers),
        avg_num_neighbors=config["avg_num_neighbors"],
        atomic_numbers=numbers.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    ).train()

    def prepare(atoms: list[Any]) -> Any:
        batches = [
            data.AtomicData.from_config(
                data.config_from_atoms(a), z_table=numbers, cutoff=float(model.r_max)
            )
            for a in atoms
        ]
        loader = torch_geometric.dataloader.DataLoader(
            batches, batch_size=len(batches), shuffle=False
        )
        return next(iter(loader))

    def forward(batch: Any) -> tuple[Any, Any]:
        result = model(batch.to_dict(), training=True, compute_force=True)
        return result["energy"], result["forces"]

    return Program(list(model.parameters()), prepare, forward)


def cgcnn_peer(config: Mapping[str, Any], weights: str) -> Program:
    """A network of torch_geometric's CGConv with our sizes; forces are its gradient."""
    from fairchem.core.datasets import data_list_collater
    from fairchem.core.preprocessing import AtomsToGraphs
    from torch import nn
    from torch_geometric.nn import CGConv, global_mean_pool

    torch.manual_seed(0)
    width, full, gaussians = (
        config[k] for k in ("atom_embedding_size", "fc_feat_size", "num_gaussians")
    )
    embed = nn.Embedding(100, width)
    layers = nn.ModuleList(
        CGConv(width, gaussians, batch_norm=True) for _ in range(config["num_graph_conv_layers"])
    )
    head = nn.Sequential(nn.Linear(width, full), nn.Softplus())
    for _ in range(config["num_fc_layers"] - 1):
        head.extend([nn.Linear(full, full), nn.Softplus()])
    head.append(nn.Linear(full, 1))
    offset = torch.linspace(0.0, config["cutoff"], gaussians)
    convert = AtomsToGraphs(
        max_neigh=config["max_neighbors"], radius=config["cutoff"], r_edges=True, r_pbc=True
    ).convert

    def prepare(atoms: list[Any]) -> Any:
        return data_list_collater([convert(a) for a in atoms], otf_graph=False)

    def forward(batch: Any) -> tuple[Any, Any]:
        positions = batch.pos.requires_grad_()
        source, target = batch.edge_index
        shift = torch.einsum(
            "ec,ecd->ed", batch.cell_offsets.float(), batch.cell[batch.batch[target]]
        )
        distance = (positions[source] + shift - positions[target]).norm(dim=1)
        edges = torch.exp(-0.5 * ((distance[:, None] - offset) / offset[1]) ** 2)
        x = embed(batch.atomic_numbers.long())
        for layer in layers:
            x = layer(x, batch.edge_index, edges)
        energy = head(global_mean_pool(x, batch.batch))[:, 0]
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, -gradient

    parameters = [p for part in (embed, layers, head) for p in part.parameters()]
    return Program(parameters, prepare, forward)


PEERS = {"cgcnn_oc20": cgcnn_peer, "scn": scn_peer, "escaip": escaip_peer, "facet": mace_peer}
