"""Potentials small enough to know the answer for."""

from __future__ import annotations

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch import nn

from ase_nnp.models.conservative import Conservative
from ase_nnp.models.potential import Potential


class Pair(Conservative):
    """Energies linear in Gaussians of the distance, or with a hidden layer between."""

    cutoff = 4.0

    def __init__(self, width=6, hidden=0, seed=0, dropout=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("centers", torch.linspace(0.8, 3.5, width))
        inner = [nn.Linear(width, hidden), nn.Tanh()] if hidden else []
        self.hidden = nn.Sequential(*inner, nn.Dropout(dropout))
        self.readout = nn.Linear(hidden or width, 1, bias=False)

    def features(self, graph):
        r = graph.edge_vectors().norm(dim=-1, keepdim=True)
        x = torch.exp(-2 * (r - self.centers) ** 2) * (1 - (r / self.cutoff) ** 2) ** 3
        x = x.new_zeros(graph.num_atoms, x.shape[1]).index_add(0, graph.edge_index[1], x)
        return self.hidden(x * (1 + 0.1 * graph.atomic_numbers[:, None].to(x)))

    def energies(self, graph):
        per_atom = self.readout(self.features(graph))[:, 0]
        return per_atom.new_zeros(graph.num_structures).index_add(0, graph.batch, per_atom)


class Direct(Potential):
    """Forces that are no gradient, from the same features."""

    outputs = ("energy", "forces")
    cutoff = 4.0

    def __init__(self, seed=0):
        super().__init__()
        self.pair = Pair(seed=seed)

    def forward(self, graph):
        r = graph.edge_vectors()
        weight = torch.exp(-r.norm(dim=-1, keepdim=True)) * self.pair.readout.weight.sum()
        forces = torch.zeros_like(graph.positions).index_add(0, graph.edge_index[1], weight * r)
        return {"energy": self.pair.energies(graph), "forces": forces}


def molecules(count, seed=0, size=5, numbers=(1, 6, 8), spread=0.25):
    """Random clusters without atoms on top of each other."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.tensor([[i % 2, i // 2 % 2, i // 4] for i in range(size)]).double() * 1.4
    out = []
    for _ in range(count):
        shift = spread * torch.randn(size, 3, generator=generator, dtype=torch.float64)
        kinds = [numbers[i % len(numbers)] for i in range(size)]
        out.append(Atoms(kinds, positions=(base + shift).numpy()))
    return out


def label(structures, model, noise=0.0, seed=0):
    """Attach the model's own energies and forces, with Gaussian noise."""
    from ase_nnp.models.predictor import predict

    generator = torch.Generator().manual_seed(seed)

    def jitter(*shape):
        return noise * torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()

    for atoms, results in zip(structures, predict(model, structures), strict=True):
        energy = results["energy"] + float(jitter(1)[0])
        forces = results["forces"] + jitter(len(atoms), 3)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return structures
