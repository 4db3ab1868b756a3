"""Tracing: a model's energy with its derivatives as one list of tensor operations of open sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.models.quiet import quiet

__all__ = ["SMALL", "traced"]

#: A stack of products of matrices with a side this short is a loop for a compiler.
SMALL = 8


def traced(
    model: Potential,
    function: Callable[[Potential], Callable[..., tuple[Tensor, ...]]],
    sample: tuple[Tensor, ...],
    sizes: Sequence[str],
    *,
    loops: bool,
) -> torch.export.ExportedProgram:
    """Return the operations of a function of tensors, for any number of atoms and edges.

    Parameters
    ----------
    model
        On the CPU, frozen; a copy that may be changed.
    function
        Makes the function of tensors from what :meth:`Potential.traceable` returns.
    sample
        Tensors to trace with: a number of its own for each open size.
    sizes
        What each tensor has a row of, or a column behind a colon: ``"atoms"``, ``":edges"``.
    loops
        Write products of small matrices as sums, which a compiler fuses with what is around them.

    Raises
    ------
    ConfigError
        The operations depend on the values of a graph, or torch's tracer does not know them.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    traceable = model.traceable()
    # Parts recomputed in a backward pass to save memory depend on the number of atoms.
    traceable.differentiable = True  # type: ignore[assignment]
    _replace_batch_norms(traceable)

    open_sizes = {
        "atoms": torch.export.Dim("atoms", min=1),
        "edges": torch.export.Dim("edges", min=0),
        "structures": torch.export.Dim("structures", min=1),
    }
    dims = tuple({size.count(":"): open_sizes[size.strip(":")]} for size in sizes)
    with quiet(), _reasons(model):
        # The derivatives are part of the trace, so that what is exported has no autograd in it.
        trace = make_fx(function(traceable), tracing_mode="symbolic", _allow_non_fake_inputs=True)
        graph_module = trace(*sample)
        for node in graph_module.graph.nodes:
            # A compiler lays tensors out anew: what was a view of one layout is a copy of another.
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        if loops:
            _write_loops(graph_module.graph)
        graph_module.recompile()
        return torch.export.export(graph_module, sample, dynamic_shapes=dims, strict=False)


def _write_loops(graph: torch.fx.Graph) -> None:
    """Write stacks of products of small matrices as sums of products."""
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is not aten.bmm.default:
            continue
        one, other = node.args
        _, rows, inner = one.meta["val"].shape
        short = [n for n in (rows, inner, other.meta["val"].shape[2]) if isinstance(n, int)]
        if not short or min(short) > SMALL:
            continue

        # A library multiplies one pair of matrices at a time, through memory: for an edge's few
        # numbers that costs more than the product.
        with graph.inserting_before(node):
            left = graph.call_function(aten.unsqueeze.default, (one, -1))
            right = graph.call_function(aten.unsqueeze.default, (other, -3))
            product = graph.call_function(aten.mul.Tensor, (left, right))
            total = graph.call_function(aten.sum.dim_IntList, (product, [-2]))
        node.replace_all_uses_with(total)
        graph.erase_node(node)


class _FixedNorm(nn.Module):
    """A batch normalization in evaluation: a factor and a shift of each column."""

    factor: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        factor = torch.rsqrt(variance + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight.detach()
        shift = -mean * factor
        if norm.bias is not None:
            shift = shift + norm.bias.detach()
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows (n, columns) scaled and shifted."""
        return x * self.factor + self.shift


def _replace_batch_norms(model: nn.Module) -> None:
    # The derivative of torch's own divides by the number of rows: a process ends where it is 0.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d) and child.track_running_stats:
                setattr(parent, name, _FixedNorm(child))


@contextmanager
def _reasons(model: Potential) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch's tracers raise a dozen kinds, RuntimeError among them
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"'{model.family or type(model).__name__}' cannot be traced, so neither compiled nor "
            f"exported: its operations are not the same for every structure, or not known to "
            f"torch's tracer ({type(error).__name__}: {first[:200]})."
        ) from error
