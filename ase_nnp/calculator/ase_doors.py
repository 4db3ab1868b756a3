"""ASE's own doors: ``ase run nnp``, ``get_calculator_class("nnp")``, ``ase info --plugins``,
and OC20/OC25 LMDB files through ``ase.io.read``.

ASE imports this module from two entry points (``ase.ioformats`` and ``ase.plugins``), so it must
stay light: torch comes in when a calculator is made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ase.calculators import calculator as _ase
from ase.utils.plugins import ExternalIOFormat

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["LMDB_FORMAT", "read_nnp_lmdb"]

LMDB_FORMAT = ExternalIOFormat(
    desc="OC20/OC25 dataset (LMDB, ASE-LMDB)",
    code="+S",
    module="ase_nnp.calculator.ase_doors",
    ext=["lmdb", "aselmdb"],
)


class _Calculator:
    """Stands for NNPCalculator until one is made."""

    nolabel = True

    def __new__(cls, **parameters: Any) -> Any:
        from ase_nnp.calculator.calculator import NNPCalculator

        return NNPCalculator(**parameters)


def read_nnp_lmdb(filename: str, index: Any = -1) -> Iterator[Atoms]:
    """Read structures of an OC20/OC25 dataset; ``index`` as in :func:`ase.io.read`."""
    from ase_nnp.datasets import open_dataset

    data = open_dataset(filename)
    chosen = data[index] if isinstance(index, slice) else [data[index]]
    yield from chosen


def _calculator_class() -> Any:
    from ase_nnp.calculator.calculator import NNPCalculator

    return NNPCalculator


@lru_cache(maxsize=1)
def _plugins() -> tuple[Any, ...]:
    """Return what ASE 4 will ask for; the same objects each time, which ASE compares."""
    from ase._4.plugins.plugin import CalculatorPlugin

    return (
        CalculatorPlugin(
            "nnp",
            citation="ase_nnp: neural-network potentials as ASE calculators",
            # ASE compares modules by identity, so it gets the very object that is imported.
            module=sys.modules["ase_nnp"],
            implementation=_calculator_class,
        ),
    )


def __getattr__(name: str) -> Any:
    if name == "__ase_plugins__":
        return list(_plugins())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if "nnp" not in _ase.external_calculators:  # ASE asserts that a name is new
    _ase.register_calculator_class("nnp", _Calculator)
