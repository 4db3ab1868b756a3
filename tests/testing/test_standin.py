"""The stand-in accelerator: what it refuses, what it counts, and a search that waits seldom."""

from __future__ import annotations

import copy

import pytest
import torch
from ase.build import bulk, fcc111, molecule

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.predictor import Predictor
from ase_nnp.testing import CHECKS, make_subject, run_check
from ase_nnp.testing.standin import HostTensorError, Standin, is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="this torch has no devices in Python")


def test_a_host_tensor_is_refused_and_a_number_is_not():
    with Standin() as standin:
        x = torch.arange(3.0).to(standin.device)
        assert (x * torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0]
        with pytest.raises(HostTensorError, match=r"test_standin\.py"):
            x + torch.ones(3)
        with pytest.raises(HostTensorError):
            x.numpy()


@pytest.mark.parametrize(
    ("ask", "waits"),
    [
        (lambda x: x.sum(), 0),
        (lambda x: x.sum().item(), 1),
        (lambda x: x[x > 1], 1),
        (lambda x: x.masked_fill(x > 1, 0.0), 0),
        (lambda x: torch.nonzero(x), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.long().repeat_interleave(x.long()), 1),
        (lambda x: x.repeat_interleave(x.long(), output_size=3), 0),
        (lambda x: torch.linalg.inv(torch.diag(x + 1)), 1),
        (lambda x: torch.linalg.inv_ex(torch.diag(x + 1)).inverse, 0),
    ],
)
def test_what_a_gpu_would_be_waited_for_is_counted(ask, waits):
    with Standin() as standin:
        x = torch.arange(3.0).to(standin.device)
        standin.clear()
        ask(x)
        assert standin.waits.total() == waits, standin.waits


@pytest.mark.parametrize(("cap", "most"), [(None, 5), (20, 6)])
def test_a_neighbor_search_on_a_device_waits_no_more_than_it_did(cap, most):
    structures = [bulk("Cu", cubic=True) * 2, fcc111("Cu", (3, 3, 4), 8.0), molecule("CH3OH")]
    host = AtomGraph.from_atoms(structures, 5.0, cap)
    with Standin() as standin:
        graph = AtomGraph.from_atoms(structures, 5.0, cap, device=standin.device)
        assert standin.waits.total() <= most, standin.waits
        assert torch.equal(graph.edge_index.cpu(), host.edge_index)
        assert torch.equal(graph.edge_shift.cpu(), host.edge_shift)


def test_a_model_that_leaves_a_table_on_the_host_is_found():
    subject = make_subject("lj")
    model = subject.model

    def energies(self, graph):
        energy = type(self).__mro__[1].energies(self, graph)
        return energy + torch.ones(graph.num_structures, dtype=energy.dtype)

    model.__class__ = type("Broken", (type(model),), {"energies": energies})
    check = next(c for c in CHECKS if c.name == "runs_on_a_device")
    outcome = run_check(check, subject)
    assert not outcome.ok
    assert "HostTensorError" in outcome.message


def test_a_predictor_gives_the_same_on_the_device():
    subject = make_subject("lj")
    structures = [subject.crystal(), subject.slab(), subject.molecule()]
    here = Predictor(subject.model)(structures)
    with Standin() as standin:
        there = Predictor(copy.deepcopy(subject.model).to(standin.device))(structures)
    for one, two in zip(here, there, strict=True):
        assert two["energy"] == pytest.approx(one["energy"], rel=1e-10)
        assert two["forces"] == pytest.approx(one["forces"], abs=1e-9)


def test_the_rest_of_the_process_draws_random_numbers_as_before():
    with Standin():
        pass
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.random.fork_rng():
        torch.rand(5)
    assert torch.allclose(torch.rand(2), expected)
