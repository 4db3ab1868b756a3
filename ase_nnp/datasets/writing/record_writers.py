"""Where converted records go: files that can be continued after a kill at any moment.

A sink takes encoded chunks in order. What it holds is always a whole number of chunks: either a
chunk and the note that it is there both survive a kill, or neither does.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ase_nnp.datasets.writing.encode import ase_row, flat_record, to_json
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import (
    read_checked,
    with_checksum,
    without_checksum,
    write_checked,
    write_whole,
)
from ase_nnp.files.lmdb import LmdbFile, looks_like_lmdb

if TYPE_CHECKING:
    from ase_nnp.datasets.sample import Sample

#: What the sink knows about itself: ``{"token", "done", "written", "skipped", "about"}``; ``about``
#: is what is said of the dataset as a whole (``energy_kind``, ``energy_reference``).
State = dict[str, Any]
FLAT_MAGIC = b"ase_nnp flat records 1"
FLAT_KEY = b"__format__"
_PROGRESS = b"__progress__"
#: Bytes of address space to begin with; a map that is full doubles.
_MAP = 1 << 28


class Sink:
    """Base: one unfinished file (or folder) at ``part``, renamed by :meth:`finish`."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    lies_in: ClassVar[str]  # a "folder", an "lmdb" file or a "text"

    def __init__(self, part: Path) -> None:
        self.part = part

    def is_other(self) -> bool:
        """Whether the rest of a conversion to a format of another kind lies here."""
        if not self.part.exists():
            return False
        if self.part.is_dir():
            return self.lies_in != "folder"
        if note_of(self.part).exists():
            return self.lies_in != "text"
        # Without a note it is LMDB, which keeps its own, or nothing that counts yet.
        with open(self.part, "rb") as file:
            return self.lies_in != "lmdb" and looks_like_lmdb(file.read(32))

    @staticmethod
    def encode(samples: Sequence[Sample]) -> list[bytes]:
        """Encode a chunk; pure, so that it can run in another process."""
        raise NotImplementedError

    def state(self) -> State | None:
        """Return what the last :meth:`append` noted; None for a fresh sink."""
        raise NotImplementedError

    def append(self, payloads: Sequence[bytes], state: State) -> None:
        """Add a chunk and its note, both or neither."""
        raise NotImplementedError

    def held(self, state: State) -> Iterator[bytes]:
        """Yield what was appended, to be compared with what was noted of it."""
        raise NotImplementedError

    def damaged(self, error: Exception) -> DatasetError:
        """Return the error for an unfinished file that cannot be gone on with."""
        return DatasetError(
            f"what an interrupted conversion left is damaged ({error}); use resume=False "
            "(--restart) to begin again",
            path=self.part,
        )

    def _note(self, path: Path) -> State | None:
        if not path.exists():
            return None
        try:
            return dict(json.loads(read_checked(path)))
        except (OSError, ValueError, TypeError) as error:
            raise self.damaged(error) from error

    def finish(self, target: Path) -> None:
        """Complete the file and rename it to ``target``."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of open files; the sink can be continued later."""

    def remove(self) -> None:
        """Delete the unfinished file."""
        self.close()
        for path in (self.part, note_of(self.part)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def note_of(part: Path) -> Path:
    """Return the file with a sink's state, for formats that cannot hold it themselves."""
    return part.with_name(part.name + ".json")


class _LMDBSink(Sink):
    """Records and state in one LMDB file; a transaction takes care of "both or neither"."""

    first_key = 0
    lies_in = "lmdb"

    def __init__(self, part: Path) -> None:
        super().__init__(part)
        self._env: Any = None

    def _open(self) -> Any:
        if self._env is None:
            import lmdb

            try:
                # LMDB begins with two pages; a disk that was full leaves less, which it then takes
                # for a damaged file, at every later call.
                if self.part.is_file() and self.part.stat().st_size < 2 * mmap.PAGESIZE:
                    self.part.unlink()
                # As bytes: a name may be in another encoding, which LMDB's own conversion refuses.
                name: Any = os.fsencode(self.part)
                self._env = lmdb.open(name, subdir=False, map_size=_MAP, lock=False)
            except (lmdb.Error, OSError) as error:
                raise DatasetError(f"cannot be written ({error})", path=self.part) from error
        return self._env

    def state(self) -> State | None:
        """Return what was noted with the last complete piece, None before the first."""
        # Not by LMDB's own reader, which a damaged file would end together with this process.
        if not self.part.is_file() or self.part.stat().st_size < 2 * mmap.PAGESIZE:
            return None
        try:
            note = LmdbFile(self.part).get(_PROGRESS)
            return None if note is None else dict(json.loads(without_checksum(note)))
        except (DatasetError, ValueError, TypeError) as error:
            raise self.damaged(error) from error

    def held(self, state: State) -> Iterator[bytes]:
        """Yield the records in the order of their keys."""
        file = LmdbFile(self.part)
        for number in range(self.first_key, self.first_key + state["written"]):
            yield file.get(str(number).encode()) or b""

    def append(self, payloads: Sequence[bytes], state: State) -> None:
        """Write pieces and then the note that they are complete."""
        number = state["written"] - len(payloads) + self.first_key
        entries = {str(number + k).encode(): payload for k, payload in enumerate(payloads)}
        self._put({**entries, _PROGRESS: with_checksum(to_json(state))})

    def _put(self, entries: dict[bytes, Any]) -> None:
        """Write entries (None deletes one) in one transaction; the map grows where it is full."""
        import lmdb

        while True:
            try:
                with self._open().begin(write=True) as transaction:
                    for key, value in entries.items():
                        if value is None:
                            transaction.delete(key)
                        else:
                            transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                raise DatasetError(f"cannot be written ({error})", path=self.part) from error

    def _last(self, state: State) -> dict[bytes, bytes]:
        raise NotImplementedError

    def finish(self, target: Path) -> None:
        """Close what was written and rename it to the target."""
        state = self.state() or {"written": 0}
        self._put({**self._last(state), _PROGRESS: None})
        self._env.sync(True)
        self.close()
        self.part.replace(target)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


class ASELMDBSink(_LMDBSink):
    """``.aselmdb`` as fairchem 2 and ``ase.db`` read it."""

    name = "aselmdb"
    suffixes = (".aselmdb",)
    first_key = 1

    @staticmethod
    def encode(samples: Sequence[Sample]) -> list[bytes]:
        """Return the samples as bytes, one piece each or joined as the format wants."""
        return [ase_row(sample) for sample in samples]

    def _last(self, state: State) -> dict[bytes, bytes]:
        return {
            b"nextid": zlib.compress(to_json(state["written"] + 1)),
            b"deleted_ids": zlib.compress(b"[]"),
            b"metadata": zlib.compress(to_json(state.get("about", {}))),
        }


class FlatLMDBSink(_LMDBSink):
    """``.lmdb`` of flat binary records (safetensors layout): fast to read, no pickles."""

    name = "flat-lmdb"
    suffixes = (".lmdb",)

    @staticmethod
    def encode(samples: Sequence[Sample]) -> list[bytes]:
        """Return the samples as bytes, one piece each or joined as the format wants."""
        return [flat_record(sample) for sample in samples]

    def _last(self, state: State) -> dict[bytes, bytes]:
        return {
            FLAT_KEY: FLAT_MAGIC,
            b"length": str(state["written"]).encode(),
            b"metadata": to_json(state.get("about", {})),
        }


class ExtXYZSink(Sink):
    """``.extxyz``; the state lies beside it and says how many bytes count."""

    name = "extxyz"
    suffixes = (".extxyz", ".xyz")
    lies_in = "text"

    @staticmethod
    def encode(samples: Sequence[Sample]) -> list[bytes]:
        """Return the samples as bytes, one piece each or joined as the format wants."""
        from ase_nnp.datasets.writing.extxyz_text import extxyz_frame

        return [b"".join(extxyz_frame(sample) for sample in samples)]

    def state(self) -> State | None:
        """Return what was noted with the last complete piece, None before the first."""
        return self._note(note_of(self.part)) if self.part.exists() else None

    def held(self, state: State) -> Iterator[bytes]:
        """Yield the text that counts."""
        left = int(state["bytes"])
        with open(self.part, "rb") as file:
            while left > 0 and (piece := file.read(min(left, 1 << 20))):
                left -= len(piece)
                yield piece

    def append(self, payloads: Sequence[bytes], state: State) -> None:
        """Write pieces and then the note that they are complete."""
        known = self.state() or {"bytes": 0}
        with open(self.part, "r+b" if self.part.exists() else "w+b") as out:
            out.truncate(known["bytes"])  # a chunk without its note does not count
            out.seek(known["bytes"])
            out.write(b"".join(payloads))
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        write_checked(note_of(self.part), to_json({**state, "bytes": size}))

    def finish(self, target: Path) -> None:
        """Close what was written and rename it to the target."""
        known = self.state() or {"bytes": 0}
        with open(self.part, "ab") as out:
            out.truncate(known["bytes"])
        self.part.replace(target)
        note_of(self.part).unlink(missing_ok=True)


class ExtXYZXzSink(ExtXYZSink):
    """``.extxyz.xz``: one xz stream a chunk; concatenated streams are one valid file."""

    name = "extxyz.xz"
    suffixes = (".extxyz.xz", ".xyz.xz")

    @staticmethod
    def encode(samples: Sequence[Sample]) -> list[bytes]:
        """Return the samples as bytes, one piece each or joined as the format wants."""
        import lzma

        return [lzma.compress(payload) for payload in ExtXYZSink.encode(samples)]


class HDF5Sink(Sink):
    """HDF5 in MACE's layout. HDF5 cannot survive a kill, so chunks wait in files of their own."""

    name = "hdf5"
    suffixes = (".h5", ".hdf5", ".hdf")
    lies_in = "folder"

    @staticmethod
    def encode(samples: Sequence[Sample]) -> list[bytes]:
        """Return the samples as bytes, one piece each or joined as the format wants."""
        from ase_nnp.datasets.writing.hdf5_write import batch_image

        return [batch_image(samples)]

    def state(self) -> State | None:
        """Return what was noted with the last complete piece, None before the first."""
        return self._note(self.part / "state.json")

    def held(self, state: State) -> Iterator[bytes]:
        """Yield the pieces."""
        for number in range(state["pieces"]):
            yield (self.part / f"{number:08d}.h5").read_bytes()

    def append(self, payloads: Sequence[bytes], state: State) -> None:
        """Write pieces and then the note that they are complete."""
        self.part.mkdir(exist_ok=True)
        # Same name after a kill between the two writes: the piece is written again, not twice.
        pieces = (self.state() or {"pieces": 0})["pieces"]
        for number, payload in enumerate(payloads):
            write_whole(self.part / f"{pieces + number:08d}.h5", payload)
        note = {**state, "pieces": pieces + len(payloads)}
        write_checked(self.part / "state.json", to_json(note))

    def finish(self, target: Path) -> None:
        """Close what was written and rename it to the target."""
        from ase_nnp.datasets.writing.hdf5_write import join_batches

        state = self.state() or {"pieces": 0}
        pieces = [self.part / f"{number:08d}.h5" for number in range(state["pieces"])]
        whole = self.part / "whole.h5"
        join_batches(pieces, whole, state.get("about", {}))
        whole.replace(target)
        shutil.rmtree(self.part)


SINKS: tuple[type[Sink], ...] = (ASELMDBSink, FlatLMDBSink, ExtXYZXzSink, ExtXYZSink, HDF5Sink)


def sink_class(path: Path, format: str | None) -> type[Sink]:
    """Choose a sink by format name or by the ending of ``path``.

    Raises
    ------
    DatasetError
        If neither is known; the message lists what can be written.
    """
    for sink in SINKS:
        if format == sink.name or (format is None and path.name.endswith(sink.suffixes)):
            return sink
    known = ", ".join(f"{sink.name} ({' '.join(sink.suffixes)})" for sink in SINKS)
    asked = f"format {format!r}" if format is not None else f"the ending of {path.name!r}"
    raise DatasetError(f"{asked} is none that can be written; choose from {known}", path=path)
