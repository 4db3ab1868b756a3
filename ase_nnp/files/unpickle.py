"""Read foreign pickles and torch files without running anything they ask for.

A pickle is a program. This module is the only place where the package runs one, and it runs it
with a closed list of names: plain containers, numbers, strings, numpy and torch arrays, and data
holders ("stand-ins") that the caller names. Everything a pickle can call is *sealed*: it has no
attributes to overwrite and builds passive values only. A name that is not on the list raises
:class:`~ase_nnp.errors.UnsafeFileError` with that name.

``loads(data)`` / ``load(path)``
    A plain pickle; tensors inside it (``torch.storage._load_from_bytes``) come as numpy arrays.
``load_torch(path_or_bytes)``
    What ``torch.save`` wrote, in the zip format or the older stream of five pickles.
``stand_in(dotted_name)``
    A class that holds the attributes of a foreign object and does nothing.
``CHECKPOINT_STAND_INS``, ``PYG_STAND_INS``
    The holders that published checkpoints and OC20 records need.

Neither torch nor the foreign packages are imported. Arrays are read-only views of the input where
the layout allows it, little-endian, and bfloat16 is widened to float32. Insertion order of
dictionaries is the file's.
"""

from __future__ import annotations

import io
import itertools
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import AseNnpError, UnsafeFileError
from ase_nnp.files.npz import check_members
from ase_nnp.files.pickle_budget import Budget, check_unfolded
from ase_nnp.files.pickle_scan import UnpickleError, end_of_pickle
from ase_nnp.files.pickle_sealed import Counted, StandIn, stand_in
from ase_nnp.files.pickle_values import (
    CODES,
    GLOBALS,
    NO_DATA,
    NOTHING,
    Array,
    Halves,
    PendingArray,
    StorageType,
    make_storage,
    width,
)
from ase_nnp.files.regular import check_regular

__all__ = [
    "CHECKPOINT_STAND_INS",
    "PYG_STAND_INS",
    "StandIn",
    "UnpickleError",
    "load",
    "load_torch",
    "loads",
    "stand_in",
]

_MAX_DEPTH = 500  # nesting of what is rebuilt after loading

# Exactly what torch writes in front of a storage inside an OC20 record; anything else takes the
# slow way below.
_INNER_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03"
    b"X\r\x00\x00\x00little_endianq\x02\x88X\n\x00\x00\x00type_sizesq\x03}q\x04("
    b"X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu."
    b"\x80\x02(X\x07\x00\x00\x00storageq\x00ctorch\n"
)
_INNER = re.compile(
    rb"(\w{3,16})Storage\nq\x01"
    rb"X(.\x00\x00\x00\d{1,30})q\x02X\x03\x00\x00\x00cpuq\x03(?:K(.)|M(..)|J(....))Ntq\x04Q\."
    rb"\x80\x02\]q\x00X\2q\x01a\.(.{8})",
    re.DOTALL,
)


def _load_from_bytes(budget: Budget, data: Any) -> Array | Halves:
    """``torch.storage._load_from_bytes``: one storage in a torch stream of its own."""
    if type(data) is not bytes:
        raise UnpickleError("torch.storage._load_from_bytes on something that is not bytes")
    match = _INNER.match(data, len(_INNER_HEAD)) if data.startswith(_INNER_HEAD) else None
    if match is not None:
        name, key, one, two, four, number = match.groups()
        code, count = CODES.get(name), int.from_bytes(number, "little", signed=True)
        said = int.from_bytes(one or two or four, "little")
        if code is not None and said == count and key[0] == len(key) - 4:
            return make_storage(code, data, count, match.end())
    budget.spend(len(data))
    storage = _load_stream(data, {}, budget)
    if type(storage) not in (np.ndarray, Halves):
        raise UnpickleError("torch.storage._load_from_bytes holds no storage")
    return storage  # type: ignore[no-any-return]


GLOBALS["torch", "_load_from_bytes"] = Counted(_load_from_bytes)
GLOBALS["torch.storage", "_load_from_bytes"] = Counted(_load_from_bytes)

PYG_STAND_INS: Mapping[str, type[StandIn]] = {
    name: stand_in(name)
    for name in (
        "torch_geometric.data.data.Data",
        "torch_geometric.data.data.DataEdgeAttr",
        "torch_geometric.data.data.DataTensorAttr",
        "torch_geometric.data.storage.GlobalStorage",
    )
}
_OMEGACONF = ("dictconfig.DictConfig", "listconfig.ListConfig")
_OMEGACONF_NODES = (
    *(f"nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Path")),
    *("base.ContainerMetadata", "base.Metadata", "nodes.InterpolationResultNode"),
)
CHECKPOINT_STAND_INS: Mapping[str, type[StandIn]] = {
    name: stand_in(name)
    for name in (
        "argparse.Namespace",
        "fairchem.core.units.mlip_unit.api.inference.MLIPInferenceCheckpoint",
        *("omegaconf." + name for name in (*_OMEGACONF, *_OMEGACONF_NODES)),
    )
}


class _Unpickler(pickle.Unpickler):
    """The C unpickler, with a closed list of names."""

    def __init__(self, data: bytes, stand_ins: Mapping[str, type[StandIn]], budget: Budget) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.stand_ins = stand_ins
        self.budget = budget
        self.untidy = False

    dry = False
    without_numpy = False

    def find_class(self, module: str, name: str) -> Any:
        if self.dry and module == "torch._utils":
            return NOTHING
        allowed = GLOBALS.get((module, name))
        if self.without_numpy and module.split(".")[0] == "numpy":
            allowed = None
        if allowed is None:
            allowed = self.stand_ins.get(f"{module}.{name}")
            if allowed is None:
                raise UnsafeFileError(
                    f"refused: it asks for {module}.{name}, which is not a plain data type"
                )
        if (name == "_reconstruct" and not self.without_numpy) or module.startswith("omegaconf"):
            self.untidy = True
        return allowed.within(self.budget) if type(allowed) is Counted else allowed


class _TorchUnpickler(_Unpickler):
    """Persistent ids become storages."""

    def __init__(
        self, data: bytes, stand_ins: Any, budget: Budget, storage: Callable[[Any], Any]
    ) -> None:
        super().__init__(data, stand_ins, budget)
        self._storage = storage

    def persistent_load(self, pid: Any) -> Any:
        return self._storage(pid)


def _run(unpickler: _Unpickler) -> Any:
    try:
        value = unpickler.load()
        value = _tidy(value, {}, 0) if unpickler.untidy else value
        check_unfolded(value, unpickler.budget)
        return value
    except AseNnpError:
        raise
    except (Exception, RecursionError) as error:
        raise UnpickleError(f"not a readable pickle: {type(error).__name__}: {error}") from None


def _tidy(value: Any, seen: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """Replace pending arrays and OmegaConf containers by plain ones.

    ``seen`` holds what was met, by id, and its replacement: both, or an id would be used again.
    """
    if depth > _MAX_DEPTH:
        raise UnpickleError(f"nested deeper than {_MAX_DEPTH}")
    kind = type(value)
    if kind is PendingArray:
        return value.array
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, StandIn):
        return _tidy_stand_in(value, seen, depth)
    if kind is tuple:
        seen[id(value)] = value, tuple(_tidy(item, seen, depth + 1) for item in value)
        return seen[id(value)][1]

    seen[id(value)] = value, value
    if kind is dict or kind is OrderedDict:
        for key, item in value.items():
            value[key] = _tidy(item, seen, depth + 1)
        if kind is OrderedDict and value.__dict__:
            _tidy(value.__dict__, seen, depth + 1)
    elif kind is list:
        value[:] = [_tidy(item, seen, depth + 1) for item in value]
    return value


def _tidy_stand_in(value: StandIn, seen: dict[int, tuple[Any, Any]], depth: int) -> Any:
    state = value.__dict__
    if getattr(type(value), "origin", "").startswith("omegaconf"):
        content = state.get("_content", state.get("_val"))
        content = _tidy(content, seen, depth + 1)
        seen[id(value)] = value, content
        return content

    seen[id(value)] = value, value
    for key, item in state.items():
        state[key] = _tidy(item, seen, depth + 1)
    return value


# ---------------------------------------------------------------- public functions


def loads(
    data: bytes,
    *,
    stand_ins: Mapping[str, type[StandIn]] | None = None,
    without_numpy: bool = False,
) -> Any:
    """Read one pickle.

    Parameters
    ----------
    data
        The bytes of the pickle.
    stand_ins
        Dotted names that may occur besides plain data, and the holder class of each.
    without_numpy
        Take ``stand_ins`` for numpy's own names too: arrays of objects then pass, unread.

    Raises
    ------
    UnsafeFileError
        It asks for a name that is not on the list; the message says which.
    UnpickleError
        It is damaged.
    """
    end_of_pickle(data)
    names = PYG_STAND_INS if stand_ins is None else stand_ins
    unpickler = _Unpickler(data, names, Budget(len(data)))
    unpickler.without_numpy = without_numpy
    return _run(unpickler)


def load(path: str | Path, *, stand_ins: Mapping[str, type[StandIn]] | None = None) -> Any:
    """Read the pickle in a file; see :func:`loads`. Errors name the file."""
    return _naming(path, lambda data: loads(data, stand_ins=stand_ins))


def load_torch(
    source: str | Path | bytes, *, stand_ins: Mapping[str, type[StandIn]] | None = None
) -> Any:
    """Read what ``torch.save`` wrote: containers as they are, tensors as numpy arrays.

    Parameters
    ----------
    source
        A file, or its content.
    stand_ins
        Holder classes by dotted name; :data:`CHECKPOINT_STAND_INS` when None.

    Returns
    -------
    object
        Devices are ignored, parameters are arrays, OmegaConf containers are dicts and lists.
        Arrays are read-only views of the file's bytes; copy what you want to change.

    Raises
    ------
    UnsafeFileError
        It asks for a name that is not on the list; the message says which.
    UnpickleError
        It is damaged, or not a torch file.
    """
    names = CHECKPOINT_STAND_INS if stand_ins is None else stand_ins

    def read(data: bytes) -> Any:
        load = _load_zip if data[:4] == b"PK\x03\x04" else _load_stream
        return load(data, names, Budget(len(data)))

    return read(source) if isinstance(source, bytes) else _naming(source, read)


def _naming(path: str | Path, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(check_regular(path).read_bytes())
    except OSError as error:
        raise UnpickleError(f"cannot be read: {error.strerror}", path=path) from None
    except UnsafeFileError as error:
        raise UnsafeFileError(str(error), path=path) from None
    except UnpickleError as error:
        raise UnpickleError(str(error), path=path) from None


def _persistent(pid: Any) -> tuple[str, str, int]:
    """Dtype code, key and element count of a storage."""
    if (
        not isinstance(pid, tuple)
        or len(pid) < 5
        or pid[0] != "storage"
        or type(pid[1]) is not StorageType
        or not isinstance(pid[2], str)
        or type(pid[4]) is not int
    ):
        raise UnpickleError("a reference to something that is no storage")
    if len(pid) > 5 and pid[5] is not None:
        raise UnpickleError("storages that are views of storages are not supported")
    return pid[1].code, pid[2], pid[4]


def _load_zip(data: bytes, stand_ins: Mapping[str, type[StandIn]], budget: Budget) -> Any:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        check_members(archive)
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except Exception as error:
        raise UnpickleError(f"not a readable torch archive: {error}") from None
    if sum(info.file_size for info in entries.values()) > 4 * len(data) + (1 << 20):
        raise UnpickleError("a torch archive that inflates to many times its size")

    def entry(name: str) -> bytes:
        try:
            return archive.read(entries[name])
        except Exception as error:
            raise UnpickleError(f"entry {name!r} of the archive: {error!r}") from None

    if "data.pkl" not in entries or "constants.pkl" in entries:
        raise UnpickleError("a zip file, but not one of torch.save (a TorchScript archive?)")
    if "byteorder" in entries and entry("byteorder") != b"little":
        raise UnpickleError("a torch archive of a big-endian machine")
    storages: dict[str, tuple[str, Array | Halves]] = {}

    def storage(pid: Any) -> Array | Halves:
        code, key, count = _persistent(pid)
        if key not in storages:
            storages[key] = code, make_storage(code, entry("data/" + key), count)
        if storages[key][0] != code:
            raise UnpickleError(f"storage {key!r} is used with two dtypes")
        return storages[key][1]

    pickled = entry("data.pkl")
    end_of_pickle(pickled)
    return _run(_TorchUnpickler(pickled, stand_ins, budget, storage))


def _load_stream(data: bytes, stand_ins: Mapping[str, type[StandIn]], budget: Budget) -> Any:
    """Magic number, protocol, system info, object, list of storage keys; then the storages."""
    bounds = [0]
    for _ in range(5):
        bounds.append(end_of_pickle(data, bounds[-1]))
    magic, protocol, system, body, listed = (data[a:b] for a, b in itertools.pairwise(bounds))
    head = [_run(_Unpickler(part, {}, budget)) for part in (magic, protocol, system, listed)]
    if head[0] != 0x1950A86A20F9469CFC6C or head[1] != 1001:
        raise UnpickleError("not a file of torch.save")
    if not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise UnpickleError("a torch file of a big-endian machine")
    kinds: dict[str, tuple[str, int]] = {}

    def note(pid: Any) -> Array:
        code, key, count = _persistent(pid)
        if kinds.setdefault(key, (code, count)) != (code, count):
            raise UnpickleError(f"storage {key!r} is declared twice, differently")
        return NO_DATA

    first = _TorchUnpickler(body, stand_ins, budget, note)
    first.dry = True
    _run(first)  # learn the dtypes: they say where each storage begins
    storages: dict[str, Array | Halves] = {}
    position = bounds[-1]
    for key in head[3] if isinstance(head[3], list) else ():
        code, count = kinds.get(key, ("u1", 0))
        if int.from_bytes(data[position : position + 8], "little", signed=True) != count:
            raise UnpickleError(f"storage {key!r} has another size than announced")
        storages[key] = make_storage(code, data, count, position + 8)
        position += 8 + count * width(code)

    def storage(pid: Any) -> Array | Halves:
        key = _persistent(pid)[1]
        if key not in storages:
            raise UnpickleError(f"storage {key!r} is missing")
        return storages[key]

    return _run(_TorchUnpickler(body, stand_ins, budget, storage))
