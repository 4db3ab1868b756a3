"""The checks of the ASE contract. A figure of 0 is right; an AssertionError says what is wrong."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress

from ase_nnp.testing.ase_contract.subject import CalculatorSubject, ContractCheck, is_clear
from ase_nnp.testing.outcomes import NotApplicable

__all__ = ["CONTRACT"]

CONTRACT: list[ContractCheck] = []
Run = Callable[[CalculatorSubject], float]


def check(tolerance: float = 0.0) -> Callable[[Run], Run]:
    """Register a function as a check with the largest figure it may return."""

    def add(function: Run) -> Run:
        name = function.__name__.removeprefix("check_")
        doc = (function.__doc__ or "").strip().splitlines()[0]
        CONTRACT.append(ContractCheck(name, doc, tolerance, function))
        return function

    return add


def off(one: Any, two: Any, floor: float = 1e-2) -> float:
    """Largest difference over the largest value, which counts as at least ``floor``."""
    one, two = np.asarray(one, float), np.asarray(two, float)
    if one.shape != two.shape:
        raise AssertionError(f"shapes differ: {one.shape} and {two.shape}")
    scale = max(float(np.abs(two).max(initial=0.0)), floor)
    return float(np.abs(one - two).max(initial=0.0)) / scale


def refuses(action: Callable[[], Any]) -> Exception | None:
    """Return the exception of ``action``, or None if it raised none."""
    try:
        action()
    except Exception as error:  # a calculator may raise anything
        return error
    return None


def said(error: Exception) -> str:
    """``Type: text`` of an exception."""
    return f"{type(error).__name__}: {error}"


@check()
def check_the_calculator_can_be_made_and_used(subject: CalculatorSubject) -> float:
    """The factory works, and a crystal of a usual element has an energy."""
    assert np.isfinite(subject.once("energy", subject.crystal())), "the energy is not finite"
    return 0.0


@check()
def check_ases_base_class_is_left_alone(subject: CalculatorSubject) -> float:
    """Making a calculator does not change what ASE's own base class implements."""
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
    worst = 0.0
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(subject.energy(moved))
        worst = max(worst, abs(forces[atom, axis] + (energies[0] - energies[1]) / (2 * step)))
    return worst / max(float(np.abs(forces).max()), 5e-2)


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


@check()
def check_results_are_replaced(subject: CalculatorSubject) -> float:
    """A calculation leaves nothing of the one before in results."""
    calc, atoms = subject.fresh(), subject.crystal()
    calc.get_property("energy", atoms)
    calc.results["left_over"] = 1.0
    atoms.positions[0, 0] += 0.01
    calc.calculate(atoms, ["energy"], list(all_changes))
    assert "left_over" not in calc.results, "calculate() updates results instead of replacing them"
    return 0.0


@check(1e-5)
def check_a_used_calculator_can_be_deep_copied(subject: CalculatorSubject) -> float:
    """copy.deepcopy works after a calculation, and the copy answers alike."""
    before = subject.energy(subject.crystal())
    twin = copy.deepcopy(subject.calc)
    moved = subject.crystal()
    moved.positions[0, 0] += 0.05
    twin.get_property("energy", moved)
    return off(twin.get_property("energy", subject.crystal()), before)


@check(1e-5)
def check_a_used_calculator_can_be_pickled(subject: CalculatorSubject) -> float:
    """Pickling works after a calculation, and what comes back answers alike."""
    before = subject.energy(subject.crystal())
    twin = pickle.loads(pickle.dumps(subject.calc))
    return off(twin.get_property("energy", subject.crystal()), before)


@check()
def check_todict_is_json(subject: CalculatorSubject) -> float:
    """calc.todict(), which trajectories and databases store, is plain JSON."""
    if not hasattr(subject.calc, "todict"):
        raise NotApplicable("no todict")
    json.dumps(subject.calc.todict())
    return 0.0


def stored(subject: CalculatorSubject, write_and_read: Callable[[Path, Atoms], Atoms]) -> float:
    """Largest difference of energy and forces after a round trip through a file."""
    atoms = subject.crystal()
    atoms.calc = subject.fresh()
    energy = atoms.get_potential_energy()
    forces = atoms.get_forces() if subject.gives("forces") else None
    with tempfile.TemporaryDirectory() as folder:
        again = write_and_read(Path(folder), atoms)
    figures = [off(again.get_potential_energy(), energy)]
    if forces is not None:
        figures.append(off(again.get_forces(), forces))
    return max(figures)


@check(1e-6)
def check_an_ase_database_gives_back_the_results(subject: CalculatorSubject) -> float:
    """Atoms with this calculator survive ase.db."""

    def through(folder: Path, atoms: Atoms) -> Atoms:
        from ase.db import connect

        with connect(folder / "x.db") as database:
            row = database.write(atoms)
        again: Atoms = database.get_atoms(row)
        return again

    return stored(subject, through)


@check(1e-6)
def check_a_trajectory_gives_back_the_results(subject: CalculatorSubject) -> float:
    """Atoms with this calculator survive ase.io.Trajectory."""

    def through(folder: Path, atoms: Atoms) -> Atoms:
        from ase.io.trajectory import Trajectory

        with Trajectory(folder / "x.traj", "w") as file:
            file.write(atoms)
        with Trajectory(folder / "x.traj") as file:
            again: Atoms = file[0]
        return again

    return stored(subject, through)


@check()
def check_the_atoms_are_left_alone(subject: CalculatorSubject) -> float:
    """A calculation writes nothing into atoms.info, arrays, cell or positions."""
    atoms = subject.crystal()
    atoms.info["mine"] = 1
    before = atoms.copy()
    atoms.calc = subject.fresh()
    atoms.get_potential_energy()
    if subject.gives("forces"):
        atoms.get_forces()
    assert atoms.info == before.info, f"atoms.info became {sorted(atoms.info)}"
    assert atoms.arrays.keys() == before.arrays.keys(), f"arrays became {sorted(atoms.arrays)}"
    for name, array in before.arrays.items():
        assert np.array_equal(atoms.arrays[name], array), f"atoms.arrays[{name!r}] was changed"
    same = np.array_equal(atoms.cell[:], before.cell[:]) and (atoms.pbc == before.pbc).all()
    assert same, "the cell or pbc were changed"
    return 0.0


#: Keys that published calculators read from atoms.info, with two values that make a difference.
INFO: tuple[tuple[str, Any, Any], ...] = (
    ("charge", 0, 1),
    ("spin", 1, 3),
    ("total_charge", 0, 1),
    ("total_spin", 1, 3),
    ("external_field", np.zeros(3), np.array([0.0, 0.0, 0.1])),
)


def forget(calc: Any) -> None:
    """Make a calculator calculate anew; ASE's BaseCalculator has no ``reset``."""
    if hasattr(calc, "reset"):
        calc.reset()
    else:
        calc.atoms, calc.results = None, {}


@check(1e-6)
def check_a_change_in_info_is_noticed(subject: CalculatorSubject) -> float:
    """Where charge, spin or a field in atoms.info counts, changing it starts a new calculation."""
    calc, read, worst = subject.fresh(), [], 0.0
    for key, one, two in INFO:
        values = []
        for value in (one, two):
            atoms = subject.crystal()
            atoms.info[key] = value
            forget(calc)
            if refuses(lambda atoms=atoms: calc.get_property("energy", atoms)):  # type: ignore[misc]
                break
            values.append(float(calc.get_property("energy", atoms)))
        if len(values) < 2 or abs(values[0] - values[1]) <= 1e-6 * max(1.0, abs(values[0])):
            continue
        read.append(key)
        forget(calc)
        atoms = subject.crystal()
        atoms.info[key] = one
        calc.get_property("energy", atoms)
        atoms.info[key] = two
        worst = max(worst, off(calc.get_property("energy", atoms), values[1]))
    if not read:
        raise NotApplicable("nothing in atoms.info changes the energy")
    return worst


@check()
def check_the_process_is_left_alone(subject: CalculatorSubject) -> float:
    """No environment variable, default dtype, precision or folder is changed."""
    changed = subject.probe["changed"]
    assert not changed, f"changed for the whole process: {', '.join(changed)}"
    return 0.0


@check()
def check_nothing_is_printed(subject: CalculatorSubject) -> float:
    """Importing, making and using the calculator prints nothing to stdout."""
    noise = [f"{when}: {text.strip()!r}" for when, text in subject.probe["said"].items() if text]
    assert not noise, "; ".join(noise)
    return 0.0


@check(1e-5)
def check_a_failed_call_does_not_poison_the_next(subject: CalculatorSubject) -> float:
    """After NaN or an unknown element the calculator answers as before."""
    calc, worst = subject.fresh(), 0.0
    moved = subject.crystal()
    moved.positions[0, 0] += 0.02
    before = [float(calc.get_property("energy", a)) for a in (subject.crystal(), moved)]
    nan, strange = subject.crystal(), subject.crystal()
    nan.positions[1, 1] = np.nan
    strange.numbers[2] = 118
    for bad in (nan, strange):  # right after a structure of another size
        refuses(lambda: calc.get_property("energy", subject.molecule()))
        refuses(lambda bad=bad: calc.get_property("energy", bad))  # type: ignore[misc]
        for atoms, value in zip((moved, subject.crystal()), reversed(before), strict=True):
            worst = max(worst, off(calc.get_property("energy", atoms), value))
    return worst


@check(1.0)
def check_one_calculation_gives_energy_forces_and_stress(subject: CalculatorSubject) -> float:
    """Once all were asked for, a new geometry costs one calculation; asking again costs none."""
    calc = subject.fresh()
    wanted = [p for p in ("energy", "forces", "stress") if subject.gives(p)]
    count, inner = [0], calc.calculate

    def counted(*arguments: Any, **keywords: Any) -> Any:
        count[0] += 1
        return inner(*arguments, **keywords)

    calc.calculate = counted
    atoms, after = subject.crystal(), 0
    for _ in range(2):
        atoms.positions[0, 0] += 0.01
        before = count[0]
        for _again in range(2):
            for name in wanted:
                calc.get_property(name, atoms)
        after = count[0] - before
    return float(after)


@check(1e-4)
def check_a_wire_equals_its_supercell(subject: CalculatorSubject) -> float:
    """A structure periodic along one vector has a quarter of the energy of four of its cells."""
    return _mixed(subject, subject.wire(), lambda wire: (wire.repeat((4, 1, 1)), 4.0))


@check(1e-4)
def check_a_slab_is_no_molecule(subject: CalculatorSubject) -> float:
    """A slab with pbc (T, T, F) has the energy of the same slab with a thick periodic vacuum."""

    def thick(slab: Atoms) -> tuple[Atoms, float]:
        other = slab.copy()
        other.set_cell([slab.cell[0], slab.cell[1], [0, 0, 40.0]])
        other.pbc = True
        return other, 1.0

    return _mixed(subject, subject.slab(), thick)


def _mixed(
    subject: CalculatorSubject, atoms: Atoms, truth: Callable[[Atoms], tuple[Atoms, float]]
) -> float:
    error = refuses(lambda: subject.once("energy", atoms))
    if error is not None:
        if is_clear(error):
            raise NotApplicable(f"refuses pbc {atoms.pbc.tolist()}: {error}")
        raise AssertionError(f"pbc {atoms.pbc.tolist()}: {said(error)}")
    other, factor = truth(atoms)
    return off(factor * subject.energy(atoms), subject.energy(other))
