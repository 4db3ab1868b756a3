"""What a calculator answers, in which units and shapes, and what it refuses."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress

from ase_nnp.testing.ase_contract.checking import check, off, refuses, said
from ase_nnp.testing.ase_contract.subject import CalculatorSubject, is_clear
from ase_nnp.testing.outcomes import NotApplicable

__all__: list[str] = []


@check()
def check_the_calculator_can_be_made_and_used(subject: CalculatorSubject) -> float:
    """The factory works, and a crystal of a usual element has an energy."""
    assert np.isfinite(subject.once("energy", subject.crystal())), "the energy is not finite"
    return 0.0


@check()
def check_ases_base_class_is_left_alone(subject: CalculatorSubject) -> float:
    """Making a calculator does not change what ASE's own base class implements."""
    # ASE's list is a class attribute: a calculator that appends to its own extends everybody's.
    first, before = subject.fresh(), list(Calculator.implemented_properties)
    second = subject.fresh()
    after = list(Calculator.implemented_properties)
    own = list(first.implemented_properties), list(second.implemented_properties)
    if before or after:
        del Calculator.implemented_properties[:]  # or every later calculator would suffer
        raise AssertionError(f"ASE's Calculator.implemented_properties became {after}")
    if own[0] != own[1] or len(set(own[0])) != len(own[0]):
        raise AssertionError(f"implemented_properties grow from one to the next: {own[1]}")
    return 0.0


@check()
def check_declared_properties_are_returned(subject: CalculatorSubject) -> float:
    """Everything in implemented_properties can be had, and is finite."""
    atoms, missing = subject.crystal(), []
    for name in subject.calc.implemented_properties:
        error = refuses(lambda name=name: subject.get(name, atoms))  # type: ignore[misc]
        if error is not None:
            missing.append(f"{name} ({said(error)})")
        elif subject.get(name, atoms) is None:
            missing.append(f"{name} (None)")
    assert not missing, f"declared and not returned: {', '.join(missing)}"
    return 0.0


@check()
def check_returned_properties_are_declared(subject: CalculatorSubject) -> float:
    """Every numeric result is listed in implemented_properties, so that it can be asked for."""
    atoms = subject.crystal()
    subject.get("energy", atoms)

    # A stress that was asked for brings the hidden ones along in most calculators.
    if subject.gives("stress"):
        subject.get("stress", atoms)
    hidden = []
    for name, value in subject.calc.results.items():
        numeric = isinstance(value, (float, int, np.ndarray, np.generic))
        if numeric and name not in subject.calc.implemented_properties:
            error = refuses(lambda name=name: subject.get(name, atoms))  # type: ignore[misc]
            hidden.append(name if error is None else f"{name} ({type(error).__name__})")
    assert not hidden, f"returned and not declared: {', '.join(hidden)}"
    return 0.0


@check()
def check_free_energy_is_there(subject: CalculatorSubject) -> float:
    """get_potential_energy(force_consistent=True), which dynamics asks for, works."""
    atoms = subject.crystal()
    atoms.calc = subject.calc
    error = refuses(lambda: atoms.get_potential_energy(force_consistent=True))
    assert error is None, said(error) if error else ""
    value = atoms.get_potential_energy(force_consistent=True)
    assert np.isfinite(value), f"the free energy is {value}"
    return 0.0


@check()
def check_energy_is_a_python_float(subject: CalculatorSubject) -> float:
    """The energy is a float that JSON and databases take, not a float32 scalar."""
    value = subject.calc.get_property("energy", subject.crystal())
    assert isinstance(value, float), (
        f"the energy is a {type(value).__module__}.{type(value).__name__}"
    )
    return 0.0


@check(2e-2)
def check_forces_are_minus_the_gradient(subject: CalculatorSubject) -> float:
    """Forces are -dE/dx in eV/Angstrom, by central differences of 0.01 Angstrom."""
    if not subject.gives("forces"):
        raise NotApplicable("no forces")
    model = getattr(subject.calc, "model", None)
    if getattr(subject.calc, "conservative", getattr(model, "conservative", True)) is False:
        raise NotApplicable("the calculator says that its forces are no gradient")
    atoms, step = subject.crystal(), 1e-2
    forces = np.asarray(subject.get("forces", atoms))
    assert forces.shape == (len(atoms), 3), f"forces have shape {forces.shape}"
    gaps = []
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(subject.energy(moved))

        # 0.01 Angstrom: calculators in single precision have no digits for less.
        gaps.append(forces[atom, axis] + (energies[0] - energies[1]) / (2 * step))
    return float(np.abs(gaps).max()) / max(float(np.abs(forces).max()), 5e-2)


@check()
def check_stress_has_six_components(subject: CalculatorSubject) -> float:
    """Stress is a vector xx yy zz yz xz xy, which filters and databases expect."""
    if not subject.gives("stress"):
        raise NotApplicable("no stress")
    shape = np.shape(subject.get("stress", subject.crystal()))
    assert shape == (6,), f"the stress has shape {shape}"
    return 0.0


@check(3e-2)
def check_stress_is_the_strain_derivative(subject: CalculatorSubject) -> float:
    """Stress is (1/V) dE/d(strain) in eV/Angstrom^3, positive under tension."""
    if not subject.gives("stress"):
        raise NotApplicable("no stress")
    atoms, step = subject.crystal(), 2e-3
    stress = np.asarray(subject.get("stress", atoms), float)
    if stress.shape == (3, 3):
        stress = full_3x3_to_voigt_6_stress(stress)
    numeric = np.zeros(6)
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(subject.energy(moved))
        numeric[k] = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())

    # GPa is the usual slip, and a factor says more than "wrong".
    ratio = float(stress @ numeric / max(float(numeric @ numeric), 1e-12))
    figure = off(stress, numeric, floor=2e-3)
    if abs(ratio / 160.21766 - 1) < 0.05:
        raise AssertionError(f"the stress is in GPa: {ratio:.1f} times the strain derivative")
    return figure


@check()
def check_molecules_without_a_cell_are_answered(subject: CalculatorSubject) -> float:
    """Atoms without a cell have an energy, or are refused with an error that says why."""
    error = refuses(lambda: subject.once("energy", subject.molecule()))
    if error is not None and not is_clear(error):
        raise AssertionError(f"a molecule without a cell: {said(error)}")
    return 0.0


@check()
def check_stress_without_a_cell_is_refused(subject: CalculatorSubject) -> float:
    """Without a cell there is no stress: PropertyNotImplementedError, not a number."""
    if not subject.gives("stress"):
        raise NotApplicable("no stress")
    error = refuses(lambda: subject.once("stress", subject.molecule()))
    if error is None:
        value = np.round(np.asarray(subject.once("stress", subject.molecule()), float), 3)
        raise AssertionError(f"a molecule without a cell has the stress {value.tolist()}")
    if not is_clear(error):
        raise AssertionError(f"a molecule without a cell: {said(error)}")
    return 0.0


@check()
def check_positions_that_are_not_finite_are_refused(subject: CalculatorSubject) -> float:
    """NaN in the positions is an error, not an energy."""
    atoms = subject.crystal()
    atoms.positions[1, 1] = np.nan
    if refuses(lambda: subject.once("energy", atoms)) is None:
        value = float(subject.once("energy", atoms))
        raise AssertionError(f"a position is NaN and the energy {value:.4f} eV")
    return 0.0


@check()
def check_unsupported_elements_are_refused_clearly(subject: CalculatorSubject) -> float:
    """An element that the model does not know is refused by name."""
    atoms = subject.crystal()
    before = subject.energy(atoms)
    atoms.numbers[2] = 118
    error = refuses(lambda: subject.once("energy", atoms))
    if error is None:
        value = float(subject.once("energy", atoms))

        # Pair potentials of one kind of atom rightly answer for anything.
        if abs(value - before) < 1e-9 * max(1.0, abs(before)):
            raise NotApplicable("the calculator does not look at elements")
        raise AssertionError(f"oganesson was answered for: {value:.4f} eV")
    text = str(error)
    named = "Og" in text or "118" in text or "oganesson" in text.lower()
    if not named or not is_clear(error):
        raise AssertionError(f"the error does not say which element is at fault: {said(error)}")
    return 0.0


@check()
def check_one_atom_has_forces_of_shape_1_3(subject: CalculatorSubject) -> float:
    """Nothing is squeezed away for a single atom."""
    if not subject.gives("forces"):
        raise NotApplicable("no forces")
    cell = [[0, 1.85, 1.85], [1.85, 0, 1.85], [1.85, 1.85, 0]]
    atoms = Atoms([subject.numbers[0]], cell=cell, pbc=True)
    forces = np.asarray(subject.get("forces", atoms))
    assert forces.shape == (1, 3), f"the forces of one atom have shape {forces.shape}"
    assert np.isfinite(forces).all(), "the forces of one atom are not finite"
    return 0.0
