"""HDF5 layouts with cells and time: MACE training files, torch-sim trajectories, H5MD."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

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
from ase_nnp.datasets.formats.hdf5_safe import (
    MAX_TEXT,
    children,
    groups,
    numeric,
    row,
    shape,
    whole,
)
from ase_nnp.datasets.formats.hdf5_text import check_heaps
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import h5py

#: What MACE writes for a value that is not there.
MISSING = ("None", "none", "")
#: Beside MACE's own fields our writer keeps the rest of an ``Atoms`` here, as JSON.
REST = "ase_nnp_rest"


class MACE(Layout):
    """``config_batch_k/config_i``; older files keep the properties directly in ``config_i``."""

    name = "mace"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return any(name.startswith("config_batch_") for name in root)

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        for batch in groups(root):
            if batch.name.startswith("/config_batch_"):
                for name in children(batch):
                    yield Block(f"{batch.name}/{name}")

    @staticmethod
    def _value(group: h5py.Group, name: str) -> Any:
        value = whole(group, name)
        if value is None or (isinstance(value, str) and value in MISSING):
            return None
        return value

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        inner = group["properties"] if "properties" in children(group) else group
        results: dict[str, Any] = {}
        for name in ("energy", "forces", "stress", "dipole", "charges", "magmoms"):
            if (value := self._value(inner, name)) is not None:
                results[name] = scalar(value) if name == "energy" else np.asarray(value)
        info: dict[str, Any] = {}
        for name, key in (("total_charge", "charge"), ("total_spin", "spin")):
            if (value := self._value(inner, name)) is not None:
                info[key] = scalar(value)
        if (virials := self._value(inner, "virials")) is not None:
            info["virials"] = virials
        for name in ("config_type", "head", "weight"):
            value = self._value(group, name)
            if value is not None and not (name == "weight" and scalar(value) == 1.0):
                info[name] = value if isinstance(value, str) else scalar(value)
        info |= {name: whole(inner, name) for name in options.properties if name in inner}
        pbc = self._value(group, "pbc")
        rest = whole(group, REST, limit=16 * MAX_TEXT)
        return Frame(
            self._value(group, "atomic_numbers"),
            self._value(group, "positions"),
            self._value(group, "cell"),
            False if pbc is None else pbc,
            results,
            info,
            row=None if rest is None else json.loads(rest),
        )


class TorchSim(Layout):
    """torch-sim trajectory (PyTables): ``/data/<name>`` with the steps in ``/steps/<name>``."""

    name = "torch-sim"
    results: ClassVar = {"energy": "potential_energy", "forces": "forces", "stress": "stress"}

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return all(name in root for name in ("data", "steps")) and "positions" in root["data"]

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        have = shape(root["data"], "positions")
        steps = shape(root["steps"], "positions")
        problem = ""
        if have is None or len(have) != 3 or have[2] != 3:
            yield Block("/data", problem=f"positions have shape {have}, wanted (T, N, 3)")
            return
        if steps != have[:1]:
            problem = f"{have[0]} frames of positions but steps of shape {steps}"
        yield Block("/data", have[0], have[1], problem)

    @staticmethod
    def _at(root: h5py.File, name: str, step: int) -> Any:
        """Value of ``name`` at ``step``; a static array has one row, at step 0."""
        have = shape(root["data"], name)
        if not have:
            return None
        if have[0] == 1:
            return row(root["data"], name, 0)
        steps = np.asarray(whole(root["steps"], name)).reshape(-1)
        found = np.flatnonzero(steps == step)
        return row(root["data"], name, int(found[0])) if len(found) else None

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        step = int(row(root["steps"], "positions", frame))
        results: dict[str, Any] = {}
        frames = block.frames
        for ours, theirs in self.results.items():
            have = shape(root["data"], theirs)
            # One row of a label in a longer trajectory belongs to its own step only.
            if not have or (have[0] == 1 < frames and int(row(root["steps"], theirs, 0)) != step):
                continue
            if (value := self._at(root, theirs, step)) is not None:
                results[ours] = scalar(value) if ours == "energy" else value
        cell = self._at(root, "cell", step)
        pbc_shape = shape(root["data"], "pbc")
        pbc: Any = False
        if pbc_shape is not None:
            pbc = np.asarray(whole(root["data"], "pbc", 3)).reshape(-1).astype(bool)
        arrays = {}
        if (masses := self._at(root, "masses", step)) is not None:
            arrays["masses"] = masses
        return Frame(
            self._at(root, "atomic_numbers", step),
            row(root["data"], "positions", frame),
            # torch-sim keeps lattice vectors in columns.
            None if cell is None else np.asarray(cell).T,
            pbc,
            results,
            {"step": step},
            arrays,
        )


_LENGTH = {"Angstrom": 1.0, "angstrom": 1.0, "Å": 1.0, "A": 1.0, "nm": 10.0, "pm": 0.01}
_LENGTH |= {"Bohr": BOHR, "bohr": BOHR, "a0": BOHR, "m": 1e10}
_ENERGY = {"eV": 1.0, "meV": 1e-3, "Hartree": HARTREE, "hartree": HARTREE, "Ha": HARTREE}
_ENERGY |= {"kJ": 6.241509074460763e21, "kcal": 4.184 * 6.241509074460763e21}
_ENERGY |= {"J": 6.241509074460763e18, "Ry": HARTREE / 2}
_UNITS = {**_LENGTH, **_ENERGY, "mol": 6.02214076e23, "u": 1.0, "amu": 1.0, "e": 1.0}
_TOKEN = re.compile(r"([^\d\s^*/+-]+)\s*\^?\s*([+-]?\d+)?")


def unit_factor(unit: str) -> float:
    """Return what a value in an H5MD unit (``"kJ mol-1 nm-1"``) is multiplied by.

    The result is in eV, Angstrom, atomic mass units or elementary charges.

    Raises
    ------
    DatasetError
        For a unit that is not known.
    """
    factor = 1.0
    for part in unit.replace("*", " ").split():
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
            stored = shape(item, "step")
            frames = (shape(item, "value") or (0,))[0]
            if stored == () or stored is None:
                stride = int(whole(item, "step")) if stored == () else 1
                found = [step // stride] if stride and step % stride == 0 else []
                found = [k for k in found if k < frames]
            else:
                found = np.flatnonzero(np.asarray(whole(item, "step")) == step).tolist()
            if not found:
                return None
            value, unit = row(item, "value", found[0]), item["value"].attrs.get("unit")
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
        positions = row(group["position"], "value", frame)
        unit = group["position"]["value"].attrs.get("unit", "Angstrom")
        factor = unit_factor(unit.decode() if isinstance(unit, bytes) else str(unit))
        positions = np.asarray(positions, dtype=float) * factor
        return Frame(numbers, positions, cell, pbc, results, info, arrays)
