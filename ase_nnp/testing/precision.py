"""A model in double precision whose constants, tables or steps between are single."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ase_nnp.testing.standin import caller
from ase_nnp.testing.subject import Figure, Subject, check

__all__: list[str] = []

#: The relative error of a number that was rounded to float32.
ROUNDED = 2.0**-24


@check(0.0)
def check_double_precision_is_double(subject: Subject) -> float:
    """In float64 a model neither holds nor computes with numbers that were rounded to float32."""
    model = subject.model.eval()
    graph = model.make_graph([subject.crystal(), subject.crystal()])
    with _Narrow() as narrow:
        model.compute(graph, model.outputs)

    # Weights are drawn or trained in any precision; a buffer is a constant.
    held = (name for name, b in model.named_buffers() if b.is_floating_point() and _rounded(b))
    where = next(held, narrow.where)
    figure = Figure(ROUNDED if where else 0.0)
    figure.of = where
    return figure


class _Narrow(TorchDispatchMode):  # type: ignore[misc]
    """Remember where an operation first takes or gives rounded numbers in single precision."""

    where = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler first, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "empty" in str(func):
            return out.zero_()  # whatever stands in fresh memory is no number of the model
        single = (t for t in pytree.tree_leaves((args, out)) if isinstance(t, Tensor))
        if not self.where and any(t.dtype == torch.float32 and _rounded(t) for t in single):
            self.where = caller()
        return out


def _rounded(values: Tensor) -> bool:
    """Whether numbers fill float32, and none needs more: those such as 0.5 or 40 are exact."""
    values = values.detach().double()
    values = values[values.isfinite()]
    mantissa = torch.frexp(values).mantissa * 2**20
    return bool((values == values.float()).all() and (mantissa != mantissa.round()).any())
