"""Ways to divide a dataset: by size, at random, by group, by stored ids, by content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from ase_nnp.datasets.columns import Columns
from ase_nnp.datasets.symbols import atomic_number
from ase_nnp.errors import DatasetError

__all__ = ["select", "split"]

Array = np.ndarray[Any, Any]
Range = tuple[float | None, float | None]


class Described(Protocol):
    """What a division asks of a dataset; the dataset makes the views."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> Any: ...

    @property
    def natoms(self) -> Array: ...

    @property
    def metadata(self) -> Columns: ...


def split(
    dataset: Described,
    parts: Sequence[float] | Mapping[str, Any],
    *,
    seed: int = 0,
    group: str | Sequence[Any] | None = None,
    shuffle: bool = True,
) -> Any:
    """Return the positions of each part of a dataset, without overlap.

    Parameters
    ----------
    parts
        Fractions that sum to at most 1, as a list or by name: ``{"train": 0.9, "val": 0.1}``. Or
        stored ids by name: ``{"train": [sid, ...], "val": [...]}``; ``"random123"`` is 123.
    seed
        Of the random order; the same seed gives the same split.
    group
        Keep what belongs together in one part: ``"sid"`` (all frames of a system),
        ``"composition"``, or one label a structure. Fractions then hold for the groups' sizes as
        nearly as whole groups allow.
    shuffle
        False cuts the dataset in its own order.
    dataset
        What to divide.

    Returns
    -------
    list or dict of arrays
        As ``parts`` was; positions in each part are in ascending order.
    """
    names = list(parts) if isinstance(parts, Mapping) else None
    values = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
    if not values:
        raise DatasetError("a split into no parts")
    if all(isinstance(value, Real) for value in values):
        chosen = _by_fraction(dataset, [float(v) for v in values], seed, group, shuffle)
    else:
        chosen = _by_ids(dataset, values)
    positions = [np.sort(index) for index in chosen]
    return positions if names is None else dict(zip(names, positions, strict=True))


def _by_fraction(
    dataset: Described, fractions: list[float], seed: int, group: Any, shuffle: bool
) -> list[Array]:
    total = sum(fractions)
    if not all(0 <= f <= 1 for f in fractions) or total > 1 + 1e-9:
        raise DatasetError(f"fractions {fractions}; they must be 0 to 1 and sum to at most 1")
    n = len(dataset)
    labels = np.arange(n) if group is None else _groups(dataset, group)

    names, members = np.unique(labels, return_inverse=True)
    if not shuffle:  # groups in order of first appearance
        order = np.argsort(np.unique(members, return_index=True)[1])
    else:
        order = _generator(seed).permutation(len(names))

    sizes = np.bincount(members, minlength=len(names))[order]
    middle = np.cumsum(sizes) - sizes / 2  # a group goes where its middle falls
    bounds = np.concatenate([[0.0], np.cumsum(fractions)])

    # Single structures are cut at whole numbers; groups have no such places.
    edges = np.round(bounds * n) if group is None else bounds * n
    # Rounded sums must not leave the last structure in no part.
    if abs(total - 1) < 1e-9:
        edges[-1] = n

    part_of_group = np.full(len(names), len(fractions))
    part_of_group[order] = np.searchsorted(edges[1:], middle, side="left")
    part = part_of_group[members]
    return [np.flatnonzero(part == k) for k in range(len(fractions))]


def _generator(seed: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"seed {seed!r}: {error}") from None


def _groups(dataset: Described, group: Any) -> Array:
    if isinstance(group, str):
        table = dataset.metadata
        if group == "sid":
            return table.sid
        if group == "composition":
            texts = [repr(sorted(table.composition(k).items())) for k in range(len(table))]
            return np.array(texts)
        raise DatasetError(f"group {group!r}; it is 'sid', 'composition' or one label a structure")
    labels = np.asarray(group)
    if labels.shape != (len(dataset),):
        raise DatasetError(f"{labels.shape} labels for {len(dataset)} structures")
    return labels


def _bare(sid: Any) -> str:
    """Return an id as text; ``random123``, ``"123"`` and 123 are one system of OC20."""
    text = str(sid)
    digits = text.removeprefix("random")
    return digits if digits.isdigit() else text


def _by_ids(dataset: Described, lists: list[Any]) -> list[Array]:
    places: dict[str, list[int]] = {}
    for number, sid in enumerate(dataset.metadata.sid.tolist()):
        places.setdefault(_bare(sid), []).append(number)

    seen: set[str] = set()
    chosen = []
    for ids in lists:
        texts = [_bare(sid) for sid in ids]
        absent = [sid for sid in texts if sid not in places]
        if absent:
            raise DatasetError(f"{len(absent)} ids are not in the dataset, first {absent[0]!r}")

        twice = seen.intersection(texts)
        if twice:
            raise DatasetError(f"id {sorted(twice)[0]!r} stands in two parts")
        seen.update(texts)
        numbers = [number for sid in dict.fromkeys(texts) for number in places[sid]]
        chosen.append(np.array(numbers, np.int64))
    return chosen


def _inside(values: Array, wanted: Any, name: str) -> Array:
    if isinstance(wanted, tuple) and len(wanted) == 2:
        low, high = wanted
        mask = np.ones(len(values), bool)
        if low is not None:
            mask &= values >= low
        if high is not None:
            mask &= values <= high
        return mask
    if isinstance(wanted, Real):
        return np.asarray(values == wanted)
    raise DatasetError(f"{name} is a value or a pair (lowest, highest) with None for no bound")


def _listed(values: Any) -> list[Any]:
    return [values] if isinstance(values, (str, Integral)) else list(values)


def select(
    dataset: Described,
    *,
    natoms: int | Range | None = None,
    elements: Any = None,
    contains: Any = None,
    excludes: Any = None,
    tags: Any = None,
    energy: Range | None = None,
    energy_per_atom: Range | None = None,
    sid: Any = None,
    fid: Any = None,
    where: Callable[[Any], bool] | None = None,
) -> Array:
    """Return the positions that meet all conditions, from metadata alone (but for ``where``).

    Parameters
    ----------
    natoms, energy, energy_per_atom
        A value, or ``(lowest, highest)`` inclusive with None for no bound; eV. A structure
        without energy meets no condition on it. Energies are those of ``energy_kind`` as stored.
    elements
        Symbols or numbers: only these occur.
    contains, excludes
        All of these occur; none of these occurs.
    tags
        All of these tags occur.
    sid, fid
        One id, or several.
    where
        ``where(atoms) -> bool``, asked last and only of what is left; this decodes.
    dataset
        What to choose from.
    """
    mask = np.ones(len(dataset), bool)
    if natoms is not None:
        mask &= _inside(dataset.natoms, natoms, "natoms")

    conditions = (elements, contains, excludes, tags, energy, energy_per_atom, sid, fid)
    if any(condition is not None for condition in conditions):
        table = dataset.metadata
        if energy is not None:
            mask &= _inside(table.energy, energy, "energy")
        if energy_per_atom is not None:
            mask &= _inside(table.energy / table.natoms, energy_per_atom, "energy_per_atom")
        if elements is not None:
            allowed = sum(table.count(z) for z in {*map(atomic_number, _listed(elements))})
            mask &= np.asarray(allowed == table.natoms)
        for element in _listed(contains) if contains is not None else ():
            mask &= table.count(element) > 0
        for element in _listed(excludes) if excludes is not None else ():
            mask &= table.count(element) == 0
        for tag in _listed(tags) if tags is not None else ():
            if not 0 <= tag < 8:
                raise DatasetError(f"tag {tag!r}; the metadata know 0 to 7, where= looks at atoms")
            mask &= (table.tags >> np.uint8(tag)) & 1 == 1
        if sid is not None:
            wanted = {_bare(one) for one in _listed(sid)}
            mask &= np.array([_bare(one) in wanted for one in table.sid.tolist()], bool)
        if fid is not None:
            mask &= np.isin(table.fid, _listed(fid))

    positions = np.flatnonzero(mask)
    if where is not None:
        positions = np.array([k for k in positions if where(dataset[int(k)])], np.int64)
    return positions
