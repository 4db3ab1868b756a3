r"""OC25's pseudo-solvation energy of an adsorbate, from one snapshot of a solid-liquid interface.

Four structures are cut from the snapshot and evaluated as they are: with the adsorbate :math:`A`,
the solvent :math:`S` (and ions), both, or neither on the surface,

.. math:: E_\mathrm{solv} = [E(A + S) - E(S)] - [E(A) - E(\varnothing)].

Nothing relaxes: solvent and surface stay as the snapshot has them (OC25, arXiv:2509.17862).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import StructureError
from ase_nnp.models.files import load_model
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.observables import Observable

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SolvationEnergy", "solvation", "solvation_parts"]


@dataclass(frozen=True)
class SolvationEnergy:
    """A solvation energy and its two brackets, eV, with error bars that know what cancels.

    Attributes
    ----------
    energy
        The adsorption energy with solvent minus that without; negative where the solvent binds
        the adsorbate to the surface more firmly.
    with_solvent, without_solvent
        The two adsorption energies, up to the energy of the free adsorbate, which cancels.
    structures
        The four structures by name, those of :data:`ase_nnp.metrics.solvation.SOLVATION_PARTS`.
    parts
        Their energies.
    """

    energy: Observable
    with_solvent: Observable
    without_solvent: Observable
    structures: dict[str, Atoms]
    parts: dict[str, Observable]

    def __float__(self) -> float:
        return float(self.energy)

    def interval(self, coverage: float = 0.9) -> tuple[float, float] | None:
        """Return the central interval of the solvation energy; None for a model without bars."""
        return self.energy.interval(coverage)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values under the names of the release."""
        interval = self.interval()
        return {
            "solvation_energy": float(self.energy),
            "solvation_energy_std": self.energy.std,
            "interval_90": None if interval is None else list(interval),
            "solvent_ads_energy": float(self.with_solvent),
            "clean_ads_energy": float(self.without_solvent),
            "energies": {name: float(value) for name, value in self.parts.items()},
            "covers": self.energy.covers,
            "unknown": [name for name, value in self.parts.items() if value.unknown],
        }


def solvation_parts(snapshot: Atoms) -> dict[str, Atoms]:
    """Cut the four structures from a snapshot by its tags: 2 is the adsorbate, 3 the solvent.

    Raises
    ------
    StructureError
        A part is missing from the tags.
    """
    tags = snapshot.get_tags()
    adsorbate, solvent = tags == 2, tags == 3
    names = {"surface (tags 0, 1)": ~(adsorbate | solvent), "adsorbate (tag 2)": adsorbate}
    missing = [n for n, mask in {**names, "solvent (tag 3)": solvent}.items() if not mask.any()]
    if missing:
        raise StructureError(
            f"A snapshot of an interface has surface, adsorbate and solvent; no {missing[0]}."
        )

    masks = {
        "full": np.ones(len(tags), bool),
        "solvent_surface": ~adsorbate,
        "adsorbate_surface": ~solvent,
        "surface": ~(adsorbate | solvent),
    }
    parts = {}
    for name, mask in masks.items():
        part = snapshot[np.flatnonzero(mask)]
        part.calc = None
        part.info = {k: v for k, v in snapshot.info.items() if k in ("charge", "spin")}
        parts[name] = part
    return parts


def solvation(snapshot: Atoms, model: Any = None) -> SolvationEnergy:
    """Return the pseudo-solvation energy of the adsorbate in a snapshot.

    Parameters
    ----------
    snapshot
        Surface, adsorbate, solvent and ions, with OC25's tags 0, 1, 2, 3.
    model
        What :func:`ase_nnp.load_model` takes; None for the default model. An ensemble or a fitted
        last layer gives an interval in which the four energies' common errors cancel.

    Raises
    ------
    StructureError
        Tags that name no adsorbate or no solvent.
    """
    structures = solvation_parts(snapshot)
    values = dict(zip(structures, energies(load_model(model), list(structures.values())),
                      strict=True))  # fmt: skip
    with_solvent = values["full"] - values["solvent_surface"]
    without = values["adsorbate_surface"] - values["surface"]
    return SolvationEnergy(with_solvent - without, with_solvent, without, structures, values)
