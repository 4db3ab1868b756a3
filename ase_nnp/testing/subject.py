"""A model under test with structures that it knows, and how checks are registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_nnp.errors import StructureError, UnsupportedElementError
from ase_nnp.models.potential import Potential
from ase_nnp.registry.correction import Correction
from ase_nnp.registry.family import ModelFamily

__all__ = ["CHECKS", "Check", "Subject", "check", "compare", "relative"]

CHECKS: list[Check] = []
PREFERRED = (29, 8, 6, 1, 7, 14, 13, 11, 17)


@dataclass(frozen=True)
class Check:
    """One property that a potential owes."""

    name: str
    doc: str
    tolerance: float
    run: Callable[[Subject], float]


def check(tolerance: float) -> Callable[[Callable[[Subject], float]], Callable[[Subject], float]]:
    """Register a function as a check with its tolerance on the relative violation."""

    def add(function: Callable[[Subject], float]) -> Callable[[Subject], float]:
        name = function.__name__.removeprefix("check_")
        doc = (function.__doc__ or "").strip().splitlines()[0]
        CHECKS.append(Check(name, doc, tolerance, function))
        return function

    return add


@dataclass
class Subject:
    """A model or correction under test, with structures of elements that it knows.

    ``device`` is where the check "runs on a device" puts it: the stand-in, or one that is there.
    ``remarks`` are what checks say beside their figure, by the name of the check.
    """

    family: ModelFamily | Correction
    model: Potential
    device: str = "standin"
    remarks: dict[str, str] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    @cached_property
    def numbers(self) -> list[int]:
        """Three elements that the model knows (repeated if it knows fewer)."""
        known = self.model.elements
        if known is None:
            return list(PREFERRED[:3])

        # Usual elements first: a rare one may have an untrained row.
        picked = [z for z in PREFERRED if z in known] + sorted(known - set(PREFERRED))
        return (picked * 3)[:3]

    @property
    def scalar(self) -> str:
        """The energy, or the first scalar of a property model."""
        outputs = self.model.outputs
        return "energy" if "energy" in outputs else outputs[0]

    @property
    def has_forces(self) -> bool:
        """Whether the model gives forces."""
        return "forces" in self.model.outputs

    def crystal(self) -> Atoms:
        """A distorted 4-atom crystal with two elements and a skewed cell."""
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
        atoms.numbers[:] = [self.numbers[0]] * 3 + [self.numbers[1]]
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.05 * np.triu(np.ones((3, 3)), 1)), True)
        atoms.positions += np.random.default_rng(1).normal(scale=0.08, size=(4, 3))
        return atoms

    def molecule(self) -> Atoms:
        """Five atoms without a cell and without any symmetry."""
        a, b, c = self.numbers
        places = [[0, 0, 0], [1.3, 0.2, 0.1], [-0.4, 1.25, 0.3], [0.1, -0.5, 1.4], [1.9, 1.3, 0.8]]
        return Atoms([a, b, c, b, a], positions=places)

    def slab(self) -> Atoms:
        """A thin slab, periodic along x and y only, with an atom above it."""
        atoms = self.crystal()
        atoms += Atoms([self.numbers[2]], positions=[[0.3, 0.2, 5.2]])
        atoms.pbc = (True, True, False)
        return atoms

    def predict(self, *structures: Atoms, stress: bool = False) -> list[dict[str, Any]]:
        """Evaluate structures in one batch."""
        from ase_nnp.models.predictor import Predictor

        names = [p for p in self.model.outputs if p != "stress" or stress]

        # One batch whatever its size: the checks are about batches.
        return Predictor(self.model, max_edges=10**9, max_atoms=10**9)(structures, names)

    def value(self, atoms: Atoms) -> float:
        """The energy or first scalar of one structure."""
        return float(self.predict(atoms)[0][self.scalar])

    def periodic_only(self) -> bool:
        """Whether the model refuses a structure without a cell."""
        try:
            self.predict(self.molecule())
        except UnsupportedElementError:
            raise
        except StructureError:
            return True
        return False

    def finite(self) -> Atoms:
        """A structure to move about: the molecule, or the crystal for crystal-only models."""
        return self.crystal() if self.periodic_only() else self.molecule()


def relative(a: Any, b: Any) -> float:
    """Largest difference over the largest value (at least 1e-3, where numbers mean nothing)."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise AssertionError(f"shapes differ: {a.shape} and {b.shape}")
    return float(np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), 1e-3))


class Figure(float):
    """A figure that remembers which result it is ``of``."""

    of: str = ""


def compare(one: dict[str, Any], two: dict[str, Any]) -> Figure:
    """Largest relative difference over all results."""
    if one.keys() != two.keys():
        raise AssertionError(f"results differ: {sorted(one)} and {sorted(two)}")
    figures = []
    for name in one:
        figures.append(Figure(relative(one[name], two[name])))
        figures[-1].of = name
    return max(figures)
