"""HDF5 layouts with cells: MACE training files and torch-sim trajectories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ase_nnp.datasets.formats.hdf5_layouts import (
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
    row,
    shape,
    whole,
)

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

        # MACE's words for what ASE's users call charge and spin.
        info: dict[str, Any] = {}
        for name, key in (("total_charge", "charge"), ("total_spin", "spin")):
            if (value := self._value(inner, name)) is not None:
                info[key] = scalar(value)
        if (virials := self._value(inner, "virials")) is not None:
            info["virials"] = virials
            if "stress" not in results:
                results |= _stress_of_virials(virials, self._value(group, "cell"))

        for name in ("config_type", "head", "weight"):
            value = self._value(group, name)
            # MACE writes a weight of 1 for every configuration without one.
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


def _stress_of_virials(virials: Any, cell: Any) -> dict[str, Any]:
    """Return the stress -virials / V of MACE's virials in eV; nothing where there is no volume."""
    values = np.asarray(virials, dtype=float)
    volume = 0.0 if cell is None else abs(float(np.linalg.det(np.asarray(cell, dtype=float))))
    if values.size != 9 or not volume > 0:
        return {}
    tensor = values.reshape(3, 3) / -volume
    return {"stress": (tensor + tensor.T) / 2}


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
        rows = np.flatnonzero(steps == step)
        return row(root["data"], name, int(rows[0])) if len(rows) else None

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
