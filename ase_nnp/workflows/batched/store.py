"""The folder of a batched run: everything needed to go on after a kill.

::

    run.json             what the run is: method, settings, model, digest of every structure
    checkpoint           the structures on the move, the state of the method, lengths of the rest
    results.jsonl        a line for each structure that is done
    frames/000012.bin    frames of structures on the move
    000012.traj          frames of structures that are done (or .h5)
    lock                 held by the process at work

``checkpoint`` is written whole, after all else is on disk. Whatever the other files hold beyond
what it counts was written after it, and is cut off before going on. What it counts carries
checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.files.atomic import remove_leftovers, take_lock, write_whole
from ase_nnp.files.identity import differences
from ase_nnp.files.regular import open_regular
from ase_nnp.workflows.batched.frames import FrameFile
from ase_nnp.workflows.batched.state import Array

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["FolderInUseError", "Store", "agree"]


class FolderInUseError(ConfigError):
    """Another process is at work in the folder of a run."""


def agree(path: Path, identity: Mapping[str, Any]) -> None:
    """Write what a run is, or compare with what was written when it began.

    Parameters
    ----------
    path
        The file ``run.json`` of the run's folder.
    identity
        Plain values by name, for :func:`~ase_nnp.files.identity.differences`.

    Raises
    ------
    ConfigError
        Another run was begun there; the message says what differs.
    DatasetError
        The file is damaged, or cannot be written.
    """
    wanted = json.loads(json.dumps(dict(identity)))
    try:
        if not path.exists():
            write_whole(path, json.dumps(wanted))
        with open_regular(path) as file:
            there = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"cannot be used: {error}", path=path) from error
    if not isinstance(there, dict):
        raise DatasetError("does not say what the run is", path=path)

    other = differences(there, wanted)
    if other:
        raise ConfigError(
            f"{path.parent} holds another run ({'; '.join(other)}). Name a new folder, or remove "
            "this one."
        )


class Store:
    """Files of one run.

    Parameters
    ----------
    folder
        Made if missing.
    identity
        What must be the same to go on: method, settings, model, digests of the structures.
    trajectory
        ``"traj"``, ``"h5"`` or None.

    Raises
    ------
    ConfigError
        If another process is at work in the folder, or it holds another run.
    DatasetError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], trajectory: str | None) -> None:
        self.folder, self.trajectory = Path(folder), trajectory
        self.frames = self.folder / "frames"
        self.checkpoint, self.results = self.folder / "checkpoint", self.folder / "results.jsonl"
        self._lines: list[str] = []  # results not written yet
        self._lines_sum = 0  # CRC-32 of those that are
        self._pending: dict[int, list[bytes]] = {}  # frames not written yet
        self._written: dict[int, list[int]] = {}  # number and CRC-32 of those that are
        self._done: list[int] = []  # frames to remove once the checkpoint knows

        with self._writing(self.folder):
            self.frames.mkdir(parents=True, exist_ok=True)
            lock = take_lock(self.folder / "lock", wait=False)
        if lock is None:
            raise FolderInUseError(
                f"Another process is at work in {self.folder}. Wait for it, or name a new folder."
            )
        self._lock = lock
        try:
            agree(self.folder / "run.json", identity)
            self._remove_unfinished()
        except BaseException:
            lock.close()
            raise

    def _remove_unfinished(self) -> None:
        """Remove what a killed process was writing."""
        for path in (self.checkpoint, self.results, self.folder / "run.json"):
            remove_leftovers(path)
        with self._writing(self.folder):
            for left in self.folder.glob(".*.part*"):  # trajectories: nobody else is at work here
                left.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def damaged(self, why: str) -> DatasetError:
        """Return the error for a checkpoint that cannot be gone on with."""
        return DatasetError(
            f"is damaged ({why}); start again in a new folder", path=self.checkpoint
        )

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(f"cannot be written: {error}", path=path) from error

    def load(self) -> tuple[dict[str, Array], dict[str, Any], list[dict[str, Any]]] | None:
        """Return arrays, notes and finished results of the checkpoint, or None for a fresh start.

        Raises
        ------
        DatasetError
            If it is damaged.
        """
        if not self.checkpoint.exists():
            with self._writing(self.folder):
                for left in (self.results, *self.frames.glob("*.bin")):
                    left.unlink(missing_ok=True)
            return None

        try:
            with open_regular(self.checkpoint) as file:
                said, _, content = file.read().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != said:
                raise ValueError("its checksum does not fit")
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            notes = json.loads(str(arrays.pop("notes")))
            lines = self._read_results(*notes["results"])
            self._written = {int(k): list(v) for k, v in notes["frames"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self.damaged(f"{type(error).__name__}: {error}") from error
        return arrays, notes, lines

    def _read_results(self, length: int, checksum: int) -> list[dict[str, Any]]:
        """Return the results that the checkpoint counts, and cut off what came after."""
        if not length:
            self.results.unlink(missing_ok=True)
            return []
        with open_regular(self.results) as file:
            content = file.read(length)
        if len(content) < length or zlib.crc32(content) != checksum:
            raise ValueError(f"{self.results.name} is not as it was written")
        os.truncate(self.results, length)
        self._lines_sum = checksum
        return [json.loads(line) for line in content.splitlines()]

    def _file(self, index: int, atoms: Atoms) -> FrameFile:
        return FrameFile(self.frames / f"{index:06d}.bin", atoms)

    def rewind(self, moving: Mapping[int, Atoms]) -> None:
        """Cut the frames back to what the checkpoint counts; ``moving`` as they were given.

        Raises
        ------
        DatasetError
            If frames are missing or have changed.
        """
        with self._writing(self.frames):
            for path in self.frames.glob("*.bin"):
                if not path.stem.isdigit() or int(path.stem) not in moving:
                    path.unlink()
            for index, atoms in moving.items():
                count, checksum = self._written.get(index, (0, 0))
                self._file(index, atoms).truncate(count, checksum)

    def record(self, index: int, record: bytes) -> None:
        """Keep a frame until the next checkpoint."""
        if self.trajectory is not None:
            self._pending.setdefault(index, []).append(record)

    def _append(self, index: int, atoms: Atoms) -> FrameFile:
        file, records = self._file(index, atoms), self._pending.pop(index, [])
        count, checksum = self._written.get(index, (0, 0))
        content = b"".join(records)
        file.append(content)
        self._written[index] = [count + len(records), zlib.crc32(content, checksum)]
        return file

    def finish(self, index: int, atoms: Atoms, result: dict[str, Any]) -> None:
        """Write the trajectory of a structure that is done, and note its result.

        Raises
        ------
        DatasetError
            If it cannot be written.
        """
        if self.trajectory is not None:
            path = self.folder / f"{index:06d}.{self.trajectory}"
            with self._writing(path):
                file = self._append(index, atoms)
                if len(file):
                    file.export(path)
        self._lines.append(json.dumps(result))
        self._done.append(index)

    def save(
        self, arrays: dict[str, Array], notes: dict[str, Any], moving: Mapping[int, Atoms]
    ) -> None:
        """Make everything until now durable; ``moving`` are the structures as they were given.

        Raises
        ------
        DatasetError
            If it cannot be written, such as on a full disk.
        """
        with self._writing(self.folder):
            for index in list(self._pending):
                self._append(index, moving[index])
            content = "".join(f"{line}\n" for line in self._lines).encode()
            with self.results.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._lines.clear()
            self._lines_sum = zlib.crc32(content, self._lines_sum)

            notes = {
                **notes,
                "results": [self.results.stat().st_size, self._lines_sum],
                "frames": {k: v for k, v in self._written.items() if k in moving},
            }
            packed = io.BytesIO()
            np.savez(packed, notes=np.array(json.dumps(notes)), **arrays)  # type: ignore[arg-type]
            body = packed.getvalue()
            said = hashlib.sha256(body).hexdigest().encode()
            write_whole(self.checkpoint, said + b"\n" + body)

            for index in self._done:
                (self.frames / f"{index:06d}.bin").unlink(missing_ok=True)
                self._written.pop(index, None)
            self._done.clear()
