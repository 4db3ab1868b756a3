"""A calculator under test: how to make it, structures for it, what it does to a process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculatorError

from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.testing.outcomes import NotApplicable, Outcome

__all__ = [
    "CalculatorSubject",
    "ContractCheck",
    "find_factory",
    "run_contract_check",
]

#: Elements in the order in which they are tried.
ELEMENTS = (29, 8, 1, 6, 14, 13, 11, 17)
#: Errors that tell a user that the input, not the program, is at fault.
CLEAR = (CalculatorError, ValueError, NotImplementedError, AseNnpError)
#: Errors of these kinds come from arithmetic that went wrong.
UNCLEAR = (np.linalg.LinAlgError,)

Factory = Callable[[], Any]

#: Run in a fresh interpreter: what importing, making and using the calculator does to a process.
PROBE = """
import contextlib, importlib, io, json, os, sys

def state():
    torch = sys.modules.get("torch")
    process = {"environment": dict(os.environ), "folder": os.getcwd()}
    if torch is not None:
        process["default dtype"] = str(torch.get_default_dtype())
        process["matmul precision"] = torch.get_float32_matmul_precision()
        process["gradients"] = torch.is_grad_enabled()
    return process

def quiet(action):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        value = action()
    return value, text.getvalue()

spec, symbols, out = sys.argv[1:4]
module, _, name = spec.partition(":")
TORCHS_OWN = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # set when its compiler is imported
before = state()
defaults = {"default dtype": "torch.float32", "matmul precision": "highest", "gradients": True}
from ase.calculators.calculator import Calculator
base = list(Calculator.implemented_properties)
factory, said_import = quiet(lambda: importlib.import_module(module))
for part in name.split("."):
    factory = getattr(factory, part)
calculators, said_making = quiet(lambda: [factory(), factory()])
from ase.build import bulk
atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
atoms.symbols[:] = symbols.split(",")
atoms.calc = calculators[0]
_, said_running = quiet(lambda: atoms.get_potential_energy())
after = state()
changed = [
    f"{key}={value!r}"
    for key, value in after["environment"].items()
    if before["environment"].get(key) != value and key not in TORCHS_OWN
]
changed += [f"{key} removed" for key in before["environment"] if key not in after["environment"]]
usual = {**defaults, **before, "environment": after["environment"]}
changed += [f"{key}: {value}" for key, value in after.items() if value != usual[key]]
report = {
    "changed": changed,
    "base_before": base,
    "base_after": list(Calculator.implemented_properties),
    "said": {"import": said_import, "making": said_making, "running": said_running},
}
with open(out, "w") as file:
    json.dump(report, file)
"""


def is_clear(error: Exception) -> bool:
    """Whether an error is of a kind that blames the input."""
    return isinstance(error, CLEAR) and not isinstance(error, UNCLEAR)


@dataclass(frozen=True)
class ContractCheck:
    """One thing that a calculator owes: ``run`` returns how far it is off, or raises."""

    name: str
    doc: str
    tolerance: float
    run: Callable[[CalculatorSubject], float]


def find_factory(spec: str) -> Factory:
    """Return what ``"module:name"`` names; called without arguments it must make a calculator.

    Raises
    ------
    ConfigError
        The text has no colon, the module cannot be imported, or the name is not in it.
    """
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise ConfigError(
            f"{spec!r} names no calculator; write module:factory, as in ase.calculators.emt:EMT."
        )

    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)

    try:
        named: Any = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"The module {module!r} cannot be imported: {error}.") from error
    finally:
        if added:
            sys.path.remove(here)

    for part in name.split("."):
        if not hasattr(named, part):
            raise ConfigError(f"{module!r} has no {name!r}.")
        named = getattr(named, part)

    if not callable(named):
        raise ConfigError(f"{spec!r} cannot be called; a class or a function was expected.")
    return named  # type: ignore[no-any-return]


@dataclass
class CalculatorSubject:
    """A calculator under test.

    Parameters
    ----------
    factory
        Called without arguments, makes the calculator.
    spec
        ``"module:factory"``, for the checks that start a fresh process; may be empty.
    environment
        Variables of that process, as they were before the calculator's packages were imported.
    """

    @classmethod
    def of(cls, calculator: str | Factory) -> CalculatorSubject:
        """Make a subject of ``"module:factory"`` or of a function."""
        if not isinstance(calculator, str):
            return cls(calculator)
        before = dict(os.environ)
        return cls(find_factory(calculator), calculator, before)

    factory: Factory
    spec: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    _calc: Any = field(default=None, repr=False)

    @property
    def calc(self) -> Any:
        """The calculator, made on first use."""
        if self._calc is None:
            self._calc = self.fresh()
        return self._calc

    def fresh(self) -> Any:
        """Return another calculator."""
        return self.factory()

    @cached_property
    def numbers(self) -> tuple[int, int]:
        """Two elements that the calculator answers for (one, twice, if it knows only one).

        Raises
        ------
        AssertionError
            None of the usual elements can be calculated.
        """
        known: list[int] = []
        reason: Exception | None = None
        for z in ELEMENTS:
            atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
            atoms.numbers[:] = z
            try:
                self.once("energy", atoms)
            except Exception as error:  # a calculator may raise anything
                reason = error
                continue
            known.append(z)
            if len(known) == 2:
                break

        if not known:
            raise AssertionError(
                f"no crystal of any usual element can be calculated; the last said {reason!r}"
            )

        return known[0], known[-1]

    def crystal(self) -> Atoms:
        """A distorted crystal of four atoms and two elements, in a skewed cell."""
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
        atoms.numbers[:] = [self.numbers[0]] * 3 + [self.numbers[1]]
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.04 * np.triu(np.ones((3, 3)), 1)), True)
        atoms.positions += np.random.default_rng(1).normal(scale=0.06, size=(4, 3))
        return atoms

    def molecule(self) -> Atoms:
        """Three atoms without a cell."""
        a, b = self.numbers
        return Atoms([a, b, a], positions=[[0, 0, 0], [1.9, 0.1, 0.2], [-0.4, 2.2, 0.3]])

    def slab(self) -> Atoms:
        """The crystal's four atoms, periodic along two lattice vectors, with vacuum."""
        atoms = self.crystal()
        atoms.set_cell([atoms.cell[0], atoms.cell[1], [0, 0, 18.0]])
        atoms.pbc = (True, True, False)
        return atoms

    def wire(self) -> Atoms:
        """Two atoms, periodic along one lattice vector."""
        a, b = self.numbers
        places = [[0.2, 7.0, 7.0], [1.9, 7.6, 7.1]]
        return Atoms([a, b], positions=places, cell=[3.6, 14.0, 14.0], pbc=(True, False, False))

    def energy(self, atoms: Atoms) -> float:
        """Energy by the shared calculator."""
        return float(self.calc.get_property("energy", atoms.copy()))

    def get(self, name: str, atoms: Atoms) -> Any:
        """Any property by the shared calculator."""
        return self.calc.get_property(name, atoms.copy())

    def once(self, name: str, atoms: Atoms) -> Any:
        """Any property by a calculator of its own, which a failure may spoil."""
        return self.fresh().get_property(name, atoms.copy())

    def gives(self, name: str) -> bool:
        """Whether the calculator says that it gives a property."""
        return name in self.calc.implemented_properties

    @cached_property
    def probe(self) -> dict[str, Any]:
        """What making and using the calculator does to a fresh process.

        Raises
        ------
        NotApplicable
            There is no ``module:factory`` to start it from.
        AssertionError
            The fresh process failed.
        """
        if not self.spec:
            raise NotApplicable("needs the calculator as module:factory, to start a fresh process")
        symbols = ",".join(self.crystal().get_chemical_symbols())

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "report.json"
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", PROBE, self.spec, symbols, str(out)],
                capture_output=True,
                text=True,
                env=dict(self.environment),
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise AssertionError(f"in a fresh process: {last}")
            report: dict[str, Any] = json.loads(out.read_text())

        return report


def run_contract_check(check: ContractCheck, subject: CalculatorSubject) -> Outcome:
    """Run one check; what the calculator prints or warns of on the way is kept away."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            figure = check.run(subject)
    except NotApplicable as reason:
        return Outcome(check.name, "not applicable", None, check.tolerance, str(reason))
    except AssertionError as error:
        return Outcome(check.name, "violated", None, check.tolerance, _one_line(str(error)))
    except Exception as error:  # the calculator under test may raise anything
        text = f"{type(error).__name__}: {error}"
        return Outcome(check.name, "failed", None, check.tolerance, _one_line(text))

    if math.isfinite(figure) and figure <= check.tolerance:
        return Outcome(check.name, "passed", figure, check.tolerance)
    text = f"{check.doc} Measured {figure:.3g}, allowed {check.tolerance:.3g}."
    return Outcome(check.name, "violated", figure, check.tolerance, text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
