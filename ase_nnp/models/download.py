"""Weights by name: from a plugin's own folder, or from the network into a cache, checked.

A file that is in the cache is used without a look at the network, and so is any local path.
``ASE_NNP_CACHE`` names the cache folder (else the usual one of the user), ``ASE_NNP_OFFLINE=1``
forbids the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ase_nnp.errors import ConfigError, DownloadError
from ase_nnp.files.atomic import file_hash, locked
from ase_nnp.files.regular import check_regular
from ase_nnp.registry.family import Pretrained

__all__ = [
    "CachedFile",
    "cache_folder",
    "cached",
    "clear_cache",
    "download_bar",
    "fetch",
    "is_remote",
]

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Progress = Callable[[int, int | None], None]


def cache_folder() -> Path:
    """Return the folder of downloaded weights; it need not exist yet."""
    own = os.environ.get("ASE_NNP_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ase_nnp"


def is_remote(source: str) -> bool:
    """Whether a source is an address and not a path."""
    return "://" in source


def fetch(offered: Pretrained, progress: Progress | None = None) -> Path:
    """Return the local file of pretrained weights that live at an address, fetched if need be.

    A file in the cache is used if its hash is still right, and fetched again if not. A download
    that breaks off is continued by the next call, where the server can do that; the file appears
    under its name only when its hash is right; several processes may ask at once.

    Parameters
    ----------
    offered
        With ``source`` an https address (http only for this machine; or file) and ``sha256``.
    progress
        Called with the bytes so far and the total, if known.

    Raises
    ------
    DownloadError
        Offline, an address that is not allowed or does not answer, or other content than announced.
    """
    digest = (offered.sha256 or "").lower()
    if re.fullmatch("[0-9a-f]{64}", digest) is None:
        raise DownloadError(
            f"'{offered.name}' comes from {offered.source} without a SHA-256, so what arrives "
            "could not be checked. Its plugin must state one."
        )

    # The digest is part of the path: a new release of the same file name never meets the old one.
    target = cache_folder() / digest[:16] / _file_name(offered.source)
    if _is_intact(target, digest):
        return target
    check_address(offered.source, offered.name)
    if os.environ.get("ASE_NNP_OFFLINE", "") not in ("", "0"):
        raise DownloadError(
            f"'{offered.name}' is not in the cache, or not whole ({target}), and ASE_NNP_OFFLINE "
            f"is set. Fetch it where there is a network from {offered.source}, and give its path, "
            "or put it there."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)

        # Many processes of one job start at once; one fetches, the others find the file whole.
        with locked(target.parent / ".lock"):
            if not _is_intact(target, digest):  # another process may have been quicker
                download(offered, target, digest, progress)
    except OSError as error:
        if isinstance(error, urllib.error.URLError):
            raise
        raise DownloadError(
            f"Cannot write {error.filename or target}: {error.strerror}."
        ) from error
    return target


def _file_name(source: str) -> str:
    """Return the last part of an address as a file name; an encoded ``/`` makes no folder."""
    last = unquote(urlsplit(source).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]", "_", last).lstrip(".")[-100:] or "weights"


def _is_intact(path: Path, digest: str) -> bool:
    """Whether a file of the cache is there and still what was announced."""
    # Checked at each use, not only after the download: disks fail, and others may write to a shared
    # cache.
    return path.is_file() and file_hash(path) == digest


def check_address(source: str, name: str) -> None:
    """Refuse addresses that could be read or changed on the way."""
    parts = urlsplit(source)

    # Plain http may be changed on the way; on this machine there is no way (tests serve from it).
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not (parts.scheme in ("https", "file") or local):
        raise DownloadError(f"'{name}': {source} is neither https nor a file; it is not fetched.")
    if parts.scheme == "file":
        try:
            # A named pipe or a device would be read for ever.
            check_regular(urllib.request.url2pathname(parts.path))
        except OSError as error:
            raise DownloadError(f"'{name}': {source}: {error.strerror}.") from error


def download(
    offered: Pretrained, target: Path, digest: str, progress: Progress | None = None
) -> None:
    """Fetch into a file beside ``target``, check it, and rename it."""
    # Beside the target and under a fixed name, so that the next attempt finds what has arrived.
    part = target.with_name(target.name + ".part")
    for last in (False, True):
        resumed = part.exists() and part.stat().st_size > 0
        receive(offered, part, progress)
        received = file_hash(part)
        if received == digest:
            os.replace(part, target)
            return
        part.unlink()
        if not resumed or last:  # a part of something older may have spoilt it: once more, whole
            raise DownloadError(
                f"'{offered.name}': what {offered.source} sends has the SHA-256 {received}, and "
                f"{digest} was announced. Nothing was kept."
            )


def receive(offered: Pretrained, part: Path, progress: Progress | None) -> None:
    """Write the address's content to ``part``, from where it broke off if the server can."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(offered.source, headers={"User-Agent": "ase_nnp"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    opener = urllib.request.build_opener(_CarefulRedirects(offered.name))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            status = getattr(answer, "status", None)
            if have and not _continues(answer, status, have):
                have = 0  # it sends everything again
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length and length.isdigit() else None

            # A server that never stops sending must not fill the disk.
            most = _limit(offered)
            with open(part, "ab" if have else "wb") as file:
                while chunk := answer.read(CHUNK):
                    have += len(chunk)
                    if most is not None and have > most:
                        raise DownloadError(
                            f"'{offered.name}': {offered.source} sends more than the announced "
                            f"{offered.size_mb} MB."
                        )
                    file.write(chunk)
                    if progress is not None:
                        progress(have, total)
    except urllib.error.HTTPError as error:
        # Range not satisfiable.
        if error.code == 416 and have:  # complete already, or of another size: the hash decides
            return
        raise DownloadError(
            f"'{offered.name}': {offered.source} answers {error.code} {error.reason}."
        ) from error
    except DownloadError:
        part.unlink(missing_ok=True)
        raise
    except (urllib.error.URLError, OSError, EOFError, ValueError) as error:
        raise DownloadError(_broken_off(offered, error, have)) from error
    except Exception as error:  # http.client's errors share no base but Exception
        if type(error).__module__ != "http.client":
            raise
        raise DownloadError(_broken_off(offered, error, have)) from error

    # A closed connection is the end of a file to urllib, and no error.
    if total is not None and have < total:
        short = EOFError(f"{have} of {total} bytes arrived")
        raise DownloadError(_broken_off(offered, short, have))


def _continues(answer: Any, status: int | None, have: int) -> bool:
    said = str(answer.headers.get("Content-Range", ""))

    # Some servers ignore the range and send everything with status 200; others send another range.
    return status == 206 and said.startswith(f"bytes {have}-")


def _limit(offered: Pretrained) -> int | None:
    """Return how many bytes are believed: the announced size, a tenth and a chunk more."""
    if offered.size_mb is None:
        return None
    return int(offered.size_mb * 1.1e6) + CHUNK


def _broken_off(offered: Pretrained, error: Exception, have: int) -> str:
    reason = getattr(error, "reason", None) or error
    kept = f" {have} bytes are kept; the next attempt continues." if have else ""
    return (
        f"'{offered.name}' could not be fetched from {offered.source}: {reason}.{kept} A local "
        "file always works: checkpoint=PATH."
    )


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to addresses that are allowed themselves."""

    def __init__(self, name: str) -> None:
        self.name = name

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Check the new address; keep the range."""
        # An https address may send on to plain http or into the local files.
        check_address(newurl, self.name)
        if urlsplit(newurl).scheme == "file":
            raise DownloadError(f"'{self.name}': the address sends on to a local file.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def download_bar(name: str) -> Iterator[Progress | None]:
    """Yield a function that shows how far a download is, on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)


@dataclass(frozen=True)
class CachedFile:
    """A file in the cache; ``complete`` is False for a download that broke off."""

    path: Path
    size: int
    complete: bool


def cached() -> list[CachedFile]:
    """Return what is in the cache."""
    files = sorted(p for p in cache_folder().glob("*/*") if p.is_file() and p.name != ".lock")
    return [CachedFile(p, p.stat().st_size, p.suffix != ".part") for p in files]


def clear_cache(name: str | None = None) -> list[CachedFile]:
    """Remove one file by its name, or all; return what was removed.

    Raises
    ------
    ConfigError
        No file in the cache has that name.
    """
    chosen = [f for f in cached() if name is None or f.path.name in (name, f"{name}.part")]
    if name is not None and not chosen:
        names = ", ".join(f.path.name for f in cached()) or "nothing"
        raise ConfigError(f"The cache holds no {name!r}. It holds: {names}.")
    for file in chosen:
        with locked(file.path.parent / ".lock"):
            file.path.unlink(missing_ok=True)
        if not any(p.name != ".lock" for p in file.path.parent.iterdir()):
            shutil.rmtree(file.path.parent, ignore_errors=True)
    return chosen
