"""What training compares: graphs that hold the labels, and losses of what a model makes of them."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from torch.nn import functional as F

from ase_nnp import AtomGraph


def graphs_of(model, frames: list[Atoms]) -> list[AtomGraph]:
    """Graphs with what is to be learned in ``extra``; a stress that is not there is NaN."""
    graphs = []
    for atoms in frames:
        results = atoms.calc.results
        stress = np.full(6, np.nan)
        if atoms.pbc.all() and "stress" in results:
            stress = np.asarray(results["stress"]).reshape(-1)
        xx, yy, zz, yz, xz, xy = stress
        full = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        own = results.get("energies", np.full(len(atoms), np.nan))
        graph = model.make_graph(atoms)
        extra = {
            "energy": torch.tensor([results["energy"]], dtype=torch.float64),
            "forces": torch.tensor(np.asarray(results["forces"]), dtype=model.dtype),
            "stress": torch.tensor(full[None], dtype=model.dtype),
            "energies": torch.tensor(own, dtype=torch.float64),
        }
        graphs.append(graph.replace(extra=extra))

    return graphs


def near_l1(found: torch.Tensor, wanted: torch.Tensor, bend: float) -> torch.Tensor:
    """Mean absolute error, quadratic below ``bend``; the few violent frames do not rule."""
    return F.huber_loss(found, wanted, delta=bend) / bend


def loss_of(
    model, batch: AtomGraph, energy_weight: float, atom_weight: float = 0.0
) -> torch.Tensor:
    """Losses of energies an atom, of the atoms' energies, force components and stresses."""
    known = torch.isfinite(batch.extra["stress"]).flatten(1).all(1)
    wanted = ("energy", "forces", "stress") if known.any() else ("energy", "forces")
    out = model.compute(batch, wanted)
    wrong = (out["energy"] - batch.extra["energy"]) / batch.atoms_per_structure()
    loss = energy_weight * near_l1(wrong, torch.zeros_like(wrong), 0.01)
    loss = loss + near_l1(out["forces"], batch.extra["forces"], 0.03)
    if atom_weight:
        own = torch.isfinite(batch.extra["energies"])
        part = near_l1(out["energies"][own], batch.extra["energies"][own], 0.02)
        loss = loss + atom_weight * torch.nan_to_num(part)
    if known.any():
        # A strain of 0.2 % makes some 0.002 eV/A^3, of which a few per cent matter.
        part = near_l1(out["stress"][known], batch.extra["stress"][known], 0.0005)
        loss = loss + 20 * part * known.float().mean()
    return loss


def errors(model, graphs: list[AtomGraph], size: int = 16) -> list[float]:
    """Mean absolute errors: energy in meV an atom, force components in meV/Angstrom."""
    energy, force = [], []
    training = model.training
    model.eval()
    for i in range(0, len(graphs), size):
        batch = AtomGraph.collate(graphs[i : i + size])
        out = model.compute(batch, ("energy", "forces"))
        wrong = (out["energy"] - batch.extra["energy"]) / batch.atoms_per_structure()
        energy.append(wrong.detach().abs())
        force.append((out["forces"] - batch.extra["forces"]).detach().abs().flatten())
    model.train(training)
    return [round(1e3 * float(torch.cat(x).mean()), 2) for x in (energy, force)]
