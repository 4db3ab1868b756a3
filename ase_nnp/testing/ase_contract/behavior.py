"""What a calculation leaves behind: in the atoms, in the process, for the next call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from ase_nnp.testing.ase_contract.checking import check, off, refuses, said
from ase_nnp.testing.ase_contract.subject import CalculatorSubject, is_clear
from ase_nnp.testing.outcomes import NotApplicable

__all__: list[str] = []


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

    # A cache that is filled before the error is the usual fault.
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

    # Counted at calculate(), where ASE's own cache ends.
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
