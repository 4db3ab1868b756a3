"""Adsorption energies: right sums, the reaction said, kinds of energies never mixed."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule

import ase_nnp
from ase_nnp import Potential, adsorption_energy
from ase_nnp.errors import ConfigError, StructureError

#: Energies per atom, eV, of a model whose energy is a sum over atoms plus pairs.
PER_ATOM = {1: -3.0, 6: -8.0, 7: -7.0, 8: -5.0, 29: -4.0}


class Sum(Potential):
    """A sum of atomic energies: every adsorption energy then follows by hand."""

    outputs = ("energy", "forces")
    cutoff = 2.0

    def forward(self, graph):
        each = torch.tensor([PER_ATOM[int(z)] for z in graph.atomic_numbers], dtype=self.dtype)
        energy = each.new_zeros(graph.num_structures).index_add(0, graph.batch, each)
        return {"energy": energy, "forces": torch.zeros_like(graph.positions)}


@pytest.fixture
def slab():
    return fcc111("Cu", (2, 2, 2), vacuum=8.0)


def with_adsorbate(slab, adsorbate):
    twin = slab.copy()
    add_adsorbate(twin, adsorbate, 1.5, "ontop")
    return twin


REACTIONS = {
    "H": ("* + 1/2 H2(g) -> H*", 0.0),
    "O": ("* + H2O(g) - H2(g) -> O*", 0.0),
    "OH": ("* + H2O(g) - 1/2 H2(g) -> OH*", 0.0),
    "N": ("* + 1/2 N2(g) -> N*", 0.0),
    "CH": ("* + CO(g) + 3/2 H2(g) - H2O(g) -> CH*", 0.0),
    "CO": ("* + CO(g) -> CO*", 0.0),
}


@pytest.mark.parametrize("name", REACTIONS)
def test_the_named_scheme_balances_and_says_its_reaction(slab, name):
    adsorbate = Atoms(name, positions=[[0, 0, 1.1 * k] for k in range(len(Atoms(name)))])
    adsorption = adsorption_energy(with_adsorbate(slab, adsorbate), slab, "oc20", Sum())
    reaction, energy = REACTIONS[name]
    assert adsorption.reaction == reaction
    assert float(adsorption) == pytest.approx(energy, abs=1e-5)  # a sum over atoms binds nothing
    assert adsorption.reference == "oc20"
    assert reaction in str(adsorption)
    assert "eV" in str(adsorption)


def test_a_direct_molecule_is_taken_as_it_is_also_by_halves(slab):
    oxygen = with_adsorbate(slab, "O")
    adsorption = adsorption_energy(oxygen, slab, molecule("O2"), Sum())
    assert adsorption.reaction == "* + 1/2 O2(g) -> O*"
    assert adsorption.parts["O2(g)"] == pytest.approx(2 * PER_ATOM[8])
    assert float(adsorption) == pytest.approx(0.0, abs=1e-5)


def test_the_energy_is_that_of_ase_for_a_real_potential(slab):
    model = ase_nnp.build_model("lj", {"epsilon": 0.1, "sigma": 1.2}, dtype="float64")
    both = with_adsorbate(slab, molecule("CO"))
    adsorption = adsorption_energy(both, slab, molecule("CO"), model)

    def energy(atoms):
        atoms = atoms.copy()
        atoms.calc = ase_nnp.NNPCalculator(model)
        return atoms.get_potential_energy()

    by_hand = energy(both) - energy(slab) - energy(molecule("CO"))
    assert float(adsorption) == pytest.approx(by_hand, abs=1e-10)
    assert by_hand != 0


def test_gas_molecules_are_relaxed_unless_told_otherwise(slab):
    # A pair potential with one length for all: relaxed H2 and H2O have bonds at its minimum.
    model = ase_nnp.build_model("lj", {"epsilon": 0.5, "sigma": 1.0}, dtype="float64")
    both = with_adsorbate(slab, "H")
    relaxed = adsorption_energy(both, slab, "oc20", model)
    rigid = adsorption_energy(both, slab, "oc20", model, relax_gas=False)
    assert rigid.gas["H2"].get_distance(0, 1) == pytest.approx(molecule("H2").get_distance(0, 1))
    assert relaxed.parts["H2(g)"] < rigid.parts["H2(g)"]


class Referenced(Sum):
    """A model of adsorption energies."""

    energy_kind = "adsorption"
    energy_reference = "clean slab and gas-phase N2, H2O, CO, H2 (OC20)"


def test_a_model_of_adsorption_energies_answers_alone_for_its_own_references(slab):
    both = with_adsorbate(slab, "O")
    adsorption = adsorption_energy(both, slab, "oc20", Referenced())
    assert float(adsorption) == pytest.approx(8 * PER_ATOM[29] + PER_ATOM[8])
    assert "OC20" in adsorption.reference
    assert set(adsorption.parts) == {"adslab"}


def test_kinds_of_energies_are_never_mixed(slab):
    both = with_adsorbate(slab, "O")
    with pytest.raises(ConfigError, match="mix"):
        adsorption_energy(both, slab, molecule("O2"), Referenced())
    other = Referenced()
    other.energy_reference = "isolated atoms"
    with pytest.raises(ConfigError, match="isolated atoms"):
        adsorption_energy(both, slab, "oc20", other)
    formation = Sum()
    formation.energy_kind = "formation"
    with pytest.raises(ConfigError, match="formation"):
        adsorption_energy(both, slab, "oc20", formation)


def test_structures_that_do_not_belong_together_are_refused(slab):
    both = with_adsorbate(slab, "O")
    with pytest.raises(StructureError, match="different cells"):
        adsorption_energy(both, fcc111("Cu", (2, 2, 2), vacuum=9.0), "oc20", Sum())
    with pytest.raises(StructureError, match="gained no atom"):
        adsorption_energy(slab, slab, "oc20", Sum())
    with pytest.raises(StructureError, match="lacks Cu"):
        adsorption_energy(both[1:], slab, "oc20", Sum())
    with pytest.raises(StructureError, match="no multiple of"):
        adsorption_energy(both, slab, molecule("CO"), Sum())


def test_unknown_schemes_and_elements_are_refused(slab):
    with pytest.raises(ConfigError, match="oc20"):
        adsorption_energy(with_adsorbate(slab, "O"), slab, "oc21", Sum())
    with pytest.raises(ConfigError, match="no reference for S"):
        adsorption_energy(with_adsorbate(slab, "S"), slab, "oc20", Sum())
