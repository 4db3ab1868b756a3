"""Write structures with their labels to one file that every reader of its format understands."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ase_nnp.datasets.own_labels import labeled_sample
from ase_nnp.datasets.sample import Sample, check_sample
from ase_nnp.datasets.shard import DatasetWarning, has_energy
from ase_nnp.datasets.writing.encode import check_info
from ase_nnp.datasets.writing.record_writers import SINKS, Sink, sink_class
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import unfinished, whole_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["write_dataset"]

#: Structures encoded and committed together.
CHUNK = 500


def chunks(structures: Iterable[Atoms], size: int) -> Iterator[list[Atoms]]:
    """Yield lists of ``size`` structures; the last may be shorter."""
    iterator = iter(structures)
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_dataset(
    path: str | os.PathLike[str],
    structures: Iterable[Atoms],
    *,
    format: str | None = None,
    overwrite: bool = False,
    chunk_size: int = CHUNK,
) -> int:
    """Write structures with labels, tags, constraints and ``info``; return how many.

    The file is written beside ``path`` and renamed when it is complete.

    Parameters
    ----------
    path
        The file to be; its ending chooses the format: ``.aselmdb``, ``.lmdb`` (flat binary records,
        no pickles), ``.extxyz``, ``.extxyz.xz``, ``.h5``.
    structures
        Any iterable of Atoms, an AtomsDataset too; it is read once, in order. Labels are the
        results of the attached calculators; nothing is computed.
    format
        A format name instead of the ending.
    overwrite
        Replace an existing file.
    chunk_size
        Structures held in memory at a time.

    Raises
    ------
    DatasetError
        The format is unknown, the file exists, there is no structure, or something attached to one
        cannot be stored or read back (an energy that is not finite, the results of another
        structure).
    """
    target = Path(path)
    sink_type = _sink_or_plugin(target, format)
    check_target(target, overwrite)
    if not isinstance(sink_type, type):
        return _by_plugin(sink_type, target, structures)
    sink = sink_type(unfinished(target))

    note = about(structures)
    kinds: set[str | None] = set()
    written = 0
    try:
        for chunk in chunks(structures, chunk_size):
            samples = [sample_to_write(atoms, written + k) for k, atoms in enumerate(chunk)]
            kinds |= {s["info"].get("energy_kind") for s in samples if has_energy(s)}
            if "energy_kind" not in note or len(kinds) > 1:
                note = said_by_all(kinds) or note
            payloads = encode_chunk(sink_type, samples, written)
            written += len(chunk)
            sink.append(payloads, {"done": written, "written": written, "about": note})
        if not written:
            raise DatasetError("there is no structure to write", path=target)
        sink.finish(target)
    except OSError as error:
        raise DatasetError(f"cannot be written: {error.strerror or error}", path=target) from error
    finally:
        sink.remove()
    return written


def about(structures: object) -> dict[str, str]:
    """Return what a dataset says of its energies as a whole."""
    said = {name: getattr(structures, name, None) for name in ("energy_kind", "energy_reference")}
    return {name: value for name, value in said.items() if isinstance(value, str)}


def said_by_all(kinds: set[str | None]) -> dict[str, str]:
    """Return the kind of energy of a whole whose structures name these; None names none."""
    named = {kind for kind in kinds if isinstance(kind, str)}
    if not named:
        return {}
    if None in kinds:  # as a reader takes it
        named.add("total")
    return {"energy_kind": named.pop() if len(named) == 1 else "mixed"}


def kinds_of(structures: Sequence[Atoms]) -> set[str | None]:
    """Return the kinds that structures with an energy name, those apart that cannot be read."""
    kinds: set[str | None] = set()
    for number in range(len(structures)):
        with suppress(DatasetError):
            sample = labeled_sample(structures[number])
            if has_energy(sample):
                kinds.add(sample["info"].get("energy_kind"))
    return kinds


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a file that exists and a folder that does not."""
    if target.exists() and not overwrite:
        raise DatasetError("exists already; give overwrite=True to replace it", path=target)
    if not target.parent.is_dir():
        raise DatasetError(f"folder {target.parent} does not exist", path=target)


def sample_to_write(atoms: Atoms, number: int) -> Sample:
    """Return a structure as it is stored; one that no reader would take is named by its number."""
    try:
        sample = check_sample(labeled_sample(atoms))
    except DatasetError as error:
        raise DatasetError(f"structure {number}: {error}") from None
    for name, what in sample.pop("remarks", {}).items():
        # Without the number, so that Python says it once and not for each structure.
        warnings.warn(f"the {name} {what}", DatasetWarning, stacklevel=2)
    return sample


def encode_chunk(sink: type[Sink], chunk: list[Sample], first: int) -> list[bytes]:
    """Encode a chunk; a structure that cannot be stored is named by its number."""
    try:
        return sink.encode(chunk)
    except DatasetError:
        for offset, sample in enumerate(chunk):
            try:
                check_info(sample["info"])
                sink.encode([sample])
            except DatasetError as error:
                raise DatasetError(f"structure {first + offset}: {error}") from error
        raise


_SHARD = re.compile(r"\.?data\.\d{4,}(\.[a-z0-9.]+?)(\.part(\.json)?)?")


def shards_in(folder: Path) -> list[Path]:
    """Return what conversions to a folder left there: shards, and parts of them."""
    endings = {ending for sink in SINKS for ending in sink.suffixes}
    matches = ((path, _SHARD.fullmatch(path.name)) for path in folder.iterdir())
    return [path for path, match in matches if match is not None and match[1] in endings]


def refuse_own_source(folder: Path, source: object) -> None:
    """Refuse to read from the shards that are about to be replaced."""
    read = {shard.path.resolve() for shard in getattr(source, "shards", ())}
    if any(path.resolve() in read for path in shards_in(folder)):
        raise DatasetError("the source lies in this folder, whose files are replaced", path=folder)


def remove_others(folder: Path, made: set[Path]) -> None:
    """Remove shards of an earlier conversion beside those that were made, and its counts.

    Fewer shards would otherwise stand beside the last ones of another dataset.
    """
    for path in (*shards_in(folder), folder / "metadata.npz"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in made:
            path.unlink(missing_ok=True)


def _sink_or_plugin(target: Path, format: str | None) -> object:
    try:
        return sink_class(target, format)
    except DatasetError:
        from ase_nnp.registry.installed import installed

        for plugin in installed().datasets.values():
            fits = plugin.name == format if format else target.name.endswith(plugin.suffixes)
            if plugin.write is not None and plugin.suffixes and fits:
                return plugin
        raise


def _by_plugin(plugin: object, target: Path, structures: Iterable[Atoms]) -> int:
    written = 0

    def counted() -> Iterator[Atoms]:
        nonlocal written
        for atoms in structures:
            written += 1
            yield atoms

    with whole_file(target) as beside:
        plugin.write(beside, counted())  # type: ignore[attr-defined]
    return written
