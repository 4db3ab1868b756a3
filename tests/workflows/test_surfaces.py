"""Sites and vacuum, on structures whose names ASE gives."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc100, fcc111, molecule

from ase_nnp.workflows.surfaces import (
    adsorption_site,
    clean_slab,
    vacuum_gaps,
    whole_molecule,
    whole_slab,
)

SITES_111 = {"ontop": "top", "bridge": "bridge", "fcc": "fcc hollow", "hcp": "hcp hollow"}


def with_oxygen(slab, site, height):
    add_adsorbate(slab, "O", height, site)
    return slab


@pytest.mark.parametrize(("site", "name"), SITES_111.items())
def test_sites_of_a_111_surface_get_ases_names(site, name):
    atoms = with_oxygen(fcc111("Cu", (2, 2, 4), vacuum=8.0), site, 1.9 if site == "ontop" else 1.3)
    assert adsorption_site(atoms).name == name


@pytest.mark.parametrize(
    ("site", "name"), [("ontop", "top"), ("bridge", "bridge"), ("hollow", "4-fold hollow")]
)
def test_sites_of_a_100_surface(site, name):
    atoms = with_oxygen(fcc100("Pd", (2, 2, 3), vacuum=8.0), site, 1.9 if site == "ontop" else 1.2)
    assert adsorption_site(atoms).name == name


def test_a_site_across_the_cells_edge_is_the_same_site():
    atoms = with_oxygen(fcc111("Cu", (2, 2, 4), vacuum=8.0), "fcc", 1.3)
    atoms.positions += [0.3, -2.0, 0.0]
    atoms.wrap()
    assert adsorption_site(atoms).name == "fcc hollow"


def test_a_site_is_found_on_a_slab_that_the_border_of_its_cell_cuts():
    atoms = with_oxygen(fcc111("Cu", (2, 2, 4), vacuum=8.0), "fcc", 1.3)
    atoms.pbc = True
    atoms.positions[:, 2] -= atoms.positions[:, 2].min() + 3.0
    atoms.wrap()
    assert clean_slab(atoms)[1] == [len(atoms) - 1]
    assert adsorption_site(atoms).name == "fcc hollow"


@pytest.mark.parametrize("down", [0.01, 3.0, 5.5])
def test_a_cut_slab_is_put_together_by_cell_vectors(down):
    slab = fcc111("Pt", (2, 2, 4), vacuum=8.0, periodic=True)
    cut = slab.copy()
    cut.positions[:, 2] -= cut.positions[:, 2].min() + down
    lowered = cut.positions[:, 2].copy()
    cut.wrap()
    whole = whole_slab(cut)
    np.testing.assert_allclose(np.ptp(whole.positions[:, 2]), np.ptp(slab.positions[:, 2]))
    shift = whole.positions[:, 2] - lowered
    np.testing.assert_allclose(shift, shift[0], atol=1e-9)
    cells = np.linalg.solve(slab.cell[:].T, (whole.positions - cut.positions).T)
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-9)


def test_what_is_whole_stays_where_it_is():
    high = fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True)
    high.positions[:, 2] += 50.0
    floating = with_oxygen(fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True), "fcc", 9.5)
    open_above = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    open_above.positions[:4, 2] -= 20.0
    for atoms in (high, floating, open_above):
        np.testing.assert_array_equal(whole_slab(atoms).positions, atoms.positions)


def test_a_cut_molecule_is_put_together():
    chain = molecule("trans-butane")
    boxed = chain.copy()
    boxed.set_cell([5.5, 6.0, 6.5])  # narrower than twice the chain
    boxed.pbc = True
    boxed.wrap()
    assert np.abs(boxed.get_all_distances() - chain.get_all_distances()).max() > 2.0
    whole = whole_molecule(boxed)
    np.testing.assert_allclose(whole.get_all_distances(), chain.get_all_distances(), atol=1e-9)


def test_the_bound_atom_of_a_molecule_counts_and_the_slab_is_left_without_it():
    atoms = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    bare = atoms.copy()
    carbon_down = molecule("CO")  # ASE has the oxygen above
    carbon = carbon_down.symbols.index("C")
    add_adsorbate(atoms, carbon_down, 1.85, "ontop", mol_index=carbon)
    site = adsorption_site(atoms)
    assert (site.name, atoms.symbols[site.atom]) == ("top", "C")
    slab, guests = clean_slab(atoms)
    np.testing.assert_array_equal(slab.positions, bare.positions)
    assert sorted(atoms.symbols[guests]) == ["C", "O"]


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu", cubic=True),
        bulk("MgO", "rocksalt", a=4.2, cubic=True),
        fcc111("Cu", (2, 2, 3), vacuum=8.0),
        molecule("CH3OH", vacuum=5.0),
    ],
    ids=["metal", "oxide", "clean slab", "molecule"],
)
def test_what_is_no_adsorbate_on_a_slab_has_no_site(atoms):
    assert clean_slab(atoms) is None
    assert adsorption_site(atoms) is None


def test_a_molecule_far_above_the_slab_sits_nowhere():
    assert adsorption_site(with_oxygen(fcc111("Cu", (2, 2, 4), vacuum=12.0), "fcc", 5.0)) is None


def test_the_vacuum_of_a_slab_is_its_width():
    slab = fcc111("Cu", (1, 1, 3), vacuum=7.0, periodic=True)
    assert vacuum_gaps(slab)[2] == pytest.approx(14.0)
    slab.positions[:, 2] += 20.0  # across the boundary
    assert vacuum_gaps(slab)[2] == pytest.approx(14.0)
    slab.pbc[2] = False
    assert vacuum_gaps(slab)[2] == 0.0
    assert max(vacuum_gaps(bulk("Cu", cubic=True))) == pytest.approx(3.61 / 2)
