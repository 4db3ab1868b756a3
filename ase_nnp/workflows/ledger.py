"""A folder that many processes share work by: claims, results, and who is alive.

No daemon and no lock server: everything is files, and whatever must happen once happens by making
a hard link, which one process alone can do. A worker may be killed at any moment.

::

    run.json             what the run is; every worker must agree
    workers/<id>         touched while the worker lives; says where it runs
    claims/<block>       which worker has the block now
    results/<id>         what the worker found, appended; each worker has a file of its own
    done/<block>         file and place of the results of a block; made once, last

A block counts when ``done/<block>`` is there, and then with exactly the bytes it points at. Half
records that a kill left behind, or a second result by a worker that was thought dead, are pointed
at by nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ase_nnp.errors import ConfigError, DatasetError

__all__ = ["Block", "Ledger", "Worker"]

FOLDERS = ("workers", "claims", "results", "done")
_HEAD = struct.Struct("<4sQQI")  # magic, block, bytes that follow, their CRC-32
_RECORD = struct.Struct("<Q")
_MAGIC = b"ANR1"
#: Seconds without a sign of life after which a worker counts as dead.
LEASE = 120.0
#: Least seconds between two looks at what others have done meanwhile.
LOOK = 2.0


@dataclass(frozen=True)
class Block:
    """Items ``first`` to ``last`` (excluded) of a run; ``attempt`` counts from 1."""

    number: int
    first: int
    last: int
    attempt: int = 1


class Ledger:
    """The state of a run in ``folder``.

    Parameters
    ----------
    folder
        Made by :meth:`create`.

    Raises
    ------
    DatasetError
        The folder holds no run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.about: dict[str, Any] = json.loads((self.folder / "run.json").read_bytes())
        except FileNotFoundError:
            raise DatasetError("no run lies in this folder", path=folder) from None
        self.total, self.size = int(self.about["total"]), int(self.about["block"])

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], total: int, block: int, about: dict[str, Any]
    ) -> Ledger:
        """Begin a run, or join one that is the same.

        Parameters
        ----------
        folder
            Made if it does not exist; all workers must see it.
        total, block
            Items, and how many of them a worker claims at a time.
        about
            What else must be the same for all workers; plain JSON values.

        Raises
        ------
        ConfigError
            Another run lies there, or the file system cannot make hard links.
        """
        if total < 1 or block < 1:
            raise ConfigError(f"{total} items in blocks of {block}; both must be at least 1.")
        path = Path(folder)
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
        wanted = {"total": total, "block": block, **json.loads(json.dumps(about))}
        beside = path / f".{os.getpid()}-{os.urandom(4).hex()}.json"
        _appear(path / "run.json", json.dumps(wanted, indent=1).encode(), beside)
        ledger = cls(path)
        differs = [k for k in {*wanted, *ledger.about} if wanted.get(k) != ledger.about.get(k)]
        if differs:
            said = "; ".join(
                f"{k}: {ledger.about.get(k)!r} there, {wanted.get(k)!r} here"
                for k in sorted(differs)
            )
            raise ConfigError(f"Another run lies in {path} ({said}). Choose a folder of its own.")
        return ledger

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.total // self.size)

    def block(self, number: int, attempt: int = 1) -> Block:
        """Return a block by number."""
        first = number * self.size
        return Block(number, first, min(self.total, first + self.size), attempt)

    def finished(self) -> set[int]:
        """Return the blocks whose results are in."""
        return _numbers(self.folder / "done")

    def claimed(self) -> set[int]:
        """Return the blocks that a worker, living or dead, has claimed and not finished."""
        return _numbers(self.folder / "claims")

    def note(self, number: int) -> dict[str, Any]:
        """Return what is known of a finished block: worker, place, counts, seconds."""
        found = json.loads((self.folder / "done" / str(number)).read_bytes())
        return dict(found)

    def read(self, number: int) -> list[bytes]:
        """Return the records of a finished block.

        Raises
        ------
        DatasetError
            The bytes are not those that were written.
        """
        note = self.note(number)
        path = self.folder / "results" / note["worker"]
        try:
            with open(path, "rb") as file:
                file.seek(note["offset"])
                head = file.read(_HEAD.size)
                magic, block, length, check = _HEAD.unpack(head)
                body = file.read(length)
        except (OSError, struct.error) as error:
            raise DatasetError(f"cannot be read ({error})", path=path, key=number) from error
        if (magic, block, len(body)) != (_MAGIC, number, length) or zlib.crc32(body) != check:
            raise DatasetError("is damaged", path=path, key=number)
        records, place = [], 0
        while place < length:
            (size,) = _RECORD.unpack_from(body, place)
            place += _RECORD.size + size
            records.append(body[place - size : place])
        return records

    def status(self, lease: float = LEASE) -> dict[str, Any]:
        """Return counts of items and workers; see ``ase-nnp screen status``."""
        done = self.finished()
        notes = [self.note(k) for k in done]
        living = {
            path.name
            for path in (self.folder / "workers").iterdir()
            if not path.name.startswith(".") and not _dead(path, time.time(), lease)
        }
        holders = [_claim(self.folder / "claims" / str(k)) for k in self.claimed() - done]
        working = [h for h in holders if h and h["id"] in living]
        return {
            "total": self.total,
            "finished": sum(n["count"] for n in notes),
            "failed": sum(n["failed"] for n in notes),
            "blocks": self.blocks,
            "blocks_finished": len(done),
            "blocks_at_work": len(working),
            "blocks_abandoned": len(holders) - len(working),
            "workers_alive": len(living),
            "worker_seconds": sum(n["seconds"] for n in notes),
            "complete": len(done) == self.blocks,
        }


class Worker:
    """One process at work on a ledger; a context manager.

    Parameters
    ----------
    ledger
        The run.
    lease
        Seconds without a sign of life after which *other* workers' claims are taken over. All
        workers of a run should use the same. On one machine a dead process is seen at once.
    """

    def __init__(self, ledger: Ledger, lease: float = LEASE) -> None:
        if lease <= 0:
            raise ConfigError(f"A lease of {lease} s; it must be above 0.")
        self.ledger, self.lease = ledger, lease
        self.id = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._life = ledger.folder / "workers" / self.id
        self._beside = ledger.folder / "workers" / f".{self.id}"
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._results: Any = None
        self._began = 0.0
        self._verdicts: dict[str, tuple[float, bool]] = {}

    def __enter__(self) -> Self:
        self._life.write_text(json.dumps(_whereabouts()))
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._heart.join()
        if self._results is not None:
            self._results.close()
        self._beside.unlink(missing_ok=True)
        self._life.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.lease / 5):
            with suppress(OSError):  # a file server that is away for a moment
                os.utime(self._life)

    def blocks(self, shard: tuple[int, int] = (0, 1), *, wait: bool = False) -> Iterator[Block]:
        """Yield blocks, each claimed for this worker, until nothing is left to claim.

        Parameters
        ----------
        shard
            ``(i, n)``: begin with blocks i, i + n, ...; then help with the others.
        wait
            Stay until the blocks of other living workers are finished too, to take them over if
            one of those dies.

        Notes
        -----
        :meth:`commit` ends a claim. A block that the caller leaves without it is given back.
        """
        part, parts = shard
        if not 0 <= part < parts:
            raise ConfigError(f"Shard {part}/{parts}; shards count from 0 to {parts - 1}.")
        own = list(range(part, self.ledger.blocks, parts))
        cut = random.Random(self.id).randrange(max(1, self.ledger.blocks))
        others = [k for k in range(self.ledger.blocks) if k % parts != part]
        left = own + others[cut:] + others[:cut]  # not all helpers at the same place
        for turn in itertools.count():
            later: list[int] = []
            looked = cost = -1e9
            crossed = True  # somebody else works here too: look before trying
            done: set[int] = set()
            held: set[int] = set()
            for number in left:
                if crossed and time.monotonic() - looked > max(LOOK, 20 * cost):
                    start = time.monotonic()
                    done, held = self.ledger.finished(), self.ledger.claimed()
                    looked, crossed = time.monotonic(), False
                    cost = looked - start
                if number in done:
                    continue
                # What a dead worker left comes last: it may be what killed it.
                if number not in held:
                    block = self._take(number, 1)
                else:
                    block = self._take_over(number) if turn else None
                if block is None:
                    later.append(number)
                    crossed = True
                    continue
                self._began = time.monotonic()
                try:
                    yield block
                finally:
                    self._release(number)
            done = self.ledger.finished() if later else set()
            later = [number for number in later if number not in done]
            if not later or (turn and len(later) == len(left) and not wait):
                return
            if turn and len(later) == len(left):
                time.sleep(min(1.0, self.lease / 5))
            left = later

    def commit(self, block: Block, records: Sequence[bytes], failed: int = 0) -> bool:
        """Store the results of a block: all or none of them.

        Parameters
        ----------
        block
            As :meth:`blocks` gave it.
        records
            One for each item of the block.
        failed
            How many of them tell of a failure; for the statistics.

        Returns
        -------
        bool
            False where another worker had finished the block before.
        """
        if len(records) != block.last - block.first:
            raise ConfigError(f"{len(records)} records for {block.last - block.first} items.")
        body = b"".join(_RECORD.pack(len(record)) + record for record in records)
        if self._results is None:
            self._results = open(self.ledger.folder / "results" / self.id, "ab")  # noqa: SIM115
        offset = self._results.tell()
        self._results.write(_HEAD.pack(_MAGIC, block.number, len(body), zlib.crc32(body)) + body)
        self._results.flush()
        os.fsync(self._results.fileno())
        note = {
            "worker": self.id,
            "offset": offset,
            "count": len(records),
            "failed": failed,
            "attempt": block.attempt,
            "seconds": round(time.monotonic() - self._began, 3),
        }
        path = self.ledger.folder / "done" / str(block.number)
        return _appear(path, json.dumps(note).encode(), self._beside)

    def _take(self, number: int, attempt: int) -> Block | None:
        claim = json.dumps({"id": self.id, "attempt": attempt}).encode()
        if not _appear(self.ledger.folder / "claims" / str(number), claim, self._beside):
            return None
        if (self.ledger.folder / "done" / str(number)).exists():  # since we looked
            self._release(number)
            return None
        return self.ledger.block(number, attempt)

    def _take_over(self, number: int) -> Block | None:
        """Claim a block whose worker is dead; None if it lives."""
        path = self.ledger.folder / "claims" / str(number)
        claim = _claim(path)
        if claim is None:
            return self._take(number, 1)
        if claim["id"] == self.id or not self._is_dead(claim["id"]):
            return None
        taken = self._beside.with_name(f"{self._beside.name}.taken")
        try:
            path.rename(taken)  # only one can
        except FileNotFoundError:
            return None
        if _claim(taken) != claim:  # another was quicker, and this is its new claim
            with suppress(FileExistsError):
                os.link(taken, path)
            taken.unlink()
            return None
        taken.unlink()
        return self._take(number, int(claim["attempt"]) + 1)

    def _release(self, number: int) -> None:
        """End a claim, if it is still ours."""
        path = self.ledger.folder / "claims" / str(number)
        claim = _claim(path)
        if claim is not None and claim["id"] == self.id:
            path.unlink(missing_ok=True)

    def _is_dead(self, worker: str) -> bool:
        """Whether a worker is dead, by the clock of the file system; remembered for a second."""
        asked, verdict = self._verdicts.get(worker, (-1e9, False))
        if verdict or time.monotonic() - asked < min(1.0, self.lease / 5):
            return verdict
        os.utime(self._life)
        now = self._life.stat().st_mtime
        verdict = _dead(self.ledger.folder / "workers" / worker, now, self.lease)
        self._verdicts[worker] = (time.monotonic(), verdict)
        return verdict


def _appear(path: Path, content: bytes, beside: Path) -> bool:
    """Make a file that appears whole, unless it exists; return whether we made it."""
    beside.write_bytes(content)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(
            f"{path.parent} lies on a file system that cannot make hard links ({error.strerror}), "
            "which sharing work needs. Choose a folder elsewhere."
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return True


def _numbers(folder: Path) -> set[int]:
    with os.scandir(folder) as entries:
        return {int(entry.name) for entry in entries if entry.name.isdigit()}


def _claim(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class _Where:
    """Enough to see from another process of the same machine whether this one lives."""

    host: str
    processes: str  # this boot of the machine, and whose process numbers: containers have their own
    pid: int
    started: str


def _whereabouts() -> dict[str, Any]:
    return asdict(_Where(socket.gethostname(), _namespace(), os.getpid(), _started(os.getpid())))


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a process in ticks since boot, "" where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _dead(path: Path, now: float, lease: float) -> bool:
    """Whether a worker left without a word: no such process here, or silent for too long."""
    try:
        age = now - path.stat().st_mtime
        where = json.loads(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return True
    if age > lease:
        return True
    here = {"host": socket.gethostname(), "processes": _namespace()}
    if not here["processes"] or any(where.get(k) != v for k, v in here.items()):
        return False
    return bool(_started(where["pid"]) != where["started"])
