"""The ASE contract: right calculators pass it, and each fault that was found somewhere is named."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import ase_nnp
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError
from ase_nnp.testing.ase_contract import (
    CONTRACT,
    CalculatorSubject,
    check_calculator,
    find_factory,
    run_contract_check,
)

CHECKS = {check.name: check for check in CONTRACT}


def ours():
    """A conservative model of this project with elements it does not know."""
    from lj_model import LennardJones as Model

    model = Model(epsilon=0.05, sigma=2.2, cutoff=5.0)
    model.elements = frozenset(range(1, 90))
    return ase_nnp.NNPCalculator(model)


def test_our_calculator_keeps_the_contract():
    wrong = [f"{o.check}: {o.message}" for o in check_calculator(ours) if not o.ok]
    assert wrong == []


@pytest.mark.slow
def test_our_calculator_keeps_the_contract_in_a_fresh_process(monkeypatch):
    here = os.path.dirname(__file__)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((here, os.path.join(os.path.dirname(here), "helpers")))
    )
    spec = "test_ase_contract:ours"
    subject = CalculatorSubject(ours, spec)
    for name in ("the_process_is_left_alone", "nothing_is_printed"):
        outcome = run_contract_check(CHECKS[name], subject)
        assert outcome.status == "passed", outcome.message


class Pair(Calculator):
    """A right calculator to spoil: Lennard-Jones with elements, replaced results, clear errors."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")
    knows = range(1, 90)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.results = {}
        if not np.isfinite(atoms.positions).all():
            raise ValueError("positions are not finite")
        strange = [s for s, z in zip(atoms.symbols, atoms.numbers, strict=True)
                   if z not in self.knows]  # fmt: skip
        if strange:
            raise ValueError(f"{strange[0]} is not known")
        inner = LennardJones(sigma=2.0, epsilon=0.1, rc=5.0, smooth=True)
        names = ["energy", "forces"]
        if atoms.cell.rank == 3 and atoms.pbc.any():
            names.append("stress")
        elif "stress" in properties:
            raise PropertyNotImplementedError("no cell, no stress")
        twin = atoms.copy()
        twin.set_constraint()
        self.atoms = atoms.copy()
        answers = {name: inner.get_property(name, twin) for name in names}
        self.results = {**answers, "free_energy": answers["energy"]}


def outcome_of(name, factory):
    return run_contract_check(CHECKS[name], CalculatorSubject(factory))


def test_the_calculator_to_spoil_is_right():
    assert [o.check for o in check_calculator(Pair) if not o.ok] == []


def after(change):
    """A factory of Pair whose results are changed after each calculation."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Pair.calculate(self, atoms, properties, system_changes)
        change(self, atoms)

    return type("Spoilt", (Pair,), {"calculate": calculate})


def scaled(name, factor):
    def change(self, atoms):
        if name in self.results:
            self.results[name] = self.results[name] * factor

    return after(change)


def with_results(**values):
    return after(lambda self, atoms: self.results.update(values))


def without(name):
    return after(lambda self, atoms: self.results.pop(name, None))


def full_stress(self, atoms):
    if "stress" in self.results:
        self.results["stress"] = np.diag(self.results["stress"][:3])


class Extends(Pair):
    implemented_properties = Calculator.implemented_properties

    def __init__(self):
        super().__init__()
        self.implemented_properties.extend(Pair.implemented_properties)


class Updates(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        kept = dict(self.results)
        super().calculate(atoms, properties, system_changes)
        self.results = {**kept, **self.results}


class DropsNan(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        whole = atoms[np.isfinite(atoms.positions).all(axis=1)]
        super().calculate(whole, properties, system_changes)
        self.atoms = atoms.copy()


class KnowsAll(Pair):
    knows = range(200)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] += float(atoms.numbers.sum())


class IndexesElements(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        _ = [list(range(100))[z] for z in atoms.numbers]
        super().calculate(atoms, properties, system_changes)


class StressAlways(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, ["energy"], system_changes)
        self.results.setdefault("stress", np.ones(6))


class NoCopies(Pair):
    def __deepcopy__(self, memo):
        raise RuntimeError("tensors of a graph cannot be copied")

    def __reduce__(self):
        raise TypeError("cannot pickle")


class NotJson(Pair):
    def todict(self, skip_default=True):
        return {"model": object()}


class Writes(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] += 0.0
        if self.first is not None:
            self.first.info["charge"] = 0

    first = None

    def get_property(self, name, atoms=None, allow_calculation=True):
        self.first = atoms
        return super().get_property(name, atoms, allow_calculation)


class ForgetsInfo(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] += atoms.info.get("charge", 0)

    def check_state(self, atoms, tol=1e-15):
        bare = atoms.copy()
        bare.info = {} if self.atoms is None else dict(self.atoms.info)
        return super().check_state(bare, tol)


class Poisoned(Pair):
    spoilt = False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if self.spoilt:
            raise RuntimeError("operands could not be broadcast together")
        self.spoilt = True
        super().calculate(atoms, properties, system_changes)
        self.spoilt = False


class PoisonedByNan(Pair):
    failed = False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        try:
            super().calculate(atoms, properties, system_changes)
        except ValueError:
            self.failed = True
            raise
        if self.failed:
            self.results = {k: np.nan * np.asarray(v) for k, v in self.results.items()}


class OneAtATime(Pair):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {k: v for k, v in self.results.items() if k in properties}


class AllOrNothing(Pair):
    """Periodic along all vectors or none, whatever the flags say."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        twin = atoms.copy()
        if not atoms.pbc.all():
            twin.pbc = False
        super().calculate(twin, ["energy"], system_changes)
        self.atoms = atoms.copy()


FAULTS = {
    "extends ASE's base class": ("ases_base_class_is_left_alone", Extends),
    "declares what it does not return": (
        "declared_properties_are_returned",
        type(
            "Boasts",
            (Pair,),
            {"implemented_properties": (*Pair.implemented_properties, "energies")},
        ),
    ),
    "returns what it does not declare": (
        "returned_properties_are_declared",
        with_results(crystal_fea=np.ones(64)),
    ),
    "has no free energy": (
        "free_energy_is_there",
        type("NoFree", (Pair,), {"implemented_properties": ("energy", "forces", "stress")}),
    ),
    "gives float32": (
        "energy_is_a_python_float",
        after(lambda self, atoms: self.results.update(energy=np.float32(self.results["energy"]))),
    ),
    "has forces of the wrong sign": ("forces_are_minus_the_gradient", scaled("forces", -1)),
    "gives a matrix of stress": ("stress_has_six_components", after(full_stress)),
    "gives GPa": ("stress_is_the_strain_derivative", scaled("stress", 160.21766)),
    "has the sign of a pressure": ("stress_is_the_strain_derivative", scaled("stress", -1)),
    "gives molecules a stress": ("stress_without_a_cell_is_refused", StressAlways),
    "drops atoms at NaN": ("positions_that_are_not_finite_are_refused", DropsNan),
    "answers for any element": ("unsupported_elements_are_refused_clearly", KnowsAll),
    "fails on elements by an index": ("unsupported_elements_are_refused_clearly", IndexesElements),
    "squeezes the forces of one atom": (
        "one_atom_has_forces_of_shape_1_3",
        after(lambda self, atoms: self.results.update(forces=self.results["forces"].squeeze())),
    ),
    "updates its results": ("results_are_replaced", Updates),
    "cannot be copied": ("a_used_calculator_can_be_deep_copied", NoCopies),
    "cannot be pickled": ("a_used_calculator_can_be_pickled", NoCopies),
    "has a todict that is no JSON": ("todict_is_json", NotJson),
    "gives float32 forces": (
        "an_ase_database_gives_back_the_results",
        after(
            lambda self, atoms: self.results.update(
                forces=self.results["forces"].astype(np.float32)
            )
        ),
    ),
    "writes into atoms.info": ("the_atoms_are_left_alone", Writes),
    "does not notice a new charge": ("a_change_in_info_is_noticed", ForgetsInfo),
    "is poisoned by a failure": ("a_failed_call_does_not_poison_the_next", Poisoned),
    "gives NaN after a failure": ("a_failed_call_does_not_poison_the_next", PoisonedByNan),
    "runs once per property": ("one_calculation_gives_energy_forces_and_stress", OneAtATime),
    "takes slabs for molecules": ("a_slab_is_no_molecule", AllOrNothing),
    "takes wires for molecules": ("a_wire_equals_its_supercell", AllOrNothing),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_calculator_that(fault):
    name, factory = FAULTS[fault]
    outcome = outcome_of(name, factory)
    assert outcome.status in ("violated", "failed"), f"{outcome.status}: {outcome.message}"
    assert outcome.message
    if fault == "gives GPa":
        assert "GPa" in outcome.message
    assert list(Calculator.implemented_properties) == []


NOISY = """
import os
from ase.calculators.emt import EMT

os.environ["WEIGHTS_ONLY_OFF"] = "1"

def make():
    print("loaded 412,525 parameters")
    return EMT()
"""


def test_prints_and_environment_variables_are_seen_in_a_fresh_process(tmp_path, monkeypatch):
    (tmp_path / "noisy_module.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTS_ONLY_OFF", raising=False)
    subject = CalculatorSubject.of("noisy_module:make")
    monkeypatch.delenv("WEIGHTS_ONLY_OFF")  # the import in this process set it too
    changed = run_contract_check(CHECKS["the_process_is_left_alone"], subject)
    assert changed.status == "violated"
    assert "WEIGHTS_ONLY_OFF" in changed.message
    printed = run_contract_check(CHECKS["nothing_is_printed"], subject)
    assert "412,525 parameters" in printed.message


@pytest.mark.parametrize("spec", ["nonsense", "no_such_module:x", "ase.calculators.lj:Nothing"])
def test_what_names_no_calculator_is_refused(spec):
    with pytest.raises(ConfigError):
        find_factory(spec)


def test_a_factory_that_fails_is_one_outcome():
    (outcome,) = check_calculator(lambda: 1 / 0)
    assert not outcome.ok
    assert "ZeroDivisionError" in outcome.message


def test_the_command_line_checks_any_ase_calculator(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plugin", "check", "--ase-calculator", "ase.calculators.lj:LennardJones", "--json"])
    by_check = {o["check"]: o for o in json.loads(capsys.readouterr().out)}
    assert by_check["stress_is_the_strain_derivative"]["status"] == "passed"
    assert by_check["unsupported_elements_are_refused_clearly"]["status"] == "not applicable"
    assert not by_check["results_are_replaced"]["ok"]
    assert stop.value.code == 1
    with pytest.raises(SystemExit) as stop:
        main(["plugin", "check"])
    assert stop.value.code == 2


def added():
    from ase.calculators.lj import LennardJones
    from ase.calculators.mixing import SumCalculator
    from ase.calculators.morse import MorsePotential

    return SumCalculator([MorsePotential(), LennardJones()])


def morse():
    from ase.calculators.morse import MorsePotential

    return MorsePotential()


@pytest.mark.parametrize("factory", [added, morse, EMT])
def test_a_change_in_info_is_asked_of_calculators_without_reset_too(factory):
    assert outcome_of("a_change_in_info_is_noticed", factory).status == "not applicable"
