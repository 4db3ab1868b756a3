"""Adsorbates and placements: right compositions, the binding atom down, nothing inside another."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from ase.build import fcc111, fcc211, molecule
from ase.data import covalent_radii
from ase.formula import Formula

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.adsorption import adsorbate, place, sites
from ase_nnp.workflows.adsorption.adsorbate_table import ADSORBATES, LATER


@pytest.fixture
def slab():
    return fcc111("Pt", (3, 3, 4), vacuum=8.0)


def test_the_table_has_the_82_adsorbates_of_oc20():
    assert len(set(ADSORBATES) - LATER) == 82


@pytest.mark.parametrize("name", ADSORBATES)
def test_each_adsorbate_has_the_atoms_of_its_name_and_sane_bonds(name):
    one = adsorbate(name)
    formula = Formula(name.replace("*", "")).count()  # "*OH2" is one oxygen and two hydrogens
    assert one.atoms.symbols.formula.count() == formula
    assert len(one.binding) == name.count("*")
    lengths = one.atoms.get_all_distances()
    radii = covalent_radii[one.atoms.numbers]
    ratio = lengths / (radii[:, None] + radii) + 9 * np.eye(len(radii))
    if len(radii) > 1:
        assert ratio.min() > 0.7
        assert (ratio < 1.2).any(axis=1).all()  # every atom is bonded
    # The binding atoms are in the origin, and nothing hangs deep below them.
    np.testing.assert_allclose(one.atoms.positions[list(one.binding)].mean(axis=0), 0, atol=1e-9)
    assert one.atoms.positions[:, 2].min() > -0.5


def table_of_fairchem():
    path = os.environ.get("FAIRCHEM_ADSORBATES", "")
    if not path or not Path(path).exists():
        pytest.skip("FAIRCHEM_ADSORBATES names no adsorbates.pkl of fairchem-data-oc")
    with open(path, "rb") as file:
        return {entry[1]: entry for entry in pickle.load(file).values()}


def bond_graph(atoms, binding):
    import networkx

    graph = networkx.Graph()
    radii = covalent_radii[atoms.numbers]
    for k, symbol in enumerate(atoms.get_chemical_symbols()):
        graph.add_node(k, what=(symbol, k in binding))
    near = atoms.get_all_distances() < 1.25 * (radii[:, None] + radii)
    graph.add_edges_from((int(i), int(j)) for i, j in np.argwhere(np.triu(near, 1)))
    return graph


@pytest.mark.slow
def test_bonds_and_binding_atoms_are_those_of_fairchem_data_oc():
    import networkx

    theirs = table_of_fairchem()
    assert set(theirs) == set(ADSORBATES)
    for name, entry in theirs.items():
        one = adsorbate(name)
        ours = bond_graph(one.atoms, one.binding)
        other = bond_graph(entry[0], [int(k) for k in np.ravel(entry[2])])
        assert networkx.is_isomorphic(
            ours, other, node_match=lambda a, b: a["what"] == b["what"]
        ), name


def test_carbon_monoxide_binds_by_its_carbon_however_it_is_named():
    for given, binding in (("*CO", None), ("CO", None), (molecule("CO"), [1]), ("*CO", [1])):
        one = adsorbate(given, binding)
        assert one.atoms[one.binding[0]].symbol == "C"
        assert one.atoms.positions[one.atoms.numbers == 8][0, 2] > 1.0


@pytest.mark.parametrize(
    ("name", "symbol"),
    [("CO", "C"), ("NO", "N"), ("CN", "C"), ("HCO", "C"), ("H2COH", "C"), ("CH3O", "O"),
     ("OH", "O"), ("CH3", "C"), ("NO2", "N"), ("CH3OH", "O"), ("NH3", "N"), ("N2", "N")],
)  # fmt: skip
def test_a_molecule_of_ase_binds_by_what_binds_in_oc20(name, symbol):
    # As Atoms, so that no table helps; ASE's own orientation and order must not matter.
    for atoms in (molecule(name), molecule(name)[::-1]):
        one = adsorbate(atoms)
        assert one.atoms[one.binding[0]].symbol == symbol
        assert one.atoms.positions[:, 2].mean() > -1e-6


def test_water_and_ammonia_bind_by_the_atom_with_the_lone_pair():
    for name, symbol in (("H2O", "O"), ("NH3", "N"), ("CH3OH", "O"), ("SH2", "S")):
        one = adsorbate(name)
        assert one.atoms[one.binding[0]].symbol == symbol
        assert one.atoms.positions[:, 2].mean() > 0


def test_a_misspelt_name_is_answered_with_near_ones():
    with pytest.raises(ConfigError, match=r"\*CHOH"):
        adsorbate("*CHOOH2")
    with pytest.raises(StructureError, match="binding"):
        adsorbate(molecule("CO"), [2])


@pytest.mark.parametrize("mode", ["heuristic", "random"])
@pytest.mark.parametrize("name", ["*CO", "*OH", "*CH2*CH2", "*NH2N(CH3)2"])
def test_placements_touch_the_slab_and_nothing_lies_inside_another(slab, mode, name):
    for one in place(slab, name, mode=mode, number=8, seed=3):
        new = np.flatnonzero(one.get_tags() == 2)
        assert len(one) == len(slab) + len(new)
        radii = covalent_radii[one.numbers]
        gaps = one.get_all_distances(mic=True)[new][:, : len(slab)]
        ratios = gaps / (radii[new][:, None] + radii[: len(slab)])
        assert 1.0 < ratios.min() < 1.1
        assert (one.positions[new, 2] > slab.positions[:, 2].max() - 1.0).all()


def test_the_same_seed_gives_the_same_placements_and_another_does_not(slab):
    for mode in ("heuristic", "random"):
        first, again, other = (
            place(slab, "*OH", mode=mode, number=5, seed=seed) for seed in (1, 1, 2)
        )
        for a, b, c in zip(first, again, other, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)
            assert np.abs(a.positions - c.positions).max() > 1e-3


@pytest.mark.parametrize("kind", ["ontop", "bridge", "fcc", "hcp"])
def test_a_named_site_is_where_the_binding_atom_goes(slab, kind):
    site = next(s for s in sites(slab) if s.kind == kind)
    for wanted in (kind, site.name, site, site.position):
        one = place(slab, "*CO", wanted)[0]
        carbon = one.positions[one.numbers == 6][0]
        assert np.linalg.norm(carbon[:2] - np.array(site.position)[:2]) < 0.11
        assert one.positions[one.numbers == 8][0, 2] > carbon[2] + 1.0


def test_several_adsorbates_are_placed_apart_and_into_a_supercell(slab):
    one = place(slab.repeat((2, 1, 1)), ["*CO", "*CO", "*OH"], number=3, seed=5)
    for atoms in one:
        new = np.flatnonzero(atoms.get_tags() == 2)
        assert len(new) == 6
        carbons = [k for k in new if atoms.numbers[k] == 6]
        assert atoms.get_distance(*carbons, mic=True) > 2.4
    with pytest.raises(StructureError, match="no room"):
        place(fcc111("Pt", (1, 1, 3), vacuum=8.0), ["*CH3"] * 4)


def test_a_turned_slab_gets_its_adsorbate_above_its_own_surface():
    slab = fcc211("Pt", (3, 3, 4), vacuum=8.0)
    turned = slab.copy()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    straight, other = (place(s, "*CO", mode="random", seed=4)[0] for s in (slab, turned))
    np.testing.assert_allclose(
        straight.get_all_distances(mic=True), other.get_all_distances(mic=True), atol=1e-6
    )


def test_cells_of_either_hand_have_the_same_surface_and_the_same_fixed_atoms():
    slab = fcc111("Pt", (2, 2, 4), vacuum=8.0)
    plain = place(slab, "*CO", "ontop")[0]
    swapped, below = slab.copy(), slab.copy()
    swapped.set_cell(slab.cell[:][[1, 0, 2]])
    below.set_cell(slab.cell[:] * [[1], [1], [-1]])
    below.positions[:, 2] *= -1
    for other in (swapped, below):
        one = place(other, "*CO", "ontop")[0]
        np.testing.assert_array_equal(one.get_tags(), plain.get_tags())
        np.testing.assert_array_equal(one.constraints[0].index, plain.constraints[0].index)


def test_a_molecule_that_its_box_cuts_is_placed_whole(slab):
    boxed = molecule("CH3OH")
    boxed.positions -= boxed.get_center_of_mass()
    boxed.set_cell([10.0, 10.0, 10.0])
    boxed.pbc = True
    boxed.wrap()
    one, other = adsorbate(boxed), adsorbate(molecule("CH3OH"))
    assert one.binding == other.binding
    np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-9)


@pytest.mark.parametrize(
    "arguments", [{"mode": "best"}, {"number": 0}, {"site": "5-fold"}, {"site": [1.0]}]
)
def test_what_cannot_be_meant_is_refused(slab, arguments):
    with pytest.raises(ConfigError):
        place(slab, "*CO", **arguments)
