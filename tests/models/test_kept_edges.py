"""A list that is kept from step to step gives the graph that a fresh search would give."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_nnp import list_models
from ase_nnp.errors import StructureError
from ase_nnp.models.kept_edges import KeptList
from ase_nnp.testing import make_subject

FAMILIES = ("cgcnn", "facet", "escaip", "scn", "sevennet", "lj")


def same_graph(found, expected):
    assert found.positions.dtype == expected.positions.dtype
    np.testing.assert_array_equal(found.edge_index, expected.edge_index)
    np.testing.assert_array_equal(found.edge_shift, expected.edge_shift)
    for name in ("positions", "cell"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)
    assert found.extra.keys() == expected.extra.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_list_gives_the_graph_of_a_fresh_search(family):
    if family not in list_models():
        pytest.skip(f"{family} is not installed")
    model = make_subject(family).model
    if not model.plain_search:
        pytest.skip(f"{family} searches in a way of its own")
    numbers = sorted(model.elements or {29})
    atoms = bulk("Cu", "fcc", a=4.0, cubic=True) * (2, 1, 1)
    atoms.numbers[:] = numbers[len(numbers) // 2]
    atoms.rattle(0.1, seed=1)

    kept, rng = KeptList(model), np.random.default_rng(2)
    for _ in range(4):
        same_graph(kept.graph(atoms), model.make_graph(atoms))
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        atoms.set_cell(atoms.cell[:] * 1.002, scale_atoms=True)
    assert kept.searches == 1

    # Over the edge of the cell, and further than half the skin.
    atoms.positions += (3.9, 0.0, 0.0)
    same_graph(kept.graph(atoms), model.make_graph(atoms))
    atoms.positions[0, 0] += 2.1
    same_graph(kept.graph(atoms), model.make_graph(atoms))
    assert kept.searches > 1


def test_another_structure_is_searched():
    kept = KeptList(make_subject("lj").model)
    atoms = bulk("Cu", cubic=True)
    changed = [atoms.copy() for _ in range(3)]
    changed[0].numbers[0] = 47
    changed[1].pbc[2] = False
    changed[2].set_cell(atoms.cell[:] * 0.8, scale_atoms=True)
    for searches, one in enumerate([atoms, *changed], start=1):
        kept.graph(one)
        assert kept.searches == searches
    kept.graph(bulk("Cu"))
    assert kept.searches == 5


def test_atoms_that_come_to_the_same_place_are_refused():
    kept = KeptList(make_subject("lj").model)
    atoms = Atoms("Ar2", [(0, 0, 0), (0, 0, 0.3)])
    kept.graph(atoms)
    atoms.positions[1, 2] = 0.001
    kept.graph(atoms)
    with pytest.raises(StructureError, match="same place"):
        kept.check()


@pytest.mark.parametrize("periodic", [False, True])
def test_parts_far_from_each_other_are_brought_nearer_as_in_a_fresh_search(periodic):
    kept = KeptList(make_subject("lj").model)
    atoms = Atoms("Ar4", [(0, 0, 0), (0, 0, 3.5), (9.5, 0, 3000), (0.3, 0, 3003)])
    if periodic:
        atoms.set_cell((10, 10, 9000))
        atoms.pbc = True
    rng = np.random.default_rng(1)
    for step in range(4):
        graph, fresh = kept.graph(atoms), kept.model.make_graph(atoms)
        np.testing.assert_array_equal(graph.edge_index, fresh.edge_index)
        np.testing.assert_allclose(graph.edge_vectors(), fresh.edge_vectors(), atol=1e-5)
        assert graph.positions.abs().max() < 100
        atoms.positions += rng.normal(scale=0.05, size=(4, 3))
        if periodic:
            atoms.set_cell(atoms.cell[:] * (1.0 + 0.001 * step), scale_atoms=True)
    assert kept.searches == 1
