"""What a foreign pickle may build: sealed callables, numpy arrays, tensors as arrays.

Nothing here has an attribute that a pickle could overwrite, and every size is checked against
the bytes that are there before it is used. :mod:`ase_nnp.files.unpickle` is the way in.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, NoReturn

import numpy as np

from ase_nnp.errors import UnsafeFileError
from ase_nnp.files.pickle_budget import Budget
from ase_nnp.files.pickle_scan import UnpickleError
from ase_nnp.files.pickle_sealed import Call, Counted, Name, StandIn

Array = np.ndarray[Any, Any]

MAX_EXPANDED = 1 << 22  # elements of a tensor beyond those of its storage (strides that repeat)


class _Dtype:
    """``numpy.dtype`` in a pickle: plain numbers and strings only, never objects or records."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        text = code if isinstance(code, str) else ""
        match = re.fullmatch(r"[<>|=]?([biufc?SUMm])(\d*)", text)
        if match is None or int(match[2] or 0) > 1 << 20:
            said = text or type(code).__name__  # printing what is no word may never end
            raise UnsafeFileError(f"refused: numpy dtype {said!r} (numbers and strings only)")
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


class PendingArray:
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


def _encode(budget: Budget, text: Any, encoding: Any = "latin1") -> bytes:
    if isinstance(text, str) and encoding in ("latin1", "latin-1"):
        budget.spend(len(text))
        return text.encode("latin-1")
    said = encoding if isinstance(encoding, str) else type(encoding).__name__
    raise UnsafeFileError(f"refused: _codecs.encode(..., {said!r})")


def _bytearray(budget: Budget, value: Any = b"", encoding: Any = "latin1") -> bytes:
    """Bytes from text or bytes; from a number would be as many as it says."""
    return _encode(budget, value, encoding) if isinstance(value, str) else _raw(value)


def _reconstructor(cls: Any, base: Any = None, state: Any = None) -> Any:
    if isinstance(cls, type) and issubclass(cls, StandIn) and state is None:
        return object.__new__(cls)
    raise UnsafeFileError("refused: copyreg._reconstructor on something that is no data holder")


def _keyed(kind: type[Any]) -> Counted:
    """Make a dictionary, of a dictionary or of a list of pairs."""

    def make(budget: Budget, *given: Any) -> Any:
        if not given:  # of every tensor that torch has pickled
            return kind()
        (content,) = given
        pairs = list(content.items()) if isinstance(content, dict) else content
        if not isinstance(pairs, (list, tuple)):
            raise UnpickleError(f"a dictionary of {type(content).__name__}")
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise UnpickleError("a dictionary of what are no pairs")
        budget.spend(len(pairs))
        budget.hash_keys(pair[0] for pair in pairs)
        return kind(pairs)

    return Counted(make)


def _unordered(kind: type[Any]) -> Counted:
    """Make a set, of a list or another set."""

    def make(budget: Budget, content: Any = ()) -> Any:
        if not isinstance(content, (list, tuple, set, frozenset)):
            raise UnpickleError(f"a set of {type(content).__name__}")
        budget.spend(len(content))
        budget.hash_keys(content)
        return kind(content)

    return Counted(make)


DTYPES = {
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


NUMPY = {code: np.dtype(code) for code in {*_TORCH_DTYPES.values()} - {"bf16"}}
NUMPY["bf16"] = np.dtype("<u2")


class StorageType:
    """``torch.FloatStorage`` and its kin, as a name with a dtype."""

    __slots__ = ("code",)
    code: str

    def __init__(self, code: str) -> None:
        object.__setattr__(self, "code", code)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


class Halves:
    """A storage of bfloat16 numbers, which numpy does not have, as raw 16-bit words."""

    __slots__ = ("left", "words")
    left: int
    words: Array

    def __init__(self, words: Array) -> None:
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "left", 8 * words.size + 4096)

    def spend(self, count: int) -> None:
        """Count numbers that become numbers of twice the size: a storage may be used often."""
        object.__setattr__(self, "left", self.left - count)
        if self.left < 0:
            raise UnpickleError("tensors that use one storage again and again")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


def make_storage(code: str, buffer: Any, count: int, offset: int = 0) -> Array | Halves:
    """Return the ``count`` numbers of a storage: what tensors are views of."""
    dtype = NUMPY[code]
    if count < 0 or count * dtype.itemsize > len(buffer) - offset:
        raise UnpickleError(f"storage of {count} x {dtype} in {len(buffer) - offset} bytes")
    data: Array = np.frombuffer(buffer, dtype, count, offset)
    if not data.flags.aligned or code == "?":
        # A byte other than 0 and 1 is no valid bool.
        data = data.view(np.uint8) != 0 if code == "?" else data.copy()
        data.flags.writeable = False
    return Halves(data) if code == "bf16" else data


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
    if type(storage) is Halves:
        words = _strided(storage.words, offset, size, stride)
        storage.spend(words.size)
        return (words.astype(np.uint32) << 16).view("<f4")
    if type(storage) is not np.ndarray:
        raise UnpickleError("a tensor over something that is no storage")
    return _strided(storage, offset, size, stride)


def _whole(count: int, size: Any, stride: Any) -> bool:
    """Whether a tensor is its storage in order: nearly all tensors in a record are."""
    if len(size) == 1:
        return bool(size[0] == count and stride == (1,))
    if len(size) == 2:
        return bool(size[0] * size[1] == count and stride == (size[1], 1) and size[0] > 0)
    if len(size) == 3 and size[0] == 1 and size[1] > 0:
        _, rows, columns = size
        return bool(rows * columns == count and stride == (rows * columns, columns, 1))
    return False


def _strided(data: Array, offset: Any, size: Any, stride: Any) -> Array:
    if offset == 0 and data.size and _whole(data.size, size, stride):
        return data.reshape(size)

    size, stride = _sizes(size), _sizes(stride)
    if len(size) != len(stride) or type(offset) is not int or offset < 0:
        raise UnpickleError(f"tensor of shape {size}, strides {stride} and no possible offset")
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
    return np.ndarray(size, data.dtype, data, offset * data.itemsize, strides)


def _tensor_v3(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> Any:
    """Tensors whose dtype travels beside an untyped storage."""
    name = rest[2].dotted.removeprefix("torch.") if len(rest) > 2 and type(rest[2]) is Name else ""
    code = _TORCH_DTYPES.get(name)
    if code is None or type(storage) is not np.ndarray:
        raise UnpickleError(f"tensor dtype {name!r} is not supported")
    budget.spend(storage.nbytes)
    raw = storage.tobytes()
    return _tensor(make_storage(code, raw, len(raw) // width(code)), offset, size, stride)


def width(code: str) -> int:
    """Return the bytes of one element."""
    return NUMPY[code].itemsize


def _from_type(function: Any, cls: Any, args: Any, state: Any = None) -> Any:
    if isinstance(function, Call) and isinstance(cls, Name) and isinstance(args, tuple):
        return function(*args)
    raise UnsafeFileError("refused: torch._tensor._rebuild_from_type_v2 on an unknown type")


def _text(value: Any) -> str:
    if not isinstance(value, (str, int)):
        raise UnpickleError(f"{type(value).__name__} where a word is wanted")
    return str(value)


def _joined(separator: str) -> Counted:
    def join(budget: Budget, *words: Any) -> str:
        parts = [*map(_text, words)]
        # The root of an absolute path is a part of it.
        text = separator.join(parts[1:] if parts[:1] == [separator] else parts)
        text = separator + text if parts[:1] == [separator] else text
        budget.spend(len(text))
        return text

    return Counted(join)


NO_DATA: Array = np.zeros(0, np.uint8)
NOTHING = Call(lambda *_: None)
GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _keyed(OrderedDict),
    ("collections", "defaultdict"): Call(lambda *_: {}),
    ("collections", "Counter"): _keyed(dict),
    ("_codecs", "encode"): Counted(_encode),
    ("copyreg", "_reconstructor"): Call(_reconstructor),
    ("copy_reg", "_reconstructor"): Call(_reconstructor),
    ("pathlib", "PosixPath"): _joined("/"),
    ("pathlib", "WindowsPath"): _joined("/"),
    ("pathlib", "PurePosixPath"): _joined("/"),
    ("pathlib", "PureWindowsPath"): _joined("/"),
    ("typing", "Any"): Name("typing.Any"),
    ("numpy", "ndarray"): Name("numpy.ndarray"),
    ("numpy", "dtype"): Call(_Dtype),
    ("torch._utils", "_rebuild_tensor"): Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Counted(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Call(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): Call(lambda data, *_: data),
    ("torch._tensor", "_rebuild_from_type_v2"): Call(_from_type),
    ("torch.storage", "TypedStorage"): StorageType("u1"),
    ("torch.storage", "UntypedStorage"): StorageType("u1"),
    ("torch.nn.parameter", "Parameter"): Name("torch.nn.parameter.Parameter"),
    ("torch", "Tensor"): Name("torch.Tensor"),
    ("torch", "Size"): Call(_sizes),
    ("torch", "device"): _joined(":"),
    ("torch.serialization", "_get_layout"): Call(_text),
}
for _core in ("numpy.core", "numpy._core"):
    GLOBALS[_core + ".multiarray", "_reconstruct"] = Call(PendingArray)
    GLOBALS[_core + ".multiarray", "scalar"] = Call(_scalar)
    GLOBALS[_core + ".numeric", "_frombuffer"] = Call(_array)
for _name, _code in DTYPES.items():
    GLOBALS["torch", _name + "Storage"] = StorageType(_code)
for _name in (*_TORCH_DTYPES, "float", "double", "half", "long", "int", "strided"):
    GLOBALS["torch", _name] = Name("torch." + _name)
for _module in ("builtins", "__builtin__"):
    GLOBALS[_module, "complex"], GLOBALS[_module, "slice"] = Call(complex), Call(slice)
    GLOBALS[_module, "set"], GLOBALS[_module, "frozenset"] = _unordered(set), _unordered(frozenset)
    GLOBALS[_module, "bytearray"] = GLOBALS[_module, "bytes"] = Counted(_bytearray)
    for _name in (
        "object",
        "dict",
        "list",
        "tuple",
        "int",
        "long",
        "float",
        "str",
        "unicode",
        "bool",
    ):
        GLOBALS[_module, _name] = Name("builtins." + _name)

#: Dtypes by the name of the storage, as it stands in a file.
CODES = {name.encode(): code for name, code in DTYPES.items()}
