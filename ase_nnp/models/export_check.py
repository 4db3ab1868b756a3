"""Whether an exported file gives the model's numbers, from the neighbor list its host makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms as _Atoms
from ase.build import bulk
from torch import Tensor

from ase_nnp.errors import PredictionError
from ase_nnp.models.graph import AtomGraph

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["check_export", "host_inputs", "sample_structures"]

#: Of the largest value. Sums in another order differ by a few last bits a layer: a wrong file is
#: wrong in the first digits.
AGREEMENT = {torch.float32: 2e-5, torch.float64: 1e-10}


def sample_structures(model: Potential) -> list[Atoms]:
    """Return crystals to trace a model with (the first five), and others to check it on."""
    numbers = sorted(model.elements or {1, 6, 8, 29})
    numbers = [numbers[k * (len(numbers) - 1) // 3] for k in range(4)]
    length = min(max(0.9 * model.cutoff, 3.6), 5.0)
    cubic = bulk("Cu", a=length, cubic=True)
    made = [cubic * (1, 1, 2) if k == 1 else cubic.copy() for k in range(5)]

    # One atom in a cell, one alone, a molecule and a larger cell: no size of those above.
    made += [bulk("Cu", a=length), _Atoms("Cu"), _Atoms("Cu3", [(0, 0, 0), (0, 0, 1.9), (1, 1, 1)])]
    made += [cubic * (2, 2, 1)]
    for seed, atoms in enumerate(made):
        atoms.numbers = np.resize(numbers, len(atoms))
        atoms.rattle(0.08, seed=seed)
    return made


def host_inputs(model: Potential, structures: Sequence[Atoms]) -> tuple[Tensor, ...]:
    """Return what a host passes, with a neighbor list made as the file's metadata describe it."""
    searched = [atoms.copy() for atoms in structures]
    for atoms in searched:
        atoms.pbc = atoms.pbc & np.asarray(model.images, dtype=bool)
    graph = AtomGraph.from_atoms(
        searched, model.cutoff, model.max_neighbors, dtype=torch.float64, inputs=()
    )
    return (
        graph.positions,
        graph.atomic_numbers,
        graph.cell,
        graph.batch,
        graph.edge_index,
        graph.edge_shift,
    )


def check_export(
    function: Callable[..., Any], model: Potential, outputs: Sequence[str]
) -> dict[str, float]:
    """Return the largest difference of each output, as a part of its largest value.

    Raises
    ------
    PredictionError
        The file differs from the model by more than rounding.
    """
    structures = sample_structures(model)[5:]
    worst = dict.fromkeys(outputs, 0.0)
    for batch in [*([atoms] for atoms in structures), structures]:
        expected = model.compute(model.make_graph(batch), outputs)
        found = function(*host_inputs(model, batch))
        for name, value in zip(outputs, found, strict=True):
            wanted = expected[name].detach().double()
            size = max(float(wanted.abs().max()), 1.0 if name != "stress" else 0.01)
            worst[name] = max(worst[name], float((value - wanted).abs().max()) / size)

    bound = AGREEMENT.get(model.dtype, 2e-5)
    strange = {name: w for name, w in worst.items() if not w <= bound}
    if strange:
        said = ", ".join(f"{name} by {value:.1e} of its size" for name, value in strange.items())
        raise PredictionError(
            f"The exported file does not give the numbers of "
            f"'{model.family or type(model).__name__}': {said}. It was not written. A model whose "
            "neighbor list is more than the pairs within its cutoff cannot be exported."
        )
    return worst
