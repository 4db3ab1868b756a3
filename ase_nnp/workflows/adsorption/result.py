"""What a search for adsorption minima came to: ranked minima, and what was rejected and why."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.files.atomic import whole_file, write_whole
from ase_nnp.workflows.adsorption.geometry import AdsorbateGeometry

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AdsorptionResult", "Minimum", "Rejected"]


@dataclass(frozen=True)
class Minimum:
    """A minimum that passed the gate.

    Attributes
    ----------
    atoms
        The relaxed structure, with its energy and forces.
    energy
        Adsorption energy, eV; the result's reaction says of what.
    std, interval
        Standard deviation and central 90 % interval, eV; None where the model has none.
    geometry
        Site, height, bonds, tilt.
    placements
        Numbers of the placements that led here, by a push from a saddle too.
    ood_score
        The model's own score of how strange the structure is; None where it has none.
    """

    atoms: Atoms = field(repr=False)
    energy: float
    std: float | None
    interval: tuple[float, float] | None
    geometry: AdsorbateGeometry
    placements: tuple[int, ...]
    ood_score: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the structure."""
        return {
            "site": self.geometry.site,
            "energy": self.energy,
            "std": self.std,
            "interval": None if self.interval is None else list(self.interval),
            "placements": list(self.placements),
            "ood_score": self.ood_score,
            **{k: v for k, v in self.geometry.as_dict().items() if k != "site"},
        }


@dataclass(frozen=True)
class Rejected:
    """A placement that is not taken for a minimum, and why.

    Attributes
    ----------
    reason
        A key of :data:`ase_nnp.workflows.adsorption.gate.REASONS`.
    detail
        More on it, or nothing.
    placements
        Numbers of the placements that ended so.
    start
        Site where the first of them was put.
    energy
        What the adsorption energy would be, eV; None if there is none.
    atoms
        The last structure.
    """

    reason: str
    detail: str
    placements: tuple[int, ...]
    start: str
    energy: float | None
    atoms: Atoms = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the structure."""
        return {
            "reason": self.reason,
            "detail": self.detail,
            "placements": list(self.placements),
            "start": self.start,
            "energy": self.energy,
        }


@dataclass(frozen=True)
class AdsorptionResult:
    """Distinct minima of an adsorbate on a slab, the most stable first.

    Attributes
    ----------
    surface, system
        Ids of the slab, and of slab and adsorbate, the same tomorrow.
    minima
        The ``top`` of those that passed the gate.
    rejected
        All that did not.
    reaction, reference
        Of what the energies are, and by which scheme.
    error_bar
        A sentence on what the ± is, or why there is none.
    slab
        The relaxed clean slab.
    gas, amounts
        The gas-phase references as they were used, and how much of each; none for a model of
        adsorption energies.
    settings
        What the search was asked for, and the model.
    unknown
        Of the clean slab (``"slab"``) and the molecules (``"CO(g)"``) those that the model's own
        flag calls outside of what it knows: no energy here is to be trusted then.
    counts
        ``placements``, ``distinct`` ones, ``minima`` that passed the gate, ``rejected``
        placements, ``relaxations`` and their ``steps``.
    """

    system: str
    minima: list[Minimum]
    rejected: list[Rejected]
    reaction: str
    reference: str
    error_bar: str
    slab: Atoms = field(repr=False)
    gas: Mapping[str, Atoms] = field(repr=False)
    amounts: Mapping[str, float] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    counts: Mapping[str, int] = field(repr=False)
    unknown: tuple[str, ...] = ()

    @property
    def surface(self) -> str:
        """The slab's part of :attr:`system`."""
        return str(self.slab.info.get("slab_id", self.slab.get_chemical_formula()))

    @property
    def best(self) -> Minimum | None:
        """The most stable minimum; None if nothing passed the gate."""
        return self.minima[0] if self.minima else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        reasons = Counter(one.reason for one in self.rejected for _ in one.placements)
        return {
            "system": self.system,
            "reaction": self.reaction,
            "reference": self.reference,
            "error_bar": self.error_bar,
            "unknown": list(self.unknown),
            "minima": [one.as_dict() for one in self.minima],
            "rejected": [one.as_dict() for one in self.rejected],
            "reasons": dict(sorted(reasons.items())),
            "counts": dict(self.counts),
            "settings": dict(self.settings),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the ranking, with its structures, to one file that appears whole.

        Parameters
        ----------
        path
            ``.json``: :meth:`as_dict`. ``.db``: an ASE database with the minima and what was
            rejected (``reason`` tells them apart). Anything else: the minima in the format of
            that ending, energies of the structures being those of the model.
        """
        from ase.io import write

        path = Path(path)
        if path.suffix == ".json":
            write_whole(path, json.dumps(self.as_dict(), indent=1))
            return
        with whole_file(path) as beside:
            if path.suffix == ".db":
                _write_db(self, beside)
            else:
                write(beside, [_labeled(one, k, self.unknown) for k, one in enumerate(self.minima)])

    def oc20_dense(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the minima as :func:`ase_nnp.metrics.adsorbml_metrics` takes ML results.

        ``ml+dft_energy`` is None: :func:`~ase_nnp.workflows.adsorption.rejudge` fills it.
        """
        configs = {
            _config(one): {"ml_energy": one.energy, "ml+dft_energy": None} for one in self.minima
        }
        return {self.system: configs}


def _config(one: Minimum) -> str:
    return f"placement_{one.placements[0]}"


def _labeled(one: Minimum, rank: int, unknown: Sequence[str]) -> Atoms:
    """The structure with what is known of it in ``info``."""
    atoms: Atoms = one.atoms.copy()
    atoms.calc = one.atoms.calc
    atoms.info["rank"] = rank
    atoms.info["adsorption_energy"] = one.energy
    if one.std is not None:
        atoms.info["adsorption_energy_std"] = one.std
    atoms.info["site"] = one.geometry.site
    if unknown:
        atoms.info["unknown"] = ", ".join(unknown)
    return atoms


def _write_db(result: AdsorptionResult, path: Path) -> None:
    from ase.db import connect

    with connect(str(path), append=False) as table:
        for rank, one in enumerate(result.minima):
            std = {} if one.std is None else {"adsorption_energy_std": one.std}
            table.write(
                one.atoms,
                system=result.system,
                rank=rank,
                reason="accepted",
                adsorption_energy=one.energy,
                site=one.geometry.site,
                data={
                    "reaction": result.reaction,
                    "unknown": list(result.unknown),
                    **one.as_dict(),
                },
                **std,
            )
        for rejected in result.rejected:
            energy = {} if rejected.energy is None else {"adsorption_energy": rejected.energy}
            table.write(
                rejected.atoms,
                system=result.system,
                rank=-1,
                reason=rejected.reason,
                site=rejected.start,
                data={"reaction": result.reaction, **rejected.as_dict()},
                **energy,
            )
