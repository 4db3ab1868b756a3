"""Calculators for the tests of workers; imported there, in another process."""

from __future__ import annotations

import os
import signal

from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT


def emt(scale=1.0):
    """ASE's EMT, its energies multiplied."""

    class Scaled(EMT):
        def calculate(self, *arguments, **keywords):
            super().calculate(*arguments, **keywords)
            for name in ("energy", "forces", "stress"):
                if name in self.results:
                    self.results[name] = self.results[name] * scale

    print("this goes to the log, not into the protocol")
    return Scaled()


class Batched:
    """An adapter: answers a batch at once, charge included."""

    implemented_properties = ("energy", "forces")

    def predict(self, structures, properties):
        return [
            {
                "energy": float(len(structures)) + atoms.info.get("charge", 0.0),
                "forces": atoms.positions * 2,
            }
            for atoms in structures
        ]


class Suicidal(Calculator):
    """Kills its process when it sees the element boron, raises for carbon."""

    implemented_properties = ("energy",)

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if 5 in atoms.numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if 6 in atoms.numbers:
            raise ValueError("carbon is not for me")
        self.results = {"energy": float(len(atoms))}


def broken():
    raise RuntimeError("no weights here")
