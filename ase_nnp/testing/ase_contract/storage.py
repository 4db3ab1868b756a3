"""Results that are replaced, copied, pickled and written to files."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import all_changes

from ase_nnp.testing.ase_contract.checking import check, off
from ase_nnp.testing.ase_contract.subject import CalculatorSubject
from ase_nnp.testing.outcomes import NotApplicable

__all__: list[str] = []


@check()
def check_results_are_replaced(subject: CalculatorSubject) -> float:
    """A calculation leaves nothing of the one before in results."""
    calc, atoms = subject.fresh(), subject.crystal()
    calc.get_property("energy", atoms)

    # Stands for a stress of before, which would be taken for that of the new geometry.
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

    # The copy has to compute: an answer out of its cache proves nothing.
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
