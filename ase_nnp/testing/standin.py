"""A stand-in accelerator: what a model would trip over on a GPU, seen on a machine without one.

A tensor of the device ``standin`` computes on the CPU, so its values are those of the CPU, but it
keeps the manners of a device with memory of its own. A host tensor in one operation with it raises
:class:`HostTensorError`, as do ``numpy()`` and a random generator of the host. What would make the
host wait for a GPU (a number read back, a size that depends on data, a copy to the host) is
counted, and so are the operations that a GPU would have to be given one by one::

    with Standin() as standin:
        model = copy.deepcopy(model).to(standin.device)
        graph = model.make_graph(structures)
        standin.clear()
        model.compute(graph, ("energy", "forces"))
    print(standin.operations.total(), standin.waits.total(), standin.waits)

Speed, memory, streams and kernels of CUDA alone remain a GPU's to show. It rests on torch's
experimental registration of devices in Python and belongs into tests.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ase_nnp.errors import ConfigError

__all__ = ["DeviceTensor", "HostTensorError", "Standin", "caller", "is_available"]

NAME = "standin"

#: Sizes or errors that CUDA's kernels read back before they return.
WAITING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose"),
    *("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("bincount", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig"),
}
#: Where tensors of both kinds may meet: copies.
COPYING = {"_to_copy", "copy_", "_copy_from"}
#: Nothing that a device would run, beside views.
IDLE = {"_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty"}

_running: list[Standin] = []
_kept: list[torch.library.Library] = []  # a library withdraws its kernels when it is collected


class HostTensorError(RuntimeError):
    """A host tensor, or a generator of the host, was used together with a device tensor."""


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on the device, with its values in a host tensor inside."""

    inner: torch.Tensor  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        """Wrap a host tensor without a copy."""
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        """Show the values without counting a wait."""
        return f"DeviceTensor({self.inner})"

    def tolist(self) -> Any:
        """Copy to the host first, which is counted there."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse, as any device does."""
        if force:
            return self.detach().cpu().numpy()
        raise HostTensorError(f"numpy() of a tensor on the device, at {caller()}: use cpu() first")

    # With these two, Module.to exchanges whole parameters: assigning to `data` would leave `inner`
    # behind.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Name the tensor inside."""
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, torch.Tensor], *_: Any) -> DeviceTensor:
        """Wrap the tensor inside again."""
        return DeviceTensor(inner["inner"])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation outside any :class:`Standin`, as backward threads do."""
        return _execute(func, args, kwargs or {}, _running[-1] if _running else None)


class Standin(TorchDispatchMode):
    """Inside this context the device exists, and what is asked of it is counted.

    Attributes
    ----------
    device
        To move models and tensors to.
    operations : Counter
        What a GPU would run, by the name of the operation in torch; views and allocations are
        left out.
    waits : Counter
        Where the host would wait for a GPU: ``"operation file:line"``.
    uploads : Counter
        Copies from the host to the device, likewise.

    Raises
    ------
    ConfigError
        This torch cannot register a device in Python, or another package took the place.
    """

    def __init__(self) -> None:
        super().__init__()
        _register()
        self.device = torch.device(NAME, 0)
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()

    def clear(self) -> None:
        """Begin to count anew."""
        for counter in (self.operations, self.waits, self.uploads):
            counter.clear()

    def __enter__(self) -> Self:
        """Make the device available."""
        _running.append(self)

        # torch counts devices at the first backward pass of a process, which may lie behind; in
        # one thread it does not ask for the number.
        self._threads = torch.autograd.set_multithreading_enabled(False)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave; tensors that stay on the device can still be read."""
        super().__exit__(*error)
        self._threads.__exit__(*error)
        _running.remove(self)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation of torch."""
        return _execute(func, args, kwargs or {}, self)


def is_available() -> bool:
    """Whether this torch can have the stand-in."""
    try:
        _register()
    except ConfigError:
        return False
    return True


def _execute(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], counts: Standin | None
) -> Any:
    """Judge, count and compute one operation."""
    leaves, layout = pytree.tree_flatten((args, dict(kwargs)))
    name = func._schema.name.partition("::")[2]
    device = {id(x.inner): x for x in leaves if isinstance(x, DeviceTensor)}
    target = kwargs.get("device")
    there = bool(device) if target is None else torch.device(target).type == NAME
    if device or there:
        _judge(func, name, args, leaves)
        if counts is not None:
            _count(counts, func, name, args, leaves, there)

    plain = [x.inner if isinstance(x, DeviceTensor) else x for x in leaves]
    if there and target is not None:
        plain = [torch.device("cpu") if _is_ours(x) else x for x in plain]
    plain_args, plain_kwargs = pytree.tree_unflatten(plain, layout)
    outcome = func(*plain_args, **plain_kwargs)

    # The wrapper keeps the shape it was made with.
    for x in device.values():
        if x.shape != x.inner.shape:
            raise NotImplementedError(f"{name} changes the shape of a tensor in place.")

    def wrapped(x: Any) -> Any:
        # An operation in place returns its argument, which has a wrapper already.
        if not isinstance(x, torch.Tensor) or isinstance(x, DeviceTensor):
            return x
        return device.get(id(x)) if id(x) in device else DeviceTensor(x) if there else x

    if name == "copy_":
        return args[0]
    return pytree.tree_map(wrapped, outcome)


def _judge(func: Any, name: str, args: Sequence[Any], leaves: Sequence[Any]) -> None:
    """Raise where a device would."""
    host = [x for x in leaves if _is_host(x)]
    if any(isinstance(x, torch.Generator) and x.device.type != NAME for x in leaves):
        raise HostTensorError(f"{name} on the device with a generator of the host at {caller()}")

    # CUDA takes numbers of the host anywhere and copies index tensors itself.
    if name in COPYING or not any(isinstance(x, DeviceTensor) for x in leaves):
        return
    allowed = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
    strange = [x for x in host if not any(x is y for y in allowed)]
    if strange:
        shapes = ", ".join(str(tuple(x.shape)) for x in strange)
        raise HostTensorError(f"{name}: host tensors {shapes} meet device tensors at {caller()}")


def _count(
    counts: Standin, func: Any, name: str, args: Sequence[Any], leaves: Sequence[Any], there: bool
) -> None:
    """Note what a GPU would have run, waited for and copied."""
    returned = [r.alias_info for r in func._schema.returns]
    view = any(alias is not None and not alias.is_write for alias in returned)
    if not view and name not in IDLE:
        counts.operations[name] += 1

    ours = any(isinstance(x, DeviceTensor) for x in leaves)
    downwards = ours and not there
    if name == "copy_":
        downwards = not isinstance(args[0], DeviceTensor)
    if downwards or name in WAITING or _has_unknown_size(func, name, args, leaves):
        counts.waits[f"{name} {caller()}"] += 1
    elif any(_is_host(x) for x in leaves):
        counts.uploads[f"{name} {caller()}"] += 1


def _has_unknown_size(func: Any, name: str, args: Sequence[Any], leaves: Sequence[Any]) -> bool:
    """Whether the size of the result depends on values on the device."""
    if name == "repeat_interleave":
        return func._overloadname == "Tensor" and not any(isinstance(x, int) for x in leaves)
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]

    # x[mask] = number is a masked_fill inside torch.
    fills = name != "index" and args[2].numel() == 1 and not any(args[3:])
    return bool(masks) and not fills


def _is_host(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not isinstance(x, DeviceTensor) and x.ndim > 0


def _is_ours(x: Any) -> bool:
    return isinstance(x, torch.device) and x.type == NAME


def caller() -> str:
    """Return file and line of the innermost code that is neither torch's nor of this suite."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}"


class _Backend:
    """What torch asks a module of a device, ``torch.standin``."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        # torch.accelerator would name it as this machine's accelerator.
        return bool(_running)

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def set_device(device: Any) -> None:
        """There is one."""

    @staticmethod
    def synchronize(device: Any = None) -> None:
        """Nothing runs beside the host."""

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Random numbers are the host's."""

    # Once registered, torch.random.fork_rng asks for these wherever it is called in the process.
    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        """The host's state is put back by the caller."""

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def is_autocast_enabled() -> bool:
        return False


@lru_cache(maxsize=1)
def _register() -> None:
    """Give torch a device of this name; once a process, and it cannot be taken back."""
    from torch.utils import backend_registration

    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        raise ConfigError(
            f"torch {torch.__version__} cannot register a device in Python; the stand-in "
            "accelerator needs a newer one."
        )
    try:
        setup(NAME, backend_module=_Backend)
    except RuntimeError as error:
        raise ConfigError(f"The stand-in accelerator cannot be registered: {error}") from error

    # torch.tensor(data, device=...) and copies reach these without passing through the mode.
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    _kept.append(library)


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _empty(size: Any, dtype: Any = None, **_: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty(size, dtype=dtype, device="cpu"))


def _copy_from(
    source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False
) -> torch.Tensor:
    inner = [x.inner if isinstance(x, DeviceTensor) else x for x in (source, target)]
    inner[1].copy_(inner[0])
    if _running and isinstance(target, DeviceTensor) and not isinstance(source, DeviceTensor):
        _running[-1].uploads[f"_copy_from {caller()}"] += 1
    return target
