"""Parts of the recipe of the shipped model that would go wrong in silence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ase.build import add_adsorbate, fcc111, molecule

import ase_nnp
from ase_nnp_facet.layers import LayerNorm

sys.path.append(str(Path(__file__).resolve().parents[3] / "data" / "shipped"))

import train
import widen
from train_losses import graphs_of, loss_of

SMALL = {
    "species": [6, 8, 29],
    "hidden_irreps": ["6x0e + 4x1o + 2x2e"] * 2,
    "outs_per_node": 4,  # fewer than scalars, as what is carried over would reach new ones
    "self_connection": {"polynomial": {"channels": 4}},
}


def co_on_copper():
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    atoms.rattle(0.05, seed=1)
    return atoms


def small(**changes):
    return ase_nnp.build_model("facet", SMALL | changes, seed=1, device="cpu", dtype="float64")


def test_new_channels_change_nothing_but_what_the_norms_see(monkeypatch):
    """A norm sees all channels of an atom; with a fixed factor the energy stays to rounding."""

    def scaled(self, blocks):
        scales = self._scales()
        return {k: 0.1 * block * scales[k] for k, block in blocks.items()}

    monkeypatch.setattr(LayerNorm, "forward", scaled)
    old = small().train()  # the plain pass, which calls forward
    new = small(hidden_irreps=["9x0e + 6x1o + 3x2e"] * 2).train()
    before = dict(new.state_dict())
    with torch.no_grad():
        new.load_weights(widen.widened(old, new))
        graph = old.make_graph(co_on_copper())
        energy, wider = (m.energies(graph)["energies"] for m in (old, new))
    assert energy.std() > 1e-3
    torch.testing.assert_close(wider, energy, rtol=1e-9, atol=1e-9)
    assert set(new.state_dict()) == set(before)


def test_processes_share_a_batch_without_loss_and_evenly():
    model = small()
    sizes = [1, 1, 2, 3, 2, 2, 1, 3, 2, 1]
    graphs = [model.make_graph(fcc111("Cu", (n, 1, 1), vacuum=6.0)) for n in sizes]
    parts = [train.own_part(graphs, rank, 2) for rank in range(2)]
    assert sorted(g.num_atoms for part in parts for g in part) == sorted(sizes)
    first, second = (sum(g.num_atoms for g in part) for part in parts)
    assert abs(first - second) <= 2


def test_energies_of_atoms_are_learned_where_they_are_known():
    from ase.calculators.singlepoint import SinglePointCalculator

    model = small().train()
    atoms = co_on_copper()
    atoms.calc = SinglePointCalculator(atoms, energy=-30.0, forces=atoms.positions * 0.0)
    (unknown,) = graphs_of(model, [atoms])
    plain = float(loss_of(model, unknown, 1.0).detach())
    assert float(loss_of(model, unknown, 1.0, 5.0).detach()) == pytest.approx(plain)

    own = model.energies(unknown)["energies"].detach()
    atoms.calc.results["energies"] = (own + 0.1).numpy()
    (known,) = graphs_of(model, [atoms])
    # All are 0.1 eV apart: 0.1 - 0.02 / 2 in the unit in which forces count one.
    part = float(loss_of(model, known, 1.0, 5.0).detach()) - plain
    assert part == pytest.approx(5.0 * 0.09)
