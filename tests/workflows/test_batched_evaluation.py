"""Micro-batches, neighbor lists and monitors of batched runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from mixed_structures import mixed, slab

import ase_nnp
from ase_nnp.models.conservative import Conservative
from ase_nnp.workflows.batched import relax_many


@pytest.fixture(scope="module")
def model():
    return ase_nnp.build_model("lj", config={}).to(torch.float64)


class Doubtful(Conservative):
    """Pairs with springs, and a doubt that grows with the length of the longest edge."""

    cutoff = 5.0
    outputs = ("energy", "forces", "forces_std_norm")
    per_atom = Conservative.per_atom | {"forces_std_norm"}

    def energies(self, graph):
        r = graph.edge_vectors().norm(dim=-1)
        center = graph.batch[graph.edge_index[1]]
        return r.new_zeros(graph.num_structures).index_add(0, center, (r - 2.0) ** 2)

    def compute(self, graph, properties):
        results = super().compute(graph, properties)
        r = graph.edge_vectors().norm(dim=-1).detach()
        doubt = r.new_zeros(graph.num_atoms).scatter_reduce(0, graph.edge_index[1], r, "amax")
        return {**results, "forces_std_norm": (doubt - 2.0).abs()}


def test_the_monitor_stops_one_structure_and_flags_in_another_mode():
    model = Doubtful().to(torch.float64)
    calm, wild = (Atoms("Cu2", positions=[[0, 0, 0], [d, 0, 0]]) for d in (2.1, 3.5))
    watch = {"key": "forces_std_norm", "threshold": 0.5, "mode": "stop"}
    outcomes = relax_many(model, [calm, wild], steps=100, fmax=0.01, monitor=watch)
    assert [o.status for o in outcomes] == ["converged", "stopped"]
    assert outcomes[1].steps == 0
    assert outcomes[1].events[0]["value"] == pytest.approx(1.5)
    assert "forces_std_norm = 1.5 exceeds 0.5 at step 0" in outcomes[1].reason
    assert outcomes[1].atoms.calc.results["forces_std_norm"].shape == (2,)
    flagged = relax_many(
        model, [calm, wild], steps=100, fmax=0.01, monitor={**watch, "mode": "flag"}
    )
    assert [o.status for o in flagged] == ["converged", "converged"]
    assert [len(o.events) for o in flagged] == [0, 1]


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(model):
    class Small(Conservative):
        """A device on which three structures are too many, and gold is too large."""

        cutoff = 6.0
        most = 0

        def energies(self, graph):
            if graph.num_structures > 2 or bool((graph.atomic_numbers == 79).any()):
                raise torch.OutOfMemoryError("too much")
            self.most = max(self.most, graph.num_structures)
            return model.energies(graph)

    small = Small().to(torch.float64)
    gold = Atoms("Au2", positions=[[0, 0, 0], [2.5, 0, 0]])
    structures = [*(mixed()[k] for k in (1, 2, 4, 1, 2, 4)), gold]
    expected = relax_many(model, structures[:6], steps=20)
    outcomes = relax_many(small, structures, steps=20, batch=10**6)
    for one, other in zip(outcomes[:6], expected, strict=True):
        assert one.status == other.status
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-9)
    assert small.most == 2
    assert (outcomes[6].status, "too large" in outcomes[6].reason) == ("failed", True)


def test_an_ensemble_gets_its_lists_with_a_skin(model):
    from ase_nnp import uncertainty as uq
    from ase_nnp.workflows.batched.evaluate import Evaluator
    from ase_nnp.workflows.batched.state import Batch

    members = [ase_nnp.build_model("lj", config={"epsilon": e}) for e in (0.38, 0.4, 0.42)]
    ensemble = uq.fit("ensemble", [m.to(torch.float64) for m in members])
    evaluator = Evaluator(ensemble, ["forces_std_norm"])
    atoms = [slab(2, 1), mixed()[1]]
    batch = Batch.of(atoms, [0, 1])
    for _ in range(3):
        answer = evaluator(batch)
        batch.positions += 0.01
    assert evaluator.neighbors.searches == 2
    assert answer.failed == {}
    one = atoms[0].copy()
    one.positions += 0.02
    one.calc = ase_nnp.NNPCalculator(ensemble)
    np.testing.assert_allclose(answer.forces[: len(one)], one.get_forces(False), atol=1e-9)
    np.testing.assert_allclose(
        answer.extra["forces_std_norm"][: len(one)], one.calc.results["forces_std_norm"], atol=1e-9
    )


def test_batches_are_not_tried_where_one_structure_takes_long():
    from ase_nnp.models.batch_size import LONG, BatchSizeTuner

    quick, slow = BatchSizeTuner([0, 20_000]), BatchSizeTuner([0, 20_000])
    for tuner, seconds in ((quick, 0.5 * LONG), (slow, 2 * LONG)):
        tuner.note(5.0, structures=4)  # the first call compiles, caches, ...
        tuner.note(seconds * 4, structures=4)
    assert quick.measuring
    assert not slow.measuring
    assert slow.budget == 0
