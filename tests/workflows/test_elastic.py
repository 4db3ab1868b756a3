"""Elastic constants against second differences of the energy and relations of theory."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.units import GPa

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.elastic import VOIGT, ElasticConstants, elastic_constants


def from_energies(atoms, calculator, strain=0.004):
    """C_ij as mixed second derivatives of the energy in engineering strains, no stress used."""

    def energy(*amounts):
        matrix = np.eye(3)
        for component, amount in amounts:
            a, b = VOIGT[component]
            matrix[a, b] += amount / 2
            matrix[b, a] += amount / 2
        twin = atoms.copy()
        twin.set_cell(atoms.cell[:] @ matrix, scale_atoms=True)
        twin.calc = calculator
        return twin.get_potential_energy()

    tensor = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            terms = [s * t * energy((i, s * strain), (j, t * strain))
                     for s in (1, -1) for t in (1, -1)]  # fmt: skip
            tensor[i, j] = sum(terms) / (4 * strain**2 * atoms.get_volume() * GPa)
    return tensor


def at_rest(atoms, calculator):
    """A cell without stress, where both definitions of the constants agree."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms.calc = calculator
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        assert optimizer.run(fmax=1e-5, steps=200)
    atoms.calc = None
    return atoms


def smooth_lj():
    return LennardJones(sigma=3.4, epsilon=0.0104, rc=9.0, ro=7.0, smooth=True)


CRYSTALS = {
    "copper": lambda: (bulk("Cu", cubic=True), EMT()),
    "copper, primitive": lambda: (bulk("Cu"), EMT()),
    "argon, hexagonal": lambda: (bulk("Ar", "hcp", a=3.75, c=6.12), smooth_lj()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CRYSTALS)
def test_the_tensor_is_the_curvature_of_the_energy(name):
    atoms, calculator = CRYSTALS[name]()
    at_rest(atoms, calculator)
    result = elastic_constants(atoms, calculator, relax=False)
    expected = from_energies(atoms, calculator)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result.tensor, expected, atol=0.01 * scale)
    assert result.asymmetry < 0.01 * scale
    assert np.abs(result.stress).max() < 0.01 * scale


def test_a_cubic_crystal_of_pairs_obeys_cauchy():
    """Central pair forces at rest give C12 = C44 (Born and Huang 1954)."""
    atoms = at_rest(bulk("Ar", a=5.26, cubic=True), smooth_lj())
    cubic = elastic_constants(atoms, smooth_lj()).cubic
    assert cubic["C12"] == pytest.approx(cubic["C44"], rel=0.02)
    assert cubic["C11"] > cubic["C12"] > 0


def test_the_bulk_modulus_is_that_of_the_equation_of_state():
    from ase_nnp.workflows.eos import equation_of_state

    atoms = at_rest(bulk("Cu"), EMT())
    result = elastic_constants(atoms, EMT())
    fitted = equation_of_state(atoms, EMT(), span=0.03).bulk_modulus
    assert result.moduli["bulk"] == pytest.approx(fitted, rel=0.01)
    assert result.stable
    assert result.smooth


def cubic_tensor(c11, c12, c44):
    tensor = np.zeros((6, 6))
    tensor[:3, :3] = c12
    np.fill_diagonal(tensor, [c11] * 3 + [c44] * 3)
    return ElasticConstants(tensor, 0.0, 0.0, np.zeros(6), 0.003)


def test_moduli_of_a_cubic_crystal_are_the_closed_forms():
    c11, c12, c44 = 168.4, 121.4, 75.4  # copper, Kittel
    moduli = cubic_tensor(c11, c12, c44).moduli
    assert moduli["bulk_voigt"] == pytest.approx((c11 + 2 * c12) / 3)
    assert moduli["bulk_reuss"] == pytest.approx((c11 + 2 * c12) / 3)
    assert moduli["shear_voigt"] == pytest.approx((c11 - c12 + 3 * c44) / 5)
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    assert moduli["shear_reuss"] == pytest.approx(reuss)


def test_an_isotropic_solid_has_one_shear_modulus_and_its_young_and_poisson():
    lame, shear = 60.0, 40.0
    moduli = cubic_tensor(lame + 2 * shear, lame, shear).moduli
    for name in ("shear_voigt", "shear_reuss", "shear"):
        assert moduli[name] == pytest.approx(shear)
    assert moduli["young"] == pytest.approx(shear * (3 * lame + 2 * shear) / (lame + shear))
    assert moduli["poisson"] == pytest.approx(lame / (2 * (lame + shear)))


def test_relaxed_atoms_soften_a_crystal_with_a_free_coordinate():
    atoms = at_rest(bulk("Ar", "hcp", a=3.75, c=6.12), smooth_lj())
    still = elastic_constants(atoms, smooth_lj(), relax=False)
    relaxed = elastic_constants(atoms, smooth_lj(), relax=True, fmax=1e-5)
    excess = np.linalg.eigvalsh(still.tensor - relaxed.tensor)
    assert excess.min() > -0.005
    assert excess.max() > 0.02


def test_a_cusp_at_the_symmetric_site_is_seen_in_what_doubling_the_strain_does():
    """A term of the size of the shear itself: its curvature grows as the strain gets smaller."""
    from ase.calculators.calculator import all_changes

    class Cusp(EMT):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            shear = atoms.cell[1, 2] / atoms.cell[1, 1]
            stress = self.results["stress"].copy()
            stress[3] -= 0.1 * np.sign(shear) * abs(shear) ** 0.5
            self.results["stress"] = stress

    assert not elastic_constants(bulk("Cu", a=3.59, cubic=True), Cusp(), relax=False).smooth


def test_an_unstable_tensor_and_one_that_is_not_cubic_are_seen():
    assert not cubic_tensor(100.0, 120.0, 50.0).stable
    tensor = cubic_tensor(168.4, 121.4, 75.4).tensor
    tensor[2, 2] += 20
    assert ElasticConstants(tensor, 0.0, 0.0, np.zeros(6), 0.003).cubic is None


@pytest.mark.parametrize(
    ("atoms", "strain", "error"),
    [
        (bulk("Cu"), 0.0, ConfigError),
        (bulk("Cu"), 0.2, ConfigError),
        (fcc111("Cu", (1, 1, 3), vacuum=8), 0.003, StructureError),
    ],
)
def test_what_has_no_tensor_is_refused(atoms, strain, error):
    with pytest.raises(error):
        elastic_constants(atoms, EMT(), strain=strain)
