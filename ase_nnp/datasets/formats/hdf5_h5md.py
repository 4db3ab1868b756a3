"""H5MD trajectories: elements with steps of their own, units in attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.formats.hdf5_layouts import (
    BOHR,
    HARTREE,
    Block,
    Frame,
    Layout,
    Options,
    scalar,
)
from ase_nnp.datasets.formats.hdf5_safe import children, groups, numeric, row, shape, whole
from ase_nnp.datasets.formats.hdf5_text import check_heaps
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import h5py

_LENGTH = dict.fromkeys(("Angstrom", "angstrom", "Ang", "ang", "AA", "Å", "A"), 1.0)
_LENGTH |= {"nm": 10.0, "pm": 0.01}
_LENGTH |= {"Bohr": BOHR, "bohr": BOHR, "a0": BOHR, "m": 1e10}
_ENERGY = {"eV": 1.0, "meV": 1e-3, "Hartree": HARTREE, "hartree": HARTREE, "Ha": HARTREE}
_ENERGY |= {"kJ": 6.241509074460763e21, "kcal": 4.184 * 6.241509074460763e21}
_ENERGY |= {"J": 6.241509074460763e18, "Ry": HARTREE / 2}
_ENERGY |= {"GPa": 1 / 160.2176634, "MPa": 1 / 160217.6634, "Pa": 1 / 160.2176634e9}
_ENERGY |= {"kbar": 1 / 1602.176634, "kB": 1 / 1602.176634, "bar": 1 / 1602176.634}
_UNITS = {**_LENGTH, **_ENERGY, "mol": 6.02214076e23, "u": 1.0, "amu": 1.0, "e": 1.0}
_TOKEN = re.compile(r"(a0|[^\d\s^*/+-]+)\s*\^?\s*([+-]?\d+)?")


def unit_factor(unit: str) -> float:
    """Return what a value in an H5MD unit (``"kJ mol-1 nm-1"``) is multiplied by.

    The result is in eV, Angstrom, atomic mass units or elementary charges.

    Raises
    ------
    DatasetError
        For a unit that is not known.
    """
    factor = 1.0
    for part in unit.replace("**", "^").replace("*", " ").split():
        sign = 1
        for number, piece in enumerate(part.split("/")):
            match = _TOKEN.fullmatch(piece)
            if match is None or match[1] not in _UNITS:
                raise DatasetError(
                    f"unknown unit {unit!r}; known are {', '.join(sorted(_UNITS))} with powers"
                )
            sign = -1 if number else 1
            factor *= _UNITS[match[1]] ** (sign * int(match[2] or 1))
    return factor


class H5MD(Layout):
    """H5MD: ``/particles/<group>/position/{step,value}``, units in attributes."""

    name = "h5md"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return "h5md" in root and "particles" in root

    def _group(self, root: h5py.File, options: Options) -> h5py.Group:
        names = [g.name for g in groups(root["particles"]) if "position" in g]
        wanted = options.group
        if wanted is not None:
            names = [name for name in names if name.rpartition("/")[2] == wanted]
        if len(names) != 1:
            raise DatasetError(
                f"{len(names)} groups of particles with positions ({', '.join(names)}); "
                "choose one with group=",
                path=root.filename,
            )
        return root[names[0]]

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        check_heaps(root.filename)  # units and boundaries are text attributes
        group = self._group(root, options)
        item = group["position"]
        have = shape(item, "value") if hasattr(item, "keys") else None
        if have is None or len(have) != 3 or have[2] != 3:
            yield Block(group.name, problem=f"position/value has shape {have}, wanted (T, N, 3)")
        else:
            yield Block(group.name, have[0], have[1])

    @staticmethod
    def _step(item: h5py.Group, frame: int) -> int:
        """Return the step of a frame; a scalar ``step`` is an increment."""
        have = shape(item, "step")
        if have is None:
            return frame
        if have == ():
            return frame * int(whole(item, "step"))
        return int(row(item, "step", frame))

    def _value(self, parent: h5py.Group, name: str, step: int, default_unit: str = "") -> Any:
        """Value of an element at ``step``, converted; fixed elements are plain datasets."""
        if name not in children(parent):
            return None
        item = parent[name]
        if not hasattr(item, "keys"):
            value, unit = whole(parent, name), item.attrs.get("unit")
        else:
            # `step` is a table, an increment (a scalar), or left out: then frames are steps.
            stored = shape(item, "step")
            frames = (shape(item, "value") or (0,))[0]
            if stored == () or stored is None:
                stride = int(whole(item, "step")) if stored == () else 1
                rows = [step // stride] if stride and step % stride == 0 else []
                rows = [k for k in rows if k < frames]
            else:
                rows = np.flatnonzero(np.asarray(whole(item, "step")) == step).tolist()
            if not rows:
                return None
            value, unit = row(item, "value", rows[0]), item["value"].attrs.get("unit")

        if not numeric(value):
            return value
        unit = unit.decode() if isinstance(unit, bytes) else unit
        factor = unit_factor(str(unit) if unit is not None else default_unit)
        return value if factor == 1.0 else np.asarray(value, dtype=float) * factor

    def _energy(self, root: h5py.File, group: h5py.Group, step: int) -> Any:
        if "observables" not in root:
            return None
        places = [root["observables"]]
        name = group.name.rpartition("/")[2]
        if name in children(root["observables"]):
            places.insert(0, root["observables"][name])
        for place in places:
            for key in ("potential_energy", "energy"):
                if hasattr(place, "keys") and (value := self._value(place, key, step)) is not None:
                    return value
        return None

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        step = self._step(group["position"], frame)
        numbers = self._value(group, "species", step)

        results: dict[str, Any] = {}
        if (energy := self._energy(root, group, step)) is not None:
            results["energy"] = scalar(energy)
        for ours, theirs in (("forces", "force"), ("charges", "charge")):
            if (value := self._value(group, theirs, step)) is not None:
                results[ours] = value

        # A box of three lengths or of three vectors; `boundary` says periodic or none for each.
        cell, pbc = None, np.zeros(3, dtype=bool)
        if "box" in children(group):
            box = group["box"]
            kinds = [k.decode() if isinstance(k, bytes) else str(k) for k in box.attrs["boundary"]]
            pbc = np.array([kind == "periodic" for kind in kinds])
            edges = self._value(box, "edges", step)
            if edges is not None:
                cell = np.diag(edges) if np.ndim(edges) == 1 else np.asarray(edges)

        arrays = {}
        if (masses := self._value(group, "mass", step)) is not None:
            arrays["masses"] = masses
        info: dict[str, Any] = {"step": step}

        # Positions define the frames, so they are read by frame and not looked up by step.
        positions = row(group["position"], "value", frame)
        unit = group["position"]["value"].attrs.get("unit", "Angstrom")
        factor = unit_factor(unit.decode() if isinstance(unit, bytes) else str(unit))
        positions = np.asarray(positions, dtype=float) * factor
        return Frame(numbers, positions, cell, pbc, results, info, arrays)
