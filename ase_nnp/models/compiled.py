"""Compiled models: energy and derivatives as machine code, made once and kept in the cache folder.

What is compiled is one list of operations with the derivatives in it, for any number of atoms,
edges and structures. A file of it belongs to one model on one kind of machine: its name is a hash
of weights, configuration, source code, precision, threads, processor and torch. Beside it stands
up to which size the code is faster than the model as it is; larger graphs are not its own.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, PredictionError
from ase_nnp.files.atomic import locked, whole_file
from ase_nnp.models.code_cache import cached_code, code_key, private_folder
from ase_nnp.models.code_gain import kept_gain, most_edges
from ase_nnp.models.export_check import compare_numbers, sample_structures
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.machine_code import compile_program, find_compiler
from ase_nnp.models.modes import evaluating
from ase_nnp.models.potential import Potential
from ase_nnp.models.quiet import quiet
from ase_nnp.models.sums import Sum
from ase_nnp.models.tracing import traced

__all__ = ["CompiledModel"]

#: Fields of a graph, in order, and what each has a row (or behind a colon a column) of.
FIELDS = ("positions", "atomic_numbers", "cell", "pbc", "batch", "edge_index", "edge_shift")
SIZES = ("atoms", "atoms", "structures", "structures", "atoms", ":edges", "edges")


class Code(NamedTuple):
    """Machine code, and the most edges of a graph on which it is faster than the model."""

    run: Any
    most_edges: float


_loaded: dict[str, Code] = {}  # by key: clones and other predictors of a model share its code


class CompiledModel:
    """Results of a model from machine code; made at once, or read from the cache folder.

    Parameters
    ----------
    model
        With the weights that it is to have: the code holds them. It stays as it is.

    Raises
    ------
    ConfigError
        There is no compiler, the model cannot be traced, is not on the CPU, or is a sum of
        potentials or one with error bars; the cache folder can be written by others.
    PredictionError
        The machine code does not give the model's numbers.
    """

    def __init__(self, model: Potential) -> None:
        _check_kind(model)
        self.model, self._marks = model, _marks(model)
        self._run, self.most_edges = self._code()

    def __getstate__(self) -> dict[str, Any]:
        """Without the code, which another process reads from the cache folder."""
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])  # type: ignore[misc]

    def pays(self, graph: AtomGraph) -> bool:
        """Whether the code is faster on the graph than the model as it is."""
        return graph.num_edges <= self.most_edges

    def check_weights(self) -> None:
        """Raise ConfigError where the weights are no longer those that were compiled."""
        if _marks(self.model) != self._marks:
            raise ConfigError(
                f"{_name(self.model)} has changed since it was compiled (weights, precision or "
                "device). Make a new calculator or predictor with compile=True."
            )

    def compute(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return all outputs of the model, from the code, whatever the size."""
        values = self._run(*tensors(graph))
        return dict(zip(self.model.outputs, values, strict=True))

    def _code(self) -> Code:
        """Return the code of this model: this process's, the cache folder's, or new."""
        key = code_key(self.model)
        if key is None:  # a class without a source file cannot be known again
            with TemporaryDirectory() as scratch:
                run = _made(self.model, Path(scratch) / "model.pt2")
                return Code(run, self._gain(run))
        if key in _loaded:
            return _loaded[key]

        folder = private_folder()
        # Who comes second waits for the first one's file instead of compiling too.
        with locked(folder / f"{key}.lock"):
            file = cached_code(folder, key)
            run = None if file is None else _read(file, self.model)
            file = folder / f"{key}.pt2"
            run = run or _made(self.model, file)
            _loaded[key] = Code(run, kept_gain(file, lambda: self._gain(run)))
        return _loaded[key]

    def _gain(self, run: Any) -> float:
        return most_edges(lambda graph: run(*tensors(graph)), self.model)


def tensors(graph: AtomGraph) -> tuple[Tensor, ...]:
    """Return the tensors of a graph as compiled code takes them."""
    return tuple(getattr(graph, name).contiguous() for name in FIELDS)


def graph_function(model: Potential) -> Callable[..., tuple[Tensor, ...]]:
    """Return a model as a function of a graph's tensors."""

    def evaluate(*fields: Tensor) -> tuple[Tensor, ...]:
        named: Any = dict(zip(FIELDS, fields, strict=True))
        results = model.compute(AtomGraph(**named), model.outputs)
        return tuple(results[name].detach() for name in model.outputs)

    return evaluate


def _check_kind(model: Potential) -> None:
    name = _name(model)
    if any(isinstance(part, Sum) for part in model.modules()):
        said = ", ".join(model.corrections) or "none"
        raise ConfigError(
            f"{name} is a sum of potentials (corrections: {said}), each with a neighbor list of "
            "its own, which is not compiled. Take compile=True or the corrections."
        )

    if model is not model.unwrapped:
        raise ConfigError(
            f"compile=True takes a model without error bars: those around {name} are not traced. "
            "Say uncertainty=False (a Predictor takes model.unwrapped)."
        )

    if model.required_inputs:
        raise ConfigError(
            f"{name} reads {', '.join(model.required_inputs)} beside geometry, which compiled code "
            "has no input for; leave compile=True out."
        )

    if model.device.type != "cpu":
        raise ConfigError(
            f"compile=True is for the CPU, and {name} is on {model.device}; compile='inductor' "
            "compiles its energies by torch.compile, with gradients outside."
        )


def _made(model: Potential, path: Path) -> Any:
    """Compile a model into a file, which appears once it gives the model's numbers."""
    find_compiler("Without compile=True none is needed.")
    plain = deepcopy(model).freeze()
    sample = tensors(plain.make_graph(sample_structures(plain)[:5]))
    program = traced(plain, graph_function, sample, SIZES, loops=True)

    with whole_file(path) as file, quiet():
        compile_program(program, file, {"ase_nnp.key": path.stem})
        code = torch._inductor.aoti_load_package(str(file))
        _compare(code, model, sample_structures(model)[5:])

    # The user's own setting may let a group write new files.
    path.chmod(0o600)
    return code


def _read(file: Path, model: Potential) -> Any:
    """Return the code in a file; None where it cannot be read or is not this model's."""
    try:
        code = torch._inductor.aoti_load_package(str(file))
        _compare(code, model, sample_structures(model)[-1:])
    except (RuntimeError, PredictionError):  # damaged, or of what the file's name does not tell
        return None
    return code


def _compare(code: Any, model: Potential, structures: list[Any]) -> None:
    def run(structures: Any) -> Any:
        return code(*tensors(model.make_graph(structures)))

    with torch.no_grad(), evaluating(model):
        compare_numbers(run, model, model.outputs, structures)


def _marks(model: Potential) -> list[Any]:
    """Return what changes with a tensor of the model, without reading the tensor."""
    held = (*model.parameters(), *model.buffers())
    # A formula has no tensors, and yet a precision.
    return [str(model.dtype), str(model.device), *((t.data_ptr(), t._version) for t in held)]


def _name(model: Potential) -> str:
    return f"'{model.family or type(model).__name__}'"
