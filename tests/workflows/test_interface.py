"""Interfaces: density, contacts, tags, seeds; and the four structures of a solvation energy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.units import _amu
from scipy.optimize import check_grad

from ase_nnp import from_ase, open_dataset
from ase_nnp.errors import StructureError
from ase_nnp.metrics import solvation_energy
from ase_nnp.uncertainty.methods.ensemble import DeepEnsemble
from ase_nnp.workflows.interface import _Problem, interface
from ase_nnp.workflows.solvation import solvation, solvation_parts


def molecules_of(atoms):
    """Owner of every atom by what was placed: solid 0, adsorbate 1, then solvent by bonds."""
    from ase.neighborlist import natural_cutoffs, neighbor_list
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    liquid = np.flatnonzero(atoms.get_tags() == 3)
    part = atoms[liquid]
    i, j = neighbor_list("ij", part, natural_cutoffs(part, mult=1.1))
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(part), len(part)))
    owner = np.where(atoms.get_tags() == 2, 1, 0)
    owner[liquid] = 2 + connected_components(graph, directed=False)[1]
    return owner


def smallest_margin(atoms):
    """Smallest distance of atoms of different molecules, less the sum of their covalent radii."""
    owner = molecules_of(atoms)
    distances = atoms.get_all_distances(mic=True)
    radii = covalent_radii[atoms.numbers]
    margin = distances - radii[:, None] - radii[None]
    return margin[owner[:, None] != owner[None]].min()


def liquid_density(atoms):
    """Mass of the solvent over the space between the slab's covalent radii, g/cm^3."""
    solid = atoms[atoms.get_tags() < 2]
    radius = covalent_radii[solid.numbers]
    z = solid.positions[:, 2]
    free = atoms.cell[2, 2] - ((z + radius).max() - (z - radius).min())
    area = np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1]))
    mass = atoms[atoms.get_tags() == 3].get_masses().sum() * _amu * 1e3
    return mass / (area * free * 1e-24)


@pytest.mark.parametrize("make", [fcc111, fcc100])
@pytest.mark.parametrize("seed", [0, 5])
def test_water_on_copper_has_its_density_and_no_contacts(make, seed):
    slab = make("Cu", (3, 3, 3), vacuum=5.0)
    slab.set_constraint(FixAtoms(range(9)))
    filled = interface(slab, "water", seed=seed)
    assert liquid_density(filled) == pytest.approx(0.997, rel=0.02)
    assert smallest_margin(filled) > 0
    liquid = filled[filled.get_tags() == 3]
    water = liquid.get_chemical_symbols().count("O")
    assert water > 10
    assert liquid.get_chemical_symbols().count("H") == 2 * water
    # Molecules stay rigid: every oxygen keeps two hydrogen atoms at ASE's bond length.
    bonds = np.sort(liquid.get_all_distances(), axis=1)[np.array(liquid.numbers) == 8, 1:3]
    assert bonds == pytest.approx(0.9686, abs=1e-3)
    assert filled.constraints[0].index.tolist() == list(range(9))
    assert filled.get_tags()[:27].tolist() == [0] * 18 + [1] * 9


def test_the_same_seed_gives_the_same_interface_and_another_another():
    slab = fcc111("Cu", (3, 3, 3), vacuum=5.0)
    first, again = (interface(slab, "water", thickness=6.0, seed=3) for _ in range(2))
    np.testing.assert_allclose(first.positions, again.positions, atol=1e-8)
    other = interface(slab, "water", thickness=6.0, seed=4)
    assert np.abs(first.positions - other.positions).max() > 0.5


def test_ions_adsorbate_and_vacuum_have_their_places():
    slab = fcc111("Pt", (3, 3, 3), vacuum=5.0)
    filled = interface(
        slab, "methanol", ions=["Li", "OH"], adsorbate="CO", thickness=8.0, vacuum=9.0, seed=1
    )
    tags = filled.get_tags()
    assert filled[tags == 2].get_chemical_formula() == "CO"
    assert filled.info["ions"] == ["Li", "OH"]
    assert filled.get_chemical_symbols().count("Li") == 1
    # The adsorbate stands at the sum of the radii; all others keep farther away.
    assert smallest_margin(filled) > -1e-9
    assert filled.cell[2, 2] - filled.positions[:, 2].max() > 8.5
    carbon = filled[np.flatnonzero(tags == 2)[0]]
    assert carbon.z > filled.positions[tags == 1, 2].max() + 1.5


def test_an_adsorbate_of_the_slab_is_kept():
    slab = fcc111("Cu", (3, 3, 2), vacuum=5.0)
    add_adsorbate(slab, Atoms("O", tags=[2]), 1.2, "fcc")
    filled = interface(slab, "water", thickness=6.0)
    assert filled[filled.get_tags() == 2].get_chemical_formula() == "O"
    assert (filled.get_tags()[:18] < 2).all()


def test_where_borders_cut_slab_and_molecule_changes_nothing():
    slab = fcc111("Cu", (3, 3, 3), vacuum=5.0, periodic=True)
    cut = slab.copy()
    cut.positions[:, 2] -= cut.positions[:, 2].min() + 1.0
    cut.wrap()
    water = molecule("H2O")
    water.positions -= water.get_center_of_mass()
    boxed = water.copy()
    boxed.set_cell([9.0, 9.0, 9.0])
    boxed.pbc = True
    boxed.wrap()
    one = interface(slab, water, density=0.997, thickness=6.0)
    other = interface(cut, boxed, density=0.997, thickness=6.0)
    np.testing.assert_array_equal(other.get_tags(), one.get_tags())
    np.testing.assert_allclose(other.cell[2, 2], one.cell[2, 2])
    assert smallest_margin(other) > -0.05


def test_the_gradient_of_a_packing_is_that_of_its_overlap():
    rng = np.random.default_rng(0)
    local = rng.normal(size=(6, 3))
    cell = np.array([[6.0, 0, 0], [3.0, 5.2, 0], [0, 0, 9.0]])
    problem = _Problem(
        local,
        np.repeat([0, 1], 3),
        rng.random((4, 3)) @ cell,
        cell,
        np.full((6, 10), 2.5),
        2.0,
        7.0,
    )
    x = np.concatenate([(rng.random((2, 3)) @ cell).ravel(), rng.uniform(0, 6, 6)])
    value, slope = problem(x)
    assert value > 0
    error = check_grad(lambda y: problem(y)[0], lambda y: problem(y)[1], x, epsilon=1e-6)
    assert error < 1e-4 * np.linalg.norm(slope)


@pytest.mark.parametrize(
    "options",
    [
        {"solvent": "nectar"},
        {"solvent": "water", "density": -1.0},
        {"solvent": "water", "thickness": 0.0},
        {"solvent": "water", "density": 30.0, "thickness": 4.0},
        {"solvent": Atoms("O")},
    ],
)
def test_what_cannot_be_filled_is_refused(options):
    with pytest.raises(StructureError):
        interface(fcc111("Cu", (2, 2, 2), vacuum=4.0), **options)


def test_a_slab_without_a_plane_is_refused():
    with pytest.raises(StructureError):
        interface(Atoms("Cu"), "water")


class PairEnergy(Calculator):
    """A sum over pairs, scaled: members of an ensemble that differ by a factor."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        distances = atoms.get_all_distances(mic=True)
        pairs = np.exp(-distances[np.triu_indices(len(atoms), 1)])
        energy = self.scale * float(pairs.sum()) - 3.0 * len(atoms)
        self.results = {"energy": energy, "forces": np.zeros((len(atoms), 3))}


@pytest.fixture(scope="module")
def snapshot():
    slab = fcc111("Cu", (3, 3, 2), vacuum=5.0)
    return interface(slab, "water", adsorbate="CO", thickness=6.0, seed=2)


def test_a_snapshot_falls_into_its_four_structures(snapshot):
    parts = solvation_parts(snapshot)
    tags = snapshot.get_tags()
    sizes = {name: len(atoms) for name, atoms in parts.items()}
    assert sizes == {
        "full": len(tags),
        "solvent_surface": int((tags != 2).sum()),
        "adsorbate_surface": int((tags != 3).sum()),
        "surface": int((tags < 2).sum()),
    }
    with pytest.raises(StructureError, match="adsorbate"):
        solvation_parts(snapshot[tags != 2])


def test_the_interval_of_a_solvation_energy_is_that_of_its_members(snapshot):
    models = [from_ase(PairEnergy(scale)) for scale in (0.9, 1.0, 1.2)]
    result = solvation(snapshot, DeepEnsemble(models))
    single = []
    for model in models:
        one = solvation(snapshot, model)
        assert one.interval() is None
        single.append(float(one))
    assert float(result) == pytest.approx(np.mean(single), abs=1e-6)
    # Offsets an atom cancel; what is left differs by each member's factor.
    assert result.energy.std == pytest.approx(np.std(single, ddof=1), rel=1e-4)
    low, high = result.interval()
    assert low < float(result) < high
    assert json.loads(json.dumps(result.as_dict()))["interval_90"] == [low, high]


def test_stored_snapshots_give_the_stored_solvation_energies(shared):
    folder = shared / "datasets" / "oc25_solvation"
    expected = json.loads((folder / "expected.json").read_text())["rows"][1]
    dataset = open_dataset(folder / "solvation.aselmdb")
    parts = [a for a in dataset if a.info["identifier"] == expected["identifier"]]
    full = next(a for a in parts if a.info["part"] == "randsh0")

    # The parts cut here are the stored ones, and the stored energies give the stored answer.
    stored = {a.info["part"]: a for a in parts}
    for name, atoms in solvation_parts(full).items():
        other = stored["randsh0" + ("" if name == "full" else f"_{name}")]
        np.testing.assert_allclose(atoms.positions, other.positions, atol=1e-6)
        assert atoms.get_chemical_formula() == other.get_chemical_formula()
    energies = {name: a.get_potential_energy() for name, a in stored.items()}
    answer = solvation_energy(energies)["solvation_energy"]
    assert answer == pytest.approx(expected["solvation_energy"], abs=1e-6)
