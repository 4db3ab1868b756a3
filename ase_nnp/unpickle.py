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
from typing import Any, NoReturn

import numpy as np

from ase_nnp.errors import AseNnpError, CheckpointError, DatasetError, UnsafeFileError

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

MAX_DEPTH = 500  # nesting of containers in what comes out
MAX_TUPLES = 30_000  # tuples in a row; hashing nested tuples recurses in C without a check
MAX_EXPANDED = 1 << 24  # elements of a tensor whose strides repeat storage elements


Array = np.ndarray[Any, Any]
_U2 = np.dtype("<u2")


class UnpickleError(CheckpointError, DatasetError):
    """The bytes are damaged, or lie about sizes."""


# ---------------------------------------------------------------- what a pickle may build


class _Sealed(type):
    """A class whose attributes a pickle cannot replace."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{cls.__name__} is sealed")


class StandIn(metaclass=_Sealed):
    """The attributes of a foreign object, in ``__dict__``, and no behaviour."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("stand-ins are filled by the unpickler only")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.__dict__))})"


def stand_in(dotted_name: str) -> type[StandIn]:
    """Make a holder class for the foreign class of that dotted name."""
    module, _, name = dotted_name.rpartition(".")
    return _Sealed(name, (StandIn,), {"__doc__": f"Stands in for {dotted_name}.", "origin": module})


class _Call:
    """A function a pickle may call, without attributes it could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


class _Name:
    """A name that is only passed around (``torch.float32``, ``builtins.dict``)."""

    __slots__ = ("dotted",)

    def __init__(self, dotted: str) -> None:
        object.__setattr__(self, "dotted", dotted)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")

    def __repr__(self) -> str:
        return self.dotted


class _Dtype:
    """``numpy.dtype`` in a pickle: plain numbers and strings only, never objects or records."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        text = code if isinstance(code, str) else ""
        match = re.fullmatch(r"[<>|=]?([biufc?SUMm])(\d*)", text)
        if match is None or int(match[2] or 0) > 1 << 20:
            raise UnsafeFileError(f"refused: numpy dtype {code!r} (numbers and strings only)")
        self.dtype: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(x is not None for x in state[2:5]):
            raise UnsafeFileError("refused: numpy dtype with fields")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _dtype_of(value: Any) -> np.dtype[Any]:
    if isinstance(value, _Dtype):
        return value.dtype
    raise UnpickleError("an array without a dtype")


def _raw(value: Any) -> bytes:
    if isinstance(value, str):  # Python 2 string read as latin-1
        return value.encode("latin-1")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise UnpickleError(f"array data is {type(value).__name__}, not bytes")


def _array(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    kind, data = _dtype_of(dtype), _raw(raw)
    shape = _sizes(shape)
    if _product(shape) * kind.itemsize != len(data) or order not in ("C", "F"):
        raise UnpickleError(f"array of shape {shape} and dtype {kind} over {len(data)} bytes")
    return np.ndarray(shape, kind, data, order=order)


class _PendingArray:
    """``numpy.core.multiarray._reconstruct``: an array whose content comes with its state."""

    __slots__ = ("array",)

    def __init__(self, *_: object) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnpickleError("array state of an unknown kind")
        self.array = _array(state[4], state[2], state[1], "F" if state[3] else "C")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _array(raw, dtype, ())[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if isinstance(text, str) and str(encoding).replace("-", "").lower() == "latin1":
        return text.encode("latin-1")
    raise UnsafeFileError(f"refused: _codecs.encode(..., {encoding!r})")


def _bytearray(value: Any = b"", encoding: Any = "latin1") -> bytes:
    return _encode(value, encoding) if isinstance(value, str) else _raw(value)


def _reconstructor(cls: Any, base: Any = None, state: Any = None) -> Any:
    if isinstance(cls, type) and issubclass(cls, StandIn) and state is None:
        return object.__new__(cls)
    raise UnsafeFileError("refused: copyreg._reconstructor on something that is no data holder")


def _checked_dict(*args: Any) -> dict[Any, Any]:
    return dict(*args[:1])


# ---------------------------------------------------------------- tensors

_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": "bf16",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
    "ComplexFloat": "<c8",
    "ComplexDouble": "<c16",
    "Untyped": "u1",
}
_TORCH_DTYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "bf16",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "?",
    "complex64": "<c8",
    "complex128": "<c16",
}


class _StorageType:
    """``torch.FloatStorage`` and its kin, as a name with a dtype."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        object.__setattr__(self, "code", code)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


class _Halves:
    """A storage of bfloat16 numbers, which numpy does not have, as raw 16-bit words."""

    __slots__ = ("words",)

    def __init__(self, words: Array) -> None:
        object.__setattr__(self, "words", words)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


def _storage(code: str, buffer: Any, count: int, offset: int = 0) -> Array | _Halves:
    """Return the ``count`` numbers of a storage: what tensors are views of."""
    dtype = _U2 if code == "bf16" else np.dtype(code)
    if count < 0 or count * dtype.itemsize > len(buffer) - offset:
        raise UnpickleError(f"storage of {count} x {dtype} in {len(buffer) - offset} bytes")
    data: Array = np.frombuffer(buffer, dtype, count, offset)
    if not data.flags.aligned:
        data = data.copy()
    if code == "?":
        data = data.view(np.uint8) != 0  # a byte other than 0 and 1 is no valid bool
    return _Halves(data) if code == "bf16" else data


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > 32:
        raise UnpickleError(f"a shape is {type(value).__name__}, not a short tuple")
    if not all(type(n) is int and n >= 0 for n in value):
        raise UnpickleError("a shape or stride with an entry that is no positive integer")
    return tuple(value)


def _product(sizes: tuple[int, ...]) -> int:
    n = 1
    for size in sizes:
        n *= size
    return n


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Array:
    if type(storage) is _Halves:
        return (_strided(storage.words, offset, size, stride).astype(np.uint32) << 16).view("<f4")
    if type(storage) is not np.ndarray:
        raise UnpickleError("a tensor over something that is no storage")
    return _strided(storage, offset, size, stride)


def _strided(data: Array, offset: Any, size: Any, stride: Any) -> Array:
    if offset == 0 and len(size) == 2 == len(stride):  # nearly all there is in a record
        rows, columns = size
        if stride == (columns, 1) and rows > 0 and rows * columns == data.size:
            return data.reshape(size)
    size, stride = _sizes(size), _sizes(stride)
    if len(size) != len(stride) or type(offset) is not int or offset < 0:
        raise UnpickleError(f"tensor with offset {offset!r}, shape {size}, strides {stride}")
    count = _product(size)
    if count == 0:
        return np.zeros(size if max(size) <= MAX_EXPANDED else 0, data.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= data.size:
        raise UnpickleError(
            f"tensor of shape {size} and offset {offset} reaches past its storage of {data.size}"
        )
    if stride == (1,):
        return data[offset : offset + count]
    if count > data.size + MAX_EXPANDED:
        raise UnpickleError(f"tensor of shape {size} over a storage of {data.size} elements")
    strides = tuple(step * data.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(data[offset:], size, strides, writeable=False)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """Tensors whose dtype travels beside an untyped storage."""
    name = rest[2].dotted.removeprefix("torch.") if len(rest) > 2 else ""
    code = _TORCH_DTYPES.get(name)
    if code is None or type(storage) is not np.ndarray:
        raise UnpickleError(f"tensor dtype {name!r} is not supported")
    raw = storage.tobytes()
    return _tensor(_storage(code, raw, len(raw) // _width(code)), offset, size, stride)


def _width(code: str) -> int:
    return 2 if code == "bf16" else np.dtype(code).itemsize


def _from_type(function: Any, cls: Any, args: Any, state: Any = None) -> Any:
    if isinstance(function, _Call) and isinstance(cls, _Name) and isinstance(args, tuple):
        return function(*args)
    raise UnsafeFileError("refused: torch._tensor._rebuild_from_type_v2 on an unknown type")


# Exactly what torch writes in front of a storage inside an OC20 record; anything else takes the
# slow way below.
_INNER = re.compile(
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.\x80\x02M\xe9\x03\."
    rb"\x80\x02}q\x00\(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03"
    rb"X\r\x00\x00\x00little_endianq\x02\x88X\n\x00\x00\x00type_sizesq\x03}q\x04\("
    rb"X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu\."
    rb"\x80\x02\(X\x07\x00\x00\x00storageq\x00ctorch\n(\w{3,16})Storage\nq\x01"
    rb"X(.\x00\x00\x00\d{1,30})q\x02X\x03\x00\x00\x00cpuq\x03(?:K(.)|M(..)|J(....))Ntq\x04Q\."
    rb"\x80\x02\]q\x00X\2q\x01a\.(.{8})",
    re.DOTALL,
)
_CODES = {name.encode(): code for name, code in _DTYPES.items()}


def _load_from_bytes(data: Any) -> Array | _Halves:
    """``torch.storage._load_from_bytes``: one storage in a torch stream of its own."""
    if not isinstance(data, bytes):
        raise UnpickleError("torch.storage._load_from_bytes on something that is not bytes")
    match = _INNER.match(data)
    if match is not None and match[1] in _CODES:
        count = int.from_bytes(match[6], "little", signed=True)
        said = int.from_bytes(match[3] or match[4] or match[5], "little")
        key = match[2]
        if said == count and key[0] == len(key) - 4:
            return _storage(_CODES[match[1]], data, count, match.end())
    storage = _load_stream(data, {})
    if type(storage) not in (np.ndarray, _Halves):
        raise UnpickleError("torch.storage._load_from_bytes holds no storage")
    return storage  # type: ignore[no-any-return]


# ---------------------------------------------------------------- the list of names

_NO_DATA: Array = np.zeros(0, np.uint8)
_NOTHING = _Call(lambda *_: None)
_PARAMETER = _Name("torch.nn.parameter.Parameter")
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _Call(lambda *_: {}),
    ("collections", "Counter"): _Call(_checked_dict),
    ("_codecs", "encode"): _Call(_encode),
    ("copyreg", "_reconstructor"): _Call(_reconstructor),
    ("copy_reg", "_reconstructor"): _Call(_reconstructor),
    ("pathlib", "PosixPath"): _Call(lambda *parts: "/".join(map(str, parts))),
    ("pathlib", "WindowsPath"): _Call(lambda *parts: "/".join(map(str, parts))),
    ("typing", "Any"): _Name("typing.Any"),
    ("numpy", "ndarray"): _Name("numpy.ndarray"),
    ("numpy", "dtype"): _Call(_Dtype),
    ("torch._utils", "_rebuild_tensor"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Call(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Call(lambda data, *_: data),
    ("torch._tensor", "_rebuild_from_type_v2"): _Call(_from_type),
    ("torch", "_load_from_bytes"): _Call(_load_from_bytes),
    ("torch.storage", "_load_from_bytes"): _Call(_load_from_bytes),
    ("torch.storage", "TypedStorage"): _StorageType("u1"),
    ("torch.storage", "UntypedStorage"): _StorageType("u1"),
    ("torch.nn.parameter", "Parameter"): _PARAMETER,
    ("torch", "Tensor"): _Name("torch.Tensor"),
    ("torch", "Size"): _Call(_sizes),
    ("torch", "device"): _Call(lambda *args: ":".join(map(str, args))),
    ("torch.serialization", "_get_layout"): _Call(str),
}
for _core in ("numpy.core", "numpy._core"):
    _GLOBALS[_core + ".multiarray", "_reconstruct"] = _Call(_PendingArray)
    _GLOBALS[_core + ".multiarray", "scalar"] = _Call(_scalar)
    _GLOBALS[_core + ".numeric", "_frombuffer"] = _Call(_array)
for _name, _code in _DTYPES.items():
    _GLOBALS["torch", _name + "Storage"] = _StorageType(_code)
for _name in (*_TORCH_DTYPES, "float", "double", "half", "long", "int", "strided"):
    _GLOBALS["torch", _name] = _Name("torch." + _name)
for _module in ("builtins", "__builtin__"):
    for _name in ("set", "frozenset", "complex", "slice"):
        _GLOBALS[_module, _name] = _Call({"set": set, "frozenset": frozenset,
                                          "complex": complex, "slice": slice}[_name])  # fmt: skip
    _GLOBALS[_module, "bytearray"] = _Call(_bytearray)
    for _name in ("object", "dict", "list", "tuple", "int", "float", "str", "bool", "bytes"):
        _GLOBALS[_module, _name] = _Name("builtins." + _name)

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

    def __init__(self, data: bytes, stand_ins: Mapping[str, type[StandIn]]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.stand_ins = stand_ins
        self.untidy = False

    dry = False

    def find_class(self, module: str, name: str) -> Any:
        if self.dry and module == "torch._utils":
            return _NOTHING
        found = _GLOBALS.get((module, name))
        if found is None:
            found = self.stand_ins.get(f"{module}.{name}")
            if found is None:
                raise UnsafeFileError(
                    f"refused: it asks for {module}.{name}, which is not a plain data type"
                )
        if name == "_reconstruct" or module.startswith("omegaconf"):
            self.untidy = True
        return found


class _TorchUnpickler(_Unpickler):
    """Persistent ids become storages."""

    def __init__(self, data: bytes, stand_ins: Any, storage: Callable[[Any], Any]) -> None:
        super().__init__(data, stand_ins)
        self.persistent_load = storage


def _run(unpickler: _Unpickler) -> Any:
    try:
        value = unpickler.load()
        return _tidy(value, {}, 0) if unpickler.untidy else value
    except AseNnpError:
        raise
    except (Exception, RecursionError) as error:
        raise UnpickleError(f"not a readable pickle: {type(error).__name__}: {error}") from None


def _tidy(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """Replace pending arrays and OmegaConf containers by plain ones."""
    if depth > MAX_DEPTH:
        raise UnpickleError(f"nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if kind is _PendingArray:
        return value.array
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, StandIn):
        return _tidy_stand_in(value, seen, depth)
    if kind is tuple:
        return tuple(_tidy(item, seen, depth + 1) for item in value)
    seen[id(value)] = value
    if kind is dict or kind is OrderedDict:
        for key, item in value.items():
            value[key] = _tidy(item, seen, depth + 1)
        if kind is OrderedDict and value.__dict__:
            _tidy(value.__dict__, seen, depth + 1)
    elif kind is list:
        value[:] = [_tidy(item, seen, depth + 1) for item in value]
    return value


def _tidy_stand_in(value: StandIn, seen: dict[int, Any], depth: int) -> Any:
    state = value.__dict__
    if getattr(type(value), "origin", "").startswith("omegaconf"):
        content = state.get("_content", state.get("_val"))
        content = _tidy(content, seen, depth + 1)
        seen[id(value)] = content
        return content
    seen[id(value)] = value
    for key, item in state.items():
        state[key] = _tidy(item, seen, depth + 1)
    return value


# ---------------------------------------------------------------- a look before the leap

_ARGUMENT = {  # bytes of fixed arguments after an opcode
    **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jj", 4),
    **dict.fromkeys(b"G\x95", 8),
    **dict.fromkeys(
        b"(.012N)]}Q lteabosuRd\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98", 0
    ),
}
_SIZED = {  # opcodes with a length in front of their argument: width of that length
    **dict.fromkeys(b"U\x8a\x8cC", 1),
    **dict.fromkeys(b"TXB\x8b", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
_LINES = {**dict.fromkeys(b"FILSVgP", 1), **dict.fromkeys(b"ci", 2)}
_STEP = [_ARGUMENT.get(op, -2) + 1 for op in range(256)]  # -1: not a fixed argument
_SKIP = re.compile(
    rb"(?:[(N)\]}QtaeubsR\x81\x85\x86\x87\x88\x89\x90\x93\x94]|[Khq\x80].|M..|[Jj].{4}|[G\x95].{8}|\x8c(?:"
    + b"|".join(re.escape(bytes([n])) + b".{%d}" % n for n in range(1, 32))
    + rb"))*+",
    re.DOTALL,
)
_TUPLES = frozenset(b"t\x85\x86\x87")
_TAKERS = frozenset(b"aesubR\x81\x90\x91")  # opcodes that put a value away


def _end_of_pickle(data: bytes, start: int = 0) -> int:
    """Offset just after the STOP of the pickle at ``start``, walking opcodes without running them.

    The C unpickler trusts sizes: a memo index of four billion makes it reserve that much memory.
    Lengths past the end and memo indices above the number of opcodes are refused here.
    """
    position, size, tuples = start, len(data), 0
    plain, skip = 0, _SKIP.match  # bytes outside strings; many opcodes in one step
    try:
        while True:
            if plain < MAX_TUPLES:
                run = skip(data, position).end()  # type: ignore[union-attr]
                plain += run - position
                position = run
            op = data[position]
            advance = _STEP[op]
            if advance > 0:
                position += advance
                if op == 46:
                    return position
                if op in _TUPLES:
                    tuples += 1
                    if tuples > MAX_TUPLES:
                        raise UnpickleError("tuples nested too deeply")
                elif op in _TAKERS:
                    tuples = 0
            elif op in _SIZED:
                width = _SIZED[op]
                length = int.from_bytes(data[position + 1 : position + 1 + width], "little")
                position += 1 + width + length
                if position > size:
                    raise UnpickleError(f"a string or number of {length} bytes passes the end")
            elif op in b"rp":
                stop = position + 5 if op == 114 else data.index(b"\n", position) + 1
                digits = data[position + 1 : stop]
                index = int.from_bytes(digits, "little") if op == 114 else int(digits)
                if not 0 <= index <= position - start + 1024:
                    raise UnpickleError(f"memo index {index} in a pickle of {size} bytes")
                position = stop
            elif op in _LINES:
                for _ in range(_LINES[op]):
                    position = data.index(b"\n", position + 1)
                position += 1
            else:
                raise UnpickleError(f"byte {op:#04x} at {position} is no pickle instruction")
    except (IndexError, ValueError):
        raise UnpickleError("the pickle is cut off") from None


# ---------------------------------------------------------------- public functions


def loads(data: bytes, *, stand_ins: Mapping[str, type[StandIn]] | None = None) -> Any:
    """Read one pickle.

    Parameters
    ----------
    data
        The bytes of the pickle.
    stand_ins
        Dotted names that may occur besides plain data, and the holder class of each.

    Raises
    ------
    UnsafeFileError
        It asks for a name that is not on the list; the message says which.
    UnpickleError
        It is damaged.
    """
    _end_of_pickle(data)
    return _run(_Unpickler(data, PYG_STAND_INS if stand_ins is None else stand_ins))


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
        return _load_zip(data, names) if data[:4] == b"PK\x03\x04" else _load_stream(data, names)

    return read(source) if isinstance(source, bytes) else _naming(source, read)


def _naming(path: str | Path, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(Path(path).read_bytes())
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
        or type(pid[1]) is not _StorageType
        or not isinstance(pid[2], str)
        or type(pid[4]) is not int
    ):
        raise UnpickleError("a reference to something that is no storage")
    if len(pid) > 5 and pid[5] is not None:
        raise UnpickleError("storages that are views of storages are not supported")
    return pid[1].code, pid[2], pid[4]


def _load_zip(data: bytes, stand_ins: Mapping[str, type[StandIn]]) -> Any:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
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
    storages: dict[str, tuple[str, Array | _Halves]] = {}

    def storage(pid: Any) -> Array | _Halves:
        code, key, count = _persistent(pid)
        if key not in storages:
            storages[key] = code, _storage(code, entry("data/" + key), count)
        if storages[key][0] != code:
            raise UnpickleError(f"storage {key!r} is used with two dtypes")
        return storages[key][1]

    pickled = entry("data.pkl")
    _end_of_pickle(pickled)
    return _run(_TorchUnpickler(pickled, stand_ins, storage))


def _load_stream(data: bytes, stand_ins: Mapping[str, type[StandIn]]) -> Any:
    """Magic number, protocol, system info, object, list of storage keys; then the storages."""
    bounds = [0]
    for _ in range(5):
        bounds.append(_end_of_pickle(data, bounds[-1]))
    magic, protocol, system, body, listed = (data[a:b] for a, b in itertools.pairwise(bounds))
    head = [_run(_Unpickler(part, {})) for part in (magic, protocol, system, listed)]
    if head[0] != 0x1950A86A20F9469CFC6C or head[1] != 1001:
        raise UnpickleError("not a file of torch.save")
    if not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise UnpickleError("a torch file of a big-endian machine")
    kinds: dict[str, tuple[str, int]] = {}

    def note(pid: Any) -> Array:
        code, key, count = _persistent(pid)
        if kinds.setdefault(key, (code, count)) != (code, count):
            raise UnpickleError(f"storage {key!r} is declared twice, differently")
        return _NO_DATA

    first = _TorchUnpickler(body, stand_ins, note)
    first.dry = True
    _run(first)  # learn the dtypes: they say where each storage begins
    storages: dict[str, Array | _Halves] = {}
    position = bounds[-1]
    for key in head[3] if isinstance(head[3], list) else ():
        code, count = kinds.get(key, ("u1", 0))
        if int.from_bytes(data[position : position + 8], "little", signed=True) != count:
            raise UnpickleError(f"storage {key!r} has another size than announced")
        storages[key] = _storage(code, data, count, position + 8)
        position += 8 + count * _width(code)

    def storage(pid: Any) -> Array | _Halves:
        key = _persistent(pid)[1]
        if key not in storages:
            raise UnpickleError(f"storage {key!r} is missing")
        return storages[key]

    return _run(_TorchUnpickler(body, stand_ins, storage))
