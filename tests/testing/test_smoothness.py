"""Curvature at symmetric sites and repulsive cores: known answers, and faults that must be seen."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential

from ase_nnp.testing.ase_contract import check_calculator
from ase_nnp.testing.curvature import (
    STEPS,
    curvature_jumps,
    rigid_shift,
    symmetric_structures,
    unrepelled,
)


class Springs(Calculator):
    """Atoms on springs to where a perfect cell has them; ``corner`` blunts the potential's tip.

    ``E = k/2 * sum (sqrt(u^2 + corner^2) - corner)``-like wells are the fault in its purest form:
    beyond ``corner`` the response to a displacement falls as 1/u.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, home: Atoms, corner: float | None = None) -> None:
        super().__init__()
        self.home, self.corner = home.positions.copy(), corner

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        away = atoms.positions - self.home
        if self.corner is None:
            energy, forces = 0.5 * np.sum(away**2), -away
        else:
            length = np.sqrt(np.sum(away**2, axis=1, keepdims=True) + self.corner**2)
            energy, forces = float(np.sum(length)), -away / length
        self.results = {"energy": float(energy), "forces": forces}


def asked(calc):
    """Results of several structures by one calculator."""

    def evaluate(structures):
        return [
            {name: calc.get_property(name, atoms.copy()) for name in ("energy", "forces")}
            for atoms in structures
        ]

    return evaluate


def with_stress(calc):
    def evaluate(structures):
        names = ["energy", "forces"]
        names += ["stress"] if all(a.cell.rank == 3 for a in structures) else []
        return [{n: calc.get_property(n, a.copy()) for n in names} for a in structures]

    return evaluate


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")
def test_structures_have_the_symmetry_that_their_names_say():
    spglib = pytest.importorskip("spglib")
    groups = {"fcc": 225, "bcc": 229, "diamond": 227, "rocksalt": 225}
    structures = symmetric_structures([29, 8])
    for name, number in groups.items():
        atoms = structures[name]
        cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
        assert spglib.get_spacegroup(cell).endswith(f"({number})"), name
    center, *corners = structures["tetrahedron"].get_all_distances()[0]
    assert center == 0
    assert np.ptp(corners) < 1e-12


def test_springs_have_one_curvature_and_a_corner_has_two():
    atoms = symmetric_structures([29, 8])["tetrahedron"]
    smooth = curvature_jumps({"t": atoms}, asked(Springs(atoms)))
    assert smooth["t displacement"] < 1e-10

    # The response of sqrt(u^2 + c^2) is 1 / sqrt(u^2 + c^2): known for both steps.
    corner = 2e-3
    small, large = (1 / np.hypot(step, corner) for step in STEPS)
    jumps = curvature_jumps({"t": atoms}, asked(Springs(atoms, corner)))
    assert jumps["t displacement"] == pytest.approx((small - large) / small, rel=1e-6)
    assert jumps["t displacement"] > 0.8


def test_springs_to_places_have_no_acoustic_modes_and_pairs_have():
    atoms = symmetric_structures([29, 8])["tetrahedron"]
    assert rigid_shift({"t": atoms}, asked(Springs(atoms)))["t"] == pytest.approx(1.0)
    pairs = MorsePotential(epsilon=1.0, r0=2.0, rho0=4.0)
    assert rigid_shift({"t": atoms}, asked(pairs))["t"] < 1e-8


def test_emt_is_smooth_with_its_stress_and_with_its_energies_alone():
    structures = symmetric_structures([29, 28], molecules=False)
    by_stress = curvature_jumps(structures, with_stress(EMT()))
    by_energy = curvature_jumps(structures, asked(EMT()))
    for jumps in (by_stress, by_energy):
        assert jumps.keys() == by_stress.keys()
        assert max(jumps[f"{name} strain"] for name in ("fcc", "bcc")) < 0.1
        assert max(jumps[f"{name} displacement"] for name in ("fcc", "bcc", "rocksalt")) < 0.1


class Attraction(Calculator):
    """An attraction without an end: -1/r of every pair."""

    implemented_properties = ("energy", "forces")
    repulsive_core = True

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        distances = atoms.get_all_distances()[np.triu_indices(len(atoms), 1)]
        self.results = {"energy": float(-(1 / distances).sum()), "forces": atoms.positions * 0}


def test_pairs_without_a_core_are_named():
    falling = unrepelled([29, 8], asked(Attraction()))
    assert [text.split()[0] for text in falling] == ["Cu-Cu", "Cu-O", "O-O"]
    assert unrepelled([29, 8], asked(MorsePotential(epsilon=1.0, r0=2.0, rho0=4.0))) == []


def outcome_of(factory, name):
    return {o.check: o for o in check_calculator(factory)}[name]


@pytest.mark.slow
def test_the_contract_holds_a_calculator_to_the_core_that_it_declares():
    outcome = outcome_of(Attraction, "repulsive_core")
    assert outcome.status == "violated"
    assert "falls by" in outcome.message
    assert outcome_of(EMT, "repulsive_core").status == "not applicable"
    assert outcome_of(EMT, "curvature_at_symmetric_sites").status == "passed"
