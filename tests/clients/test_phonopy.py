"""phonopy: forces of displaced supercells, force constants, frequencies, thermal properties."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
phonopy = pytest.importorskip("phonopy", reason="needs phonopy")


def phonons(calc):
    """What phonopy's own documentation does with an ASE calculator."""
    from phonopy.structure.atoms import PhonopyAtoms

    copper = bulk("Cu", "fcc", a=3.58)
    cell = PhonopyAtoms(symbols=["Cu"], cell=copper.cell, scaled_positions=[[0, 0, 0]])
    phonon = phonopy.Phonopy(cell, supercell_matrix=np.diag([3, 3, 3]), primitive_matrix="auto")
    phonon.generate_displacements(distance=0.01)

    forces = []
    for displaced in phonon.supercells_with_displacements:
        atoms = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell)
        atoms.pbc = True
        atoms.calc = calc
        forces.append(atoms.get_forces())

    phonon.forces = forces
    phonon.produce_force_constants()
    return phonon


def test_frequencies_and_thermal_properties_are_those_of_ases_calculator(calculators):
    ours, reference = (phonons(make()) for make in calculators)
    for phonon in (ours, reference):
        phonon.run_mesh([6, 6, 6], is_mesh_symmetry=False)
        phonon.run_thermal_properties(t_min=0, t_max=600, t_step=100)

    constants = reference.force_constants
    assert np.abs(constants).max() > 1  # eV/A^2
    np.testing.assert_allclose(ours.force_constants, constants, atol=1e-6)
    frequencies = reference.mesh.frequencies
    assert frequencies.max() > 3  # THz
    np.testing.assert_allclose(ours.mesh.frequencies, frequencies, atol=1e-4)

    thermal, expected = ours.get_thermal_properties_dict(), reference.get_thermal_properties_dict()
    for name in ("free_energy", "entropy", "heat_capacity"):
        np.testing.assert_allclose(thermal[name], expected[name], rtol=1e-4, atol=1e-6)
