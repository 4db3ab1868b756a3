"""Sites: the counts and places of ASE's own slabs, and what may not change them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bcc110, bulk, fcc100, fcc110, fcc111, fcc211, hcp0001

from ase_nnp.errors import StructureError
from ase_nnp.workflows.adsorption import sites, surface, surfaces
from ase_nnp.workflows.adsorption.fingerprints import distances_to_slab
from ase_nnp.workflows.adsorption.layers import surface_atoms
from ase_nnp.workflows.adsorption.surface_sites import every_site

# What ase.build names on each face; (built-in slab, metal).
FACES = {
    "fcc111": (fcc111, "Pt", {"ontop", "bridge", "fcc", "hcp"}),
    "fcc100": (fcc100, "Pt", {"ontop", "bridge", "hollow"}),
    "fcc110": (fcc110, "Pt", {"ontop", "longbridge", "shortbridge", "hollow"}),
    "bcc110": (bcc110, "Mo", {"ontop", "longbridge", "shortbridge", "hollow"}),
    "hcp0001": (hcp0001, "Ru", {"ontop", "bridge", "fcc", "hcp"}),
}


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    # Importing a submodule sets the package's attribute to it, whatever the name stood for.
    import types

    from ase_nnp.workflows import adsorption

    submodules = {path.stem for path in Path(adsorption.__file__).parent.glob("*.py")}
    assert not submodules & set(adsorption.__all__)
    for name in adsorption.__all__:
        assert not isinstance(getattr(adsorption, name), types.ModuleType)


def kinds(slab):
    return sorted((s.kind, s.symbols, s.step) for s in sites(slab))


@pytest.mark.parametrize("face", FACES)
def test_sites_are_those_of_ase_by_name_and_within_a_twentieth_of_an_angstrom(face):
    build, metal, names = FACES[face]
    slab = build(metal, (3, 3, 4), vacuum=8.0)
    distinct = sites(slab)
    assert {s.kind for s in distinct} == names
    assert len(distinct) == len(names)

    # ASE gives fractions of its surface cell, counted from an atom of the top layer.
    cell = np.array(slab.info["adsorbate_info"]["cell"])
    origin = slab.positions[slab.get_tags() == 1][0, :2]
    for name, place in slab.info["adsorbate_info"]["sites"].items():
        ours = [np.array(s.position)[:2] for s in every_site(slab)]
        fractions = (ours - origin - np.array(place) @ cell) @ np.linalg.inv(cell)
        gaps = np.linalg.norm((fractions - np.round(fractions)) @ cell, axis=1)
        base = {"longbridge": "bridge", "shortbridge": "bridge"}.get(name, name)
        assert gaps.min() < 0.05
        assert list(every_site(slab))[int(gaps.argmin())].kind == base


@pytest.mark.parametrize("face", FACES)
def test_a_supercell_a_rotation_and_another_order_have_the_same_sites(face):
    build, metal, names = FACES[face]
    slab = build(metal, (2, 2, 3), vacuum=8.0)
    expected = kinds(slab)
    assert len(expected) == len(names)
    assert kinds(build(metal, (1, 1, 3), vacuum=8.0)) == expected
    assert kinds(slab.repeat((3, 2, 1))) == expected

    turned = slab.copy()
    turned.rotate(77, (1, 2, 3), rotate_cell=True)
    assert kinds(turned) == expected
    order = np.random.default_rng(0).permutation(len(slab))
    assert kinds(slab[order]) == expected
    shifted = slab.copy()
    shifted.positions += (0.7, 1.9, 0.0)
    shifted.wrap(pbc=(True, True, False))
    assert kinds(shifted) == expected


def test_where_the_border_of_the_cell_lies_changes_no_site():
    slab = fcc111("Pt", (2, 2, 4), vacuum=8.0, periodic=True)
    expected = kinds(slab)
    cut = slab.copy()
    cut.positions[:, 2] -= cut.positions[:, 2].min() + 3.0
    cut.wrap()
    assert kinds(cut) == expected
    scattered = slab.copy()
    scattered.positions[::2] += 3 * slab.cell[0] - slab.cell[1]
    assert kinds(scattered) == expected


def test_small_displacements_of_a_relaxed_slab_make_no_new_kinds():
    slab = fcc111("Pt", (3, 3, 4), vacuum=8.0)
    slab.rattle(0.005, seed=1)
    assert len(sites(slab)) == 4


def test_multiplicities_are_those_of_the_plane_group():
    # p3m1 of fcc(111): a site of each kind an atom, three bridges an atom.
    counts = {s.kind: s.multiplicity for s in sites(fcc111("Cu", (3, 3, 3), vacuum=8.0))}
    assert counts == {"ontop": 9, "bridge": 27, "fcc": 9, "hcp": 9}


def test_an_ordered_alloy_has_the_sites_of_its_two_elements():
    # L1_2 Cu3Pt(111): a Cu and a Pt on top, Cu-Cu and Cu-Pt bridges, and hollows of two kinds.
    crystal = bulk("Cu", cubic=True, a=3.7)
    crystal.symbols[0] = "Pt"
    names = {s.name for s in sites(surface(crystal, (1, 1, 1)))}
    assert {"ontop Cu", "ontop Pt", "bridge Cu2", "bridge CuPt"} <= names
    assert {"fcc hollow Cu2Pt", "hcp hollow Cu2Pt", "fcc hollow Cu3", "hcp hollow Cu3"} <= names


def test_a_stepped_surface_names_its_edge():
    names = [s.name for s in sites(fcc211("Pt", (3, 3, 4), vacuum=8.0))]
    assert names.count("step edge ontop Pt") == 1
    assert names.count("step edge bridge Pt2") == 1
    assert "4-fold hollow Pt4" in names  # the square below the edge
    assert not any(s.step for s in sites(fcc111("Pt", (2, 2, 3), vacuum=8.0)))


@pytest.mark.parametrize("what", ["molecule", "no cell", "chain"])
def test_what_is_no_slab_is_refused(what):
    atoms = {
        "molecule": Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]),
        "no cell": Atoms("Cu", pbc=True),
        "chain": Atoms("Cu", cell=[3, 10, 10], pbc=[True, False, False]),
    }[what]
    with pytest.raises(StructureError, match="slab is periodic"):
        sites(atoms)


def finder_of_pymatgen(slab, kinds=("ontop", "bridge")):
    """Places (S, 3) of pymatgen's own finder, which is told the same surface atoms."""
    from pymatgen.analysis.adsorption import AdsorbateSiteFinder
    from pymatgen.core.surface import Slab
    from pymatgen.io.ase import AseAtomsAdaptor

    plain = slab.copy()
    plain.info, plain.constraints = {}, []
    structure = AseAtomsAdaptor.get_structure(plain)
    top = set(surface_atoms(slab)[0].tolist())
    said = ["surface" if k in top else "subsurface" for k in range(len(slab))]
    as_slab = Slab(
        structure.lattice, structure.species, structure.frac_coords, (0, 0, 1), structure, 0, None,
        site_properties={"surface_properties": said},
    )  # fmt: skip
    places = AdsorbateSiteFinder(as_slab).find_adsorption_sites(distance=0.0, positions=kinds)
    return np.array([place for kind in kinds for place in places[kind]])


def gaps_between(slab, ours, theirs):
    """Largest difference (O, T) of any distance to slab atoms, places compared at one height."""
    ours, theirs = np.array(ours), np.array(theirs)
    level = slab.positions[:, 2].max() + 1.5
    ours[:, 2] = theirs[:, 2] = level
    one, other = distances_to_slab(ours, slab), distances_to_slab(theirs, slab)
    return np.abs(one[:, None] - other[None]).max(axis=2)


CRYSTALS = ["Cu3Pt 111", "CuZn 110", "NaCl-like MgO 100", "CuAu 100"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pymatgen of spglib
@pytest.mark.parametrize("name", CRYSTALS)
def test_ontop_and_bridge_sites_of_alloys_and_oxides_are_those_of_pymatgen(name):
    pytest.importorskip("pymatgen")
    if name.startswith("Cu3Pt"):
        crystal = bulk("Cu", cubic=True, a=3.7)
        crystal.symbols[0] = "Pt"
        plane = (1, 1, 1)
    elif name.startswith("CuZn"):
        crystal, plane = bulk("CuZn", "cesiumchloride", a=2.95), (1, 1, 0)
    elif name.startswith("CuAu"):
        crystal = bulk("Cu", cubic=True, a=3.85)
        crystal.symbols[[0, 1]] = "Au"
        plane = (1, 0, 0)
    else:
        crystal, plane = bulk("MgO", "rocksalt", a=4.21), (1, 0, 0)
    slab = surface(crystal, plane)
    distinct = sites(slab)
    theirs = finder_of_pymatgen(slab)
    ours = [s.position for s in distinct if s.kind == "ontop" or "bridge" in s.kind]
    assert gaps_between(slab, ours, theirs).min(axis=1).max() < 0.05
    # And theirs are ours: a bridge over the diagonal of a square is the hollow of the square.
    every = [s.position for s in distinct]
    assert gaps_between(slab, every, theirs).min(axis=0).max() < 0.05


def test_fcc_has_six_planes_up_to_miller_index_two():
    slabs = surfaces("Pt", 2)
    planes = {s.info["miller"] for s in slabs}
    assert planes == {(1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 0), (2, 1, 1), (2, 2, 1)}
    assert len(slabs) == 6  # one termination each


def test_slabs_carry_oc20_tags_fixed_atoms_and_a_lasting_id(tmp_path):
    slab = surface("Pt", (1, 1, 1), layers=4)
    assert len(slab) == 36
    assert slab.get_tags().tolist().count(1) == 9  # one layer of a 3 x 3 cell
    assert sorted(slab.constraints[0].index) == np.flatnonzero(slab.get_tags() == 0).tolist()
    assert min(np.linalg.norm(slab.cell[:2], axis=1)) >= 8.0
    assert slab.info["miller"] == (1, 1, 1)

    # The same crystal from a file, as a supercell and turned has the same id.
    path = tmp_path / "Pt.cif"
    bulk("Pt").write(path)
    assert surface(str(path), (1, 1, 1), layers=4).info["slab_id"] == slab.info["slab_id"]
    turned = bulk("Pt", cubic=True).repeat(2)
    turned.rotate(30, (1, 1, 0), rotate_cell=True)
    assert surface(turned, (1, 1, 1), layers=4).info["slab_id"] == slab.info["slab_id"]
    assert surface("Pd", (1, 1, 1), layers=4).info["slab_id"] != slab.info["slab_id"]


def test_a_pymatgen_structure_is_a_crystal_too():
    structures = pytest.importorskip("pymatgen.core")
    lattice = structures.Lattice.cubic(3.92)
    crystal = structures.Structure.from_spacegroup("Fm-3m", lattice, ["Pt"], [[0, 0, 0]])
    expected = surface("Pt", (1, 0, 0), layers=4)
    assert surface(crystal, (1, 0, 0), layers=4).info["slab_id"] == expected.info["slab_id"]


def test_a_cut_between_unlike_layers_is_shown_from_both_sides():
    crystal = bulk("GaAs", "zincblende", a=5.65)
    slabs = [s for s in surfaces(crystal, 1) if s.info["miller"] == (1, 1, 1)]
    tops = {s[int(s.positions[:, 2].argmax())].symbol for s in slabs}
    assert tops == {"Ga", "As"}
    assert {s.info["top"] for s in slabs} == {True, False}
    assert len({s.info["slab_id"] for s in slabs}) == len(slabs)
