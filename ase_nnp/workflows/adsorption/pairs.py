"""Surfaces times adsorbates: the items of a screening run, and what is kept of each search."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ase_nnp.errors import ConfigError, StructureError, TaskError
from ase_nnp.workflows.adsorption.adsorbates import adsorbate
from ase_nnp.workflows.adsorption.search import adsorb, is_slab
from ase_nnp.workflows.batched.inputs import Structures

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["Pairs", "most_stable"]

#: Joins the names of adsorbates that are placed together.
TOGETHER = "+"


class Pairs(Sequence[Any]):
    """Every surface with every adsorbate, as a sequence of structures for ``screen``.

    Parameters
    ----------
    surfaces
        Slabs, crystals, or both: a list or a dataset.
    adsorbates
        Names as for :func:`~ase_nnp.workflows.adsorption.adsorbate`; ``"CO+OH"`` places two
        together.
    miller
        The planes that crystals are cut along; slabs are taken as they are.

    Raises
    ------
    ConfigError
        No adsorbate, an unknown one, or no plane.
    """

    def __init__(
        self,
        surfaces: Any,
        adsorbates: Sequence[str],
        miller: Sequence[Sequence[int]] = ((1, 1, 1),),
    ) -> None:
        if isinstance(adsorbates, str) or not adsorbates or not miller:
            raise ConfigError("Pairs takes a list of adsorbates, and one plane or more.")
        for name in adsorbates:
            for part in name.split(TOGETHER):
                adsorbate(part)  # an unknown name is told here, not after hours
        self.surfaces = Structures(surfaces)
        planes = [tuple(int(k) for k in plane) for plane in miller]

        self._items: list[tuple[int, tuple[int, ...] | None, str]] = []
        for index in range(len(self.surfaces)):
            # What cannot be read is one failed item for each adsorbate, like any other failure.
            atoms = self.surfaces.readable(index)
            cut = planes if len(atoms) and not is_slab(atoms) else [None]
            self._items += [(index, plane, name) for plane in cut for name in adsorbates]

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...
    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        surface, plane, name = self._items[index]
        atoms: Atoms = self.surfaces.read(surface).copy()
        atoms.calc = None
        atoms.info["adsorbate"] = name
        if plane is not None:
            atoms.info["miller"] = list(plane)
        return atoms


def most_stable(item: Atoms, model: Potential, folder: Path | None, **options: Any) -> Atoms:
    """Return the most stable minimum of one item, with the whole ranking in ``info``.

    Parameters
    ----------
    item
        Of :class:`Pairs`.
    model
        The model.
    folder
        Keeps the state of the search.
    **options
        As for :func:`~ase_nnp.workflows.adsorption.adsorb`.

    Raises
    ------
    StructureError
        ``info`` names no adsorbate.
    TaskError
        No placement passed the gate; the reasons are counted.
    """
    name = item.info.get("adsorbate")
    if not isinstance(name, str):
        raise StructureError(
            "info['adsorbate'] names no adsorbate: screen takes Pairs of surfaces and adsorbates."
        )
    if not is_slab(item):
        options["miller"] = tuple(int(k) for k in item.info["miller"])
    bare = item.copy()
    del bare.info["adsorbate"]
    result = adsorb(bare, name.split(TOGETHER), model, folder=folder, **options)

    reasons = Counter(one.reason for one in result.rejected for _ in one.placements)
    best = result.best
    if best is None:
        said = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        raise TaskError(f"no placement of {name} passed the gate: {said}")
    atoms: Atoms = best.atoms.copy()
    atoms.calc = best.atoms.calc
    atoms.info = {
        "surface": result.surface,
        "adsorbate": name,
        "adsorption_energy": best.energy,
        "site": best.geometry.site,
        "reaction": result.reaction,
        "reference": result.reference,
        "ranking": json.dumps([one.as_dict() for one in result.minima]),
        "rejected": json.dumps(dict(sorted(reasons.items()))),
    }
    # A model without error bars has no interval, and a missing key says so in every format.
    if best.std is not None and best.interval is not None:
        low, high = best.interval
        atoms.info |= {"adsorption_std": best.std, "interval_low": low, "interval_high": high}
    if result.unknown:
        atoms.info["unknown"] = ", ".join(result.unknown)
    return atoms
