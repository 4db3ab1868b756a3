"""Export: a model's energy, forces and stress as one file that loads without this package.

The energy and its derivatives are traced together into one list of tensor operations whose numbers
of atoms, edges and structures stay open. Nothing reads such a file back into a model of ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp import __version__
from ase_nnp.errors import ConfigError, PredictionError
from ase_nnp.files.atomic import whole_file
from ase_nnp.models.export_check import check_export, host_inputs, sample_structures
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential
from ase_nnp.models.quiet import quiet
from ase_nnp.models.sums import Sum

__all__ = ["FORMATS", "export_model"]

#: ``compiled``: machine code for this processor, read by torch in C++ and in Python (AOTInductor).
#: ``program``: torch's exported program, read by Python; no compiler is needed for it.
FORMATS = ("compiled", "program")

INPUTS = {
    "positions": "(atoms, 3) float64, Angstrom",
    "atomic_numbers": "(atoms,) int64",
    "cell": "(structures, 3, 3) float64, Angstrom; rows are lattice vectors, zero where there is "
    "none",
    "batch": "(atoms,) int64, sorted: the structure of each atom, from 0",
    "edge_index": "(2, edges) int64: neighbor j, center i; every pair in both directions",
    "edge_shift": "(edges, 3) int64: r_ij = positions[j] + edge_shift @ cell - positions[i]",
}
OUTPUTS = {
    "energy": "(structures,) float64, eV",
    "forces": "(atoms, 3) float64, eV/Angstrom",
    "stress": "(structures, 3, 3) float64, eV/Angstrom^3, positive under tension",
}


@usual_default_dtype()
def export_model(model: Any, path: str | Path, *, format: str = "compiled") -> dict[str, Any]:
    """Write a model's energy, forces and stress as a file for hosts that have torch alone.

    The file is checked before it appears: on structures of other sizes than those it was traced
    with, an isolated atom among them, it must give the model's own numbers.

    Parameters
    ----------
    model
        Anything that :func:`~ase_nnp.load_model` takes; None for the default model. Its precision
        is the file's. Error bars stay behind.
    path
        A name that ends in ``.pt2``; the file appears whole or not at all.
    format
        ``"compiled"``: machine code for this processor, for C++ and Python; needs a C++ compiler
        now and none later. ``"program"``: for Python, on any machine, without a compiler.

    Returns
    -------
    dict
        What the file says of itself: inputs, outputs, units, cutoff, elements, precision.

    Raises
    ------
    ConfigError
        No such format, no compiler, a sum of potentials, or a model that cannot be one list of
        operations: they depend on the values of a graph, or it reads more than geometry.
    PredictionError
        The file does not give the model's numbers; it is not written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, not {format!r}.")
    if path.suffix != ".pt2":
        raise ConfigError(f"{path}: torch reads exported models by the ending .pt2; name it so.")
    if format == "compiled":
        _find_compiler()

    loaded = _without_error_bars(load_model(model, device="auto"))
    _check_inputs(loaded)
    plain = deepcopy(loaded).to("cpu").freeze()
    program = _traced(plain)
    said = _metadata(plain, loaded, format)

    text = {"ase_nnp.json": json.dumps(said)}
    with whole_file(path) as file, quiet():
        if format == "program":
            torch.export.save(program, file, extra_files=text)
        else:
            _compile(program, file, text)
        check_export(_reader(file, format), plain, tuple(said["outputs"]))
    return said


def _find_compiler() -> None:
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"])):
        raise ConfigError(
            "A compiled export needs a C++ compiler: no g++ or clang++ was found (CXX names "
            "another). format='program' needs none."
        )


def _without_error_bars(model: Potential) -> Potential:
    """Return the model within; ConfigError where what is around it changes its energy."""
    name = f"'{model.family or type(model).__name__}'"
    if any(isinstance(part, Sum) for part in model.modules()):
        raise ConfigError(
            f"{name} is a sum of potentials (corrections: {', '.join(model.corrections) or 'none'})"
            ", which an exported file cannot hold. Export the model alone, without --correction."
        )

    # Of an ensemble the energy is a mean of members: the file would hold one of them.
    plain = model.unwrapped
    if plain is not model:
        sample = sample_structures(plain)[:1]
        around, within = (
            one.compute(one.make_graph(sample), ("energy",))["energy"].detach().double().cpu()
            for one in (model, plain)
        )
        if not torch.allclose(around, within, rtol=1e-5, atol=1e-5):
            raise ConfigError(
                f"The error bars around {name} change its energy (a mean of members), which an "
                "exported file cannot hold. Export the model without them."
            )
    return plain


def _check_inputs(model: Potential) -> None:
    name = f"'{model.family or type(model).__name__}'"
    if "energy" not in model.outputs:
        raise ConfigError(f"{name} gives no energy to export: {', '.join(model.outputs)}.")
    if model.required_inputs:
        raise ConfigError(
            f"{name} reads {', '.join(model.required_inputs)} beside geometry, which an exported "
            "file has no input for."
        )


def _host_function(model: Potential) -> Callable[..., tuple[Tensor, ...]]:
    """Return a model as a function of tensors alone, in the order of :data:`INPUTS`."""
    outputs = tuple(name for name in OUTPUTS if name in model.outputs)

    # A family may want positions in another precision than its weights.
    geometry = model.make_graph(sample_structures(model)[:1]).positions.dtype

    def evaluate(
        positions: Tensor,
        atomic_numbers: Tensor,
        cell: Tensor,
        batch: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
    ) -> tuple[Tensor, ...]:
        # Around each structure's own center single precision holds positions best.
        ones = torch.ones_like(positions[:, 0])
        counts = ones.new_zeros(cell.shape[0]).index_add(0, batch, ones)
        sums = ones.new_zeros(cell.shape[0], 3).index_add(0, batch, positions)
        center = (sums / counts[:, None]).index_select(0, batch)
        graph = AtomGraph(
            atomic_numbers=atomic_numbers,
            positions=(positions - center).to(geometry),
            cell=cell.to(geometry),
            pbc=cell.ne(0).any(2),
            batch=batch,
            edge_index=edge_index,
            edge_shift=edge_shift,
        )
        results = model.compute(graph, outputs)
        return tuple(results[name].double().detach() for name in outputs)

    return evaluate


def _traced(model: Potential) -> torch.export.ExportedProgram:
    """Return the operations of energy and gradients, for any number of atoms and edges."""
    from torch.fx.experimental.proxy_tensor import make_fx

    traceable = model.traceable()
    # Parts recomputed in a backward pass to save memory depend on the number of atoms.
    traceable.differentiable = True  # type: ignore[assignment]
    _replace_batch_norms(traceable)
    function = _host_function(traceable)

    # Five structures: a number of its own for each open dimension, or torch takes two for one.
    sample = host_inputs(model, sample_structures(model)[:5])
    dim = torch.export.Dim
    atoms, edges, structures = dim("atoms", min=1), dim("edges", min=0), dim("structures", min=1)
    open_dims = ({0: atoms}, {0: atoms}, {0: structures}, {0: atoms}, {1: edges}, {0: edges})

    with quiet(), _reasons(model):
        # The derivatives are part of the trace, so that what is exported has no autograd in it.
        traced = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)
        graph_module = traced(*sample)
        for node in graph_module.graph.nodes:
            # A compiler lays tensors out anew: what was a view of one layout is a copy of another.
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        graph_module.recompile()
        return torch.export.export(graph_module, sample, dynamic_shapes=open_dims, strict=False)


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
            f"'{model.family or type(model).__name__}' cannot be exported: its operations are not "
            f"the same for every structure, or not known to torch's tracer "
            f"({type(error).__name__}: {first[:200]})."
        ) from error


def _compile(program: torch.export.ExportedProgram, file: Path, text: dict[str, str]) -> None:
    from torch._inductor import aoti_compile_and_package

    options = {"aot_inductor.metadata": text}
    try:
        aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)
    except Exception as error:  # a compiler that fails may do so in any way
        raise ConfigError(
            f"The C++ compiler did not compile the model ({type(error).__name__}: "
            f"{str(error)[:300]}). format='program' needs none."
        ) from error


def _reader(file: Path, format: str) -> Any:
    try:
        if format == "program":
            return torch.export.load(file).module()
        return torch._inductor.aoti_load_package(str(file))
    except Exception as error:  # of torch's or the operating system's loader
        raise PredictionError(f"What was exported cannot be loaded: {error}") from error


def _metadata(model: Potential, original: Potential, format: str) -> dict[str, Any]:
    outputs = {name: text for name, text in OUTPUTS.items() if name in model.outputs}
    return {
        "format": format,
        "written_by": f"ase_nnp {__version__}, torch {torch.__version__}",
        "family": model.family,
        "model_hash": model_hash(original),
        "inputs": INPUTS,
        "outputs": outputs,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": "cpu",
        "cutoff": model.cutoff,
        "max_neighbors": model.max_neighbors,
        "images": [bool(axis) for axis in model.images],
        "elements": None if model.elements is None else sorted(model.elements),
        "conservative": model.conservative,
        "energy_kind": model.energy_kind,
        "energy_reference": model.energy_reference,
        "corrections": list(model.corrections),
    }
