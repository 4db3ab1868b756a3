"""Structures far from the origin, spread far apart, or in cells that hardly are one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT

import ase_nnp
from ase_nnp import AtomGraph, NNPCalculator
from ase_nnp.errors import StructureError
from ase_nnp.models.lattice import search_lattice

BACKENDS = ("vesin", "torch")


def slab(pbc: tuple[bool, bool, bool] = (True, True, False)) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    atoms.rattle(0.05, seed=3)
    atoms.pbc = pbc
    return atoms


def water() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=4)
    return atoms


@pytest.fixture(scope="module")
def calc():
    return NNPCalculator(uncertainty=False, device="cpu")


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("pbc", [(True, True, False), (True, True, True), (True, False, False)])
def test_atoms_moved_by_whole_cells_feel_the_same_in_single_precision(calc, pbc, distance):
    atoms = slab(pbc)
    forces = calc.get_property("forces", atoms)
    moved = atoms.copy()
    moved.positions[1::3] += int(distance / atoms.cell.lengths()[0]) * atoms.cell[0]
    if pbc[1]:
        moved.positions[::4] -= int(distance / atoms.cell.lengths()[1]) * atoms.cell[1]
    assert np.abs(calc.get_property("forces", moved) - forces).max() < 1e-5


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
@pytest.mark.parametrize(
    "atoms", [slab(), slab((False,) * 3), water(), bulk("NaCl", "rocksalt", 5)]
)
def test_a_structure_feels_the_same_wherever_it_is(calc, atoms, distance):
    if "Na" in atoms.symbols:
        atoms.numbers[:] = 29, 8
        atoms.positions[1] += 0.2
    energy, forces = (calc.get_property(p, atoms) for p in ("energy", "forces"))
    moved = atoms.copy()
    moved.positions += np.array([0.7, -0.6, 0.4]) * distance
    assert np.abs(calc.get_property("forces", moved) - forces).max() < 1e-5
    assert calc.get_property("energy", moved) == pytest.approx(energy, abs=1e-5)


@pytest.mark.parametrize("far", [1e3, 6e5, 1e8])
def test_fragments_far_apart_are_what_they_are_alone(calc, far):
    one, two = water(), slab((False,) * 3)
    both = one.copy()
    both += two
    both.positions[len(one) :] += (far, 0.3 * far, 0)
    energy = calc.get_property("energy", one) + calc.get_property("energy", two)
    forces = np.concatenate([calc.get_property("forces", a) for a in (one, two)])
    assert calc.get_property("energy", both) == pytest.approx(energy, abs=1e-4)
    assert np.abs(calc.get_property("forces", both) - forces).max() < 1e-5


@pytest.mark.parametrize("height", [1e3, 6e5, 1e7, 1e12])
def test_a_slab_under_any_amount_of_vacuum_is_the_same_slab(calc, height):
    atoms = slab((True, True, True))
    energy, forces = (calc.get_property(p, atoms) for p in ("energy", "forces"))
    high = atoms.copy()
    high.cell[2, 2] = height
    answers = ase_nnp.predict(calc.model, [atoms, high, atoms], progress=False)
    for answer in answers:
        assert answer["energy"] == pytest.approx(energy, abs=1e-4)
        assert np.abs(answer["forces"] - forces).max() < 1e-5
    if height > 1e9:
        return
    high.positions[:6, 2] += height  # the lower half leaves through the top
    assert np.abs(calc.get_property("forces", high) - forces).max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "spread", [(6e5, 0, 0), (1e4, 1e4, 0), (1e7, 0, 1e7), (1e8, 1e8, 1e8), (0, 3e6, 0)]
)
def test_pairs_are_found_however_large_the_box_around_them_is(backend, spread):
    pair = Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]])
    both = pair.copy()
    both += pair
    both.positions[2:] += spread
    graph = AtomGraph.from_atoms(both, 6.0, backend=backend, dtype=torch.float64)
    assert sorted(graph.edge_index.T.tolist()) == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert torch.allclose(graph.edge_vectors().norm(dim=1), torch.tensor(2.5).double(), atol=1e-7)


def test_a_sheet_of_many_boxes_is_searched():
    x, y = np.meshgrid(np.arange(250) * 2.0, np.arange(250) * 2.0)
    sheet = Atoms("Cu62500", positions=np.stack([x, y, 0 * x], -1).reshape(-1, 3))
    sheet.set_cell([500, 500, 1])
    sheet.pbc = (True, True, False)
    graph = AtomGraph.from_atoms(sheet, 2.1)
    assert graph.num_edges == 4 * len(sheet)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pbc", [(True,) * 3, (True, False, False), (False, True, True)])
@pytest.mark.parametrize("edge", [0.04, 1e-4])
def test_a_cell_with_too_many_images_is_refused_and_the_others_are_answered(backend, edge, pbc):
    tiny = Atoms("Cu", cell=[edge] * 3, pbc=pbc)
    if np.prod([6.0 / edge if p else 1 for p in pbc]) < 1e4:
        graph = AtomGraph.from_atoms(tiny, 6.0, backend=backend)
        assert graph.num_edges == 2 * int(6.0 / edge + 1e-9)
        return
    with pytest.raises(StructureError, match=r"as short as .* neighbors within 6 Angstrom"):
        AtomGraph.from_atoms(tiny, 6.0, backend=backend)
    with pytest.raises(StructureError, match="Structure 1"):
        ase_nnp.predict(ase_nnp.build_model("facet", seed=0), [bulk("Cu"), tiny])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("times", [60, 1000])
def test_a_skewed_cell_has_the_neighbors_of_the_same_lattice_unskewed(backend, times):
    plain = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    skewed = plain.copy()
    skewed.cell[1] += times * skewed.cell[0]
    skewed.cell[2] -= times * plain.cell[1]
    one, two = (
        AtomGraph.from_atoms(a, 5.0, backend=backend, dtype=torch.float64) for a in (plain, skewed)
    )
    assert one.num_edges == two.num_edges
    lengths = [g.edge_vectors().norm(dim=1).sort().values for g in (one, two)]
    assert torch.allclose(*lengths, atol=1e-6)


def test_flat_vectors_along_which_nothing_is_periodic_have_no_meaning(calc):
    atoms = molecule("CH3OH")
    energy = calc.get_property("energy", atoms)
    for cell in (
        [[5, 0, 0], [10, 0, 0], [0, 0, 5]],
        [[5, 0, 0]] * 3,
        [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
    ):
        atoms.set_cell(cell)
        assert calc.get_property("energy", atoms) == pytest.approx(energy, abs=1e-5)
    sheet = slab()
    energy = calc.get_property("energy", sheet)
    sheet.cell[2] = sheet.cell[0] + sheet.cell[1]
    assert calc.get_property("energy", sheet) == pytest.approx(energy, abs=1e-5)
    sheet.pbc = True
    with pytest.raises(StructureError, match="linearly dependent"):
        calc.get_property("energy", sheet)


def test_positions_beyond_what_a_double_resolves_are_refused():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] += 1e12
    with pytest.raises(StructureError, match="double precision"):
        AtomGraph.from_atoms(atoms, 5.0)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
def test_many_atoms_in_a_large_cell_are_no_reason_to_refuse(pbc):
    positions = np.random.default_rng(0).uniform(0, 230, (1_000_000, 3))
    cell, made_of = search_lattice(positions, 230 * np.eye(3), np.array(pbc), 6.0)
    assert np.allclose(cell, 230 * np.eye(3))
    assert made_of is None


def test_a_short_cell_of_a_light_crystal_is_no_reason_to_refuse():
    hydrogen = Atoms("H", cell=[0.9] * 3, pbc=True)
    cell, made_of = search_lattice(hydrogen.positions, hydrogen.cell.array, hydrogen.pbc, 12.0)
    assert made_of is None or np.allclose(made_of @ hydrogen.cell.array, cell)


def test_the_model_of_ase_in_single_precision_is_ases_own_far_away():
    atoms = slab()
    atoms.positions += 1e5
    atoms.symbols[-1] = "Cu"
    model = ase_nnp.from_ase(EMT)
    assert np.allclose(
        ase_nnp.predict(model, [atoms])[0]["forces"], EMT().get_property("forces", atoms), atol=1e-8
    )
