"""What a model's own flag says of the structures that a result is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["WANTED", "Watched", "doubts", "flagged", "noted", "unknown_places"]

#: One number a structure each; error bars of forces may cost many passes.
WANTED = ("energy_std", "ood_score", "ood_flag")


def doubts(model: Potential, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    """Return ``energy_std`` (eV), ``ood_score`` and ``ood_flag`` of each structure.

    Those that the model gives: empty dictionaries where it has no uncertainty.
    """
    wanted = [name for name in WANTED if name in model.outputs]
    if not wanted or not structures:
        return [{} for _ in structures]
    rows = Predictor(model)(structures, wanted, progress=False)
    return [{name: row[name] for name in wanted} for row in rows]


def unknown_places(model: Potential, structures: Sequence[Atoms]) -> list[int]:
    """Return which structures the model's own flag calls outside of what it knows."""
    if "ood_flag" not in model.outputs:
        return []
    rows = doubts(model, structures)
    return [k for k, row in enumerate(rows) if bool(row["ood_flag"])]


def flagged(calculator: Any) -> bool:
    """Whether the flag is raised in a calculator's last results; False without a flag."""
    return bool(getattr(calculator, "results", {}).get("ood_flag", False))


def noted(atoms: Atoms, said: Mapping[str, Any]) -> Atoms:
    """Note in ``info`` what a model doubts, which every format keeps; changes ``atoms``.

    ASE's writers drop results whose names they do not know. What ``info`` holds of an earlier
    model under these names goes: it would pass for this one's.
    """
    for name in WANTED:
        atoms.info.pop(name, None)
        if name in said:
            atoms.info[name] = bool(said[name]) if name == "ood_flag" else float(said[name])
    return atoms


class Watched:
    """A calculator for forces that counts how often its flag is raised.

    Parameters
    ----------
    calculator
        Any ASE calculator; one without a flag raises none.
    """

    def __init__(self, calculator: Any) -> None:
        self.calculator = calculator
        self.unknown = 0

    def get_forces(self, atoms: Atoms) -> Any:
        """Return the forces, as :class:`ase.Atoms` asks for them."""
        forces = self.calculator.get_forces(atoms)
        self.unknown += flagged(self.calculator)
        return forces
