"""The folder of a batched run: everything needed to go on after a kill.

::

    checkpoint.npz       the structures on the move, the state of the method, lengths of the rest
    results.jsonl        a line for each structure that is done
    frames/000012.bin    frames of structures on the move
    000012.traj          frames of structures that are done (or .h5)
    lock                 held by the process at work

``checkpoint.npz`` is written beside and renamed, after all else is on disk. Whatever the other
files hold beyond what it counts was written after it, and is cut off before going on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.files.atomic import take_lock, whole_file
from ase_nnp.workflows.batched.frames import FrameFile
from ase_nnp.workflows.batched.state import Array

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Store"]

FORMATS = ("traj", "h5")


class Store:
    """Files of one run.

    Parameters
    ----------
    folder
        Made if missing.
    settings
        What must be the same to go on: method, parameters, model, number of structures.
    trajectory
        ``"traj"``, ``"h5"`` or None.

    Raises
    ------
    ConfigError
        If another process is at work in the folder, or it holds a run with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], trajectory: str | None) -> None:
        if trajectory not in (None, *FORMATS):
            raise ConfigError(f"trajectory = {trajectory!r}: one of {', '.join(FORMATS)}, or None.")
        self.folder, self.settings, self.trajectory = Path(folder), settings, trajectory
        self.frames = self.folder / "frames"
        self.frames.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        self._results: list[str] = []  # lines not written yet
        self._pending: dict[int, list[bytes]] = {}  # frames not written yet
        self._done: list[int] = []  # frames to remove once the checkpoint knows

    def _locked(self) -> IO[str]:
        file = take_lock(self.folder / "lock", wait=False)
        if file is None:
            raise ConfigError(
                f"Another process is at work in {self.folder}. Wait for it, or name a new folder."
            )
        return file

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def load(self) -> tuple[dict[str, Array], dict[str, Any], list[dict[str, Any]]] | None:
        """Return arrays, notes and finished results of the checkpoint, or None for a fresh start.

        Raises
        ------
        ConfigError
            If the checkpoint belongs to another run.
        DatasetError
            If it is damaged.
        """
        path, results = self.folder / "checkpoint.npz", self.folder / "results.jsonl"
        if not path.exists():
            for left in (results, *self.frames.glob("*.bin")):
                left.unlink(missing_ok=True)
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            notes = json.loads(str(arrays.pop("notes")))
        except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise DatasetError(f"is no checkpoint: {error}", path=path) from error
        old = notes["settings"]
        other = [k for k in {*old, *self.settings} if old.get(k) != self.settings.get(k)]
        if other:
            said = ", ".join(
                f"{k} {old.get(k)!r} instead of {self.settings.get(k)!r}" for k in sorted(other)
            )
            raise ConfigError(
                f"{self.folder} holds a run with other settings ({said}). Name a new folder, or "
                "remove this one."
            )
        length = int(notes["results_bytes"])
        if length:
            os.truncate(results, length)
            lines = results.read_text().splitlines()
        else:
            results.unlink(missing_ok=True)
            lines = []
        return arrays, notes, [json.loads(line) for line in lines]

    def file(self, index: int, atoms: Atoms) -> FrameFile:
        """Return the frames of a structure on the move."""
        return FrameFile(self.frames / f"{index:06d}.bin", atoms)

    def rewind(self, moving: dict[int, tuple[int, Atoms]]) -> None:
        """Cut the frames back: ``moving`` holds count and structure for each place in the input."""
        for path in self.frames.glob("*.bin"):
            if int(path.stem) not in moving:
                path.unlink()
        for index, (frames, atoms) in moving.items():
            self.file(index, atoms).truncate(frames)

    def record(self, index: int, record: bytes) -> None:
        """Keep a frame until the next checkpoint."""
        if self.trajectory is not None:
            self._pending.setdefault(index, []).append(record)

    def finish(self, index: int, atoms: Atoms, result: dict[str, Any]) -> None:
        """Write the trajectory of a structure that is done, and note its result."""
        if self.trajectory is not None:
            file = self.file(index, atoms)
            file.append(b"".join(self._pending.pop(index, [])))
            if len(file):
                file.export(self.folder / f"{index:06d}.{self.trajectory}")
        self._results.append(json.dumps(result))
        self._done.append(index)

    def save(
        self, arrays: dict[str, Array], notes: dict[str, Any], structures: dict[int, Atoms]
    ) -> None:
        """Make everything until now durable."""
        for index, records in self._pending.items():
            self.file(index, structures[index]).append(b"".join(records))
        self._pending.clear()
        results = self.folder / "results.jsonl"
        with results.open("ab") as file:
            file.write("".join(f"{line}\n" for line in self._results).encode())
            file.flush()
            os.fsync(file.fileno())
        self._results.clear()
        notes = {**notes, "settings": self.settings, "results_bytes": results.stat().st_size}
        with whole_file(self.folder / "checkpoint.npz") as beside:
            np.savez(beside, notes=np.array(json.dumps(notes)), **arrays)  # type: ignore[arg-type]
        for index in self._done:
            (self.frames / f"{index:06d}.bin").unlink(missing_ok=True)
        self._done.clear()
