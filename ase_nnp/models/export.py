"""Export: a model's energy, forces and stress as one file that loads without this package.

The energy and its derivatives are traced together into one list of tensor operations whose numbers
of atoms, edges and structures stay open. Nothing reads such a file back into a model of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ase_nnp import __version__
from ase_nnp.errors import ConfigError, PredictionError
from ase_nnp.files.atomic import whole_file
from ase_nnp.models.export_check import compare_numbers, host_inputs, sample_structures
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.machine_code import compile_program, find_compiler
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential
from ase_nnp.models.quiet import quiet
from ase_nnp.models.sums import Sum
from ase_nnp.models.tracing import traced

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
SIZES = ("atoms", "atoms", "structures", "atoms", ":edges", "edges")
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
        find_compiler("format='program' needs none.")

    loaded = _without_error_bars(load_model(model, device="auto"))
    _check_inputs(loaded)
    plain = deepcopy(loaded).to("cpu").freeze()
    sample = host_inputs(plain, sample_structures(plain)[:5])
    program = traced(plain, _host_function, sample, SIZES, loops=format == "compiled")
    said = _metadata(plain, loaded, format)

    text = {"ase_nnp.json": json.dumps(said)}
    with whole_file(path) as file, quiet():
        if format == "program":
            torch.export.save(program, file, extra_files=text)
        else:
            compile_program(program, file, text)
        read = _reader(file, format)
        compare_numbers(
            lambda structures: read(*host_inputs(plain, structures)),
            plain,
            tuple(said["outputs"]),
            sample_structures(plain)[5:],
        )
    return said


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
