"""What ``ase-nnp relax`` does when little is said: the default model, an example, its doubts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["doubts", "example", "named", "split_inputs"]


def split_inputs(inputs: list[str]) -> tuple[str | None, Path | None]:
    """Tell model and structures apart: one argument alone is the structures."""
    if len(inputs) > 2:
        raise ConfigError(f"relax takes a model and a file of structures, not {len(inputs)} names.")
    if len(inputs) == 2:
        return inputs[0], Path(inputs[1])
    if not inputs:
        return None, None
    from ase_nnp.registry.installed import installed

    if inputs[0] in installed().families or inputs[0].endswith(".nnp"):
        raise ConfigError(f"'{inputs[0]}' is a model; which structures? relax MODEL STRUCTURES.")
    return None, Path(inputs[0])


def example() -> Atoms:
    """CO above a hollow of a small copper slab whose two lowest layers are fixed."""
    from ase.build import add_adsorbate, fcc111, molecule
    from ase.constraints import FixAtoms

    atoms: Atoms = fcc111("Cu", (2, 2, 4), a=3.63, vacuum=7.0)
    atoms.set_constraint(FixAtoms(mask=[atom.tag > 2 for atom in atoms]))
    carbon = molecule("CO").symbols.index("C")
    co = molecule("CO")
    co.rotate(co.positions[1 - carbon] - co.positions[carbon], "z")
    add_adsorbate(atoms, co, 1.6, "fcc", mol_index=carbon)
    return atoms


def doubts(potential: Potential, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    """Return what the model's uncertainty, if it has one, says of each structure."""
    wanted = [p for p in ("energy_std", "ood_score", "ood_flag") if p in potential.outputs]
    if not wanted or not structures:
        return [{} for _ in structures]
    from ase_nnp.models.predictor import Predictor

    found = []
    for row in Predictor(potential)(structures, wanted, progress=False):
        said: dict[str, Any] = {
            k: float(row[k]) for k in ("energy_std", "ood_score") if k in wanted
        }
        if "ood_flag" in wanted:
            said["out_of_domain"] = bool(row["ood_flag"])
        found.append(said)
    return found


def named(potential: Any) -> str:
    """Name of a model, also of one inside an uncertainty."""
    inner = getattr(potential, "base", potential)
    while hasattr(inner, "base"):
        inner = inner.base
    return str(inner.family)
