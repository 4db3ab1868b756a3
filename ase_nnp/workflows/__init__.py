"""What people do with a calculator: relaxations, dynamics, screening and what follows from them.

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "adsorb": "adsorption",
    "adsorption_energy": "adsorption",
    "map_structures": "mapping",
    "propagate": "propagation",
    "relax_many": "batched",
    "run_dynamics": "batched",
    "screen": "screening",
}

__all__ = [
    "adsorb",
    "adsorption_energy",
    "map_structures",
    "propagate",
    "relax_many",
    "run_dynamics",
    "screen",
]

if TYPE_CHECKING:
    from ase_nnp.workflows.adsorption import adsorb as adsorb
    from ase_nnp.workflows.adsorption import adsorption_energy as adsorption_energy
    from ase_nnp.workflows.batched import relax_many as relax_many
    from ase_nnp.workflows.batched import run_dynamics as run_dynamics
    from ase_nnp.workflows.mapping import map_structures as map_structures
    from ase_nnp.workflows.propagation import propagate as propagate
    from ase_nnp.workflows.screening import screen as screen


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
