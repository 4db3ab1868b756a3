"""How large a model may become that is made from a file: a small file makes a small model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ase_nnp.errors import CheckpointError

__all__ = ["no_larger_than"]

#: Numbers that any file may ask for: tables that a family computes are in no file.
SPARE = 2**24
#: What a tensor counts beside its numbers, so that layers without end are noticed as well.
EACH = 1000


class _Foresight(TorchDispatchMode):  # type: ignore[misc]
    """Ask for the size of what is made from nothing (zeros, linspace) before memory is taken."""

    def __init__(self, refuse: Callable[[torch.Size, int], None]) -> None:
        super().__init__()
        self.refuse = refuse

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler when the first tensor is made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = "device" in kwargs and not any(isinstance(a, torch.Tensor) for a in args)
        if made and _may_be_large(args):
            nothing = func(*args, **{**kwargs, "device": "meta", "pin_memory": False})
            self.refuse(nothing.shape, nothing.numel())
        return func(*args, **kwargs)


def _may_be_large(args: Any) -> bool:
    """Whether the square of all numbers in the arguments, as of eye(n), is more than any file's."""
    numbers = [abs(n) for n in pytree.tree_leaves(args) if isinstance(n, (int, float))]
    # The sizes of small ones are not asked for: for some functions (eye, arange) torch knows them
    # in Python only, and imports its compiler for it. That takes seconds, for every file.
    return bool(math.prod(max(n, 1 / n) if n else 1 for n in numbers) > SPARE**0.5)


@contextmanager
def no_larger_than(path: Path) -> Iterator[None]:
    """Refuse, while it is being made, a model of many more numbers than its file has bytes.

    A configuration is a few words, and one of them may ask for layers of any width or number.
    Tensors are counted as modules take them; a single one is refused before it is made.

    Raises
    ------
    CheckpointError
        Naming the file, from within whatever makes the model.
    """
    # Weights are several bytes each; a family may make its modules twice.
    left = SPARE + (2 * path.stat().st_size if path.is_file() else 2**62)
    thread = threading.get_ident()

    def refuse(shape: torch.Size, size: int) -> None:
        if size > left:
            raise CheckpointError(
                f"{path}: its configuration asks for many more numbers than the file holds "
                f"(a tensor of shape {tuple(shape)})."
            )

    def count(_module: Any, _name: str, tensor: Any) -> None:
        nonlocal left
        if tensor is None or threading.get_ident() != thread:
            return  # the hooks are torch's own, and of all threads
        refuse(tensor.shape, tensor.numel() + EACH)
        left -= tensor.numel() + EACH

    hooks = (
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
    )
    try:
        with _Foresight(refuse):
            yield
    finally:
        for hook in hooks:
            hook.remove()
