"""What a calculation gave, under names that ASE knows and names that it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ase.calculators.calculator import all_properties

__all__ = ["Results"]


class Results(dict[str, Any]):
    """Results by name; ``**results`` unpacks those that ASE knows.

    ASE's ``SinglePointCalculator(atoms, **calc.results)``, with which NEB freezes its images, takes
    no name outside ``ase.calculators.calculator.all_properties``. Unpacking asks :meth:`keys`, so
    that gives ASE's names only, and ``dict(results)`` with it. Everything else sees all results:
    look-ups, iteration, :meth:`items`, :meth:`values`, ``len`` and :meth:`copy`.
    """

    # Python takes a short cut past `keys` unless iteration is overridden too.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def keys(self) -> Any:
        """Return the names that ASE knows."""
        # SinglePointCalculator(**results) raises on a name that is not ASE's.
        return {name: None for name in self if name in all_properties}.keys()

    def copy(self) -> Results:
        """Return a copy with all results."""
        return Results(self.items())
