"""Whether an exported file gives the model's numbers, from the neighbor list its host makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
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

__all__ = ["compare_numbers", "host_inputs", "sample_structures"]

#: Of the largest value. Sums in another order differ by a few last bits a layer: a wrong file is
#: wrong in the first digits.
AGREEMENT = {torch.float32: 2e-5, torch.float64: 1e-10}
#: Times what its precision costs the model itself. A stress is what is left of much larger numbers,
#: so that on some processors its last bits are more than the part above.
ROUNDING = 4.0


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


def compare_numbers(
    function: Callable[[Sequence[Atoms]], Any],
    model: Potential,
    outputs: Sequence[str],
    structures: Sequence[Atoms],
) -> dict[str, float]:
    """Return the largest difference of each output, as a part of its largest value.

    What differs by more than usual rounding must be as near to the model in double precision as
    the model itself is, within a factor of four.

    Parameters
    ----------
    function
        Gives the outputs of structures, in their order.
    model, outputs
        What they are compared with.
    structures
        Each alone, and then all in one batch.

    Raises
    ------
    PredictionError
        They differ by more than rounding.
    """
    worst, strange = dict.fromkeys(outputs, 0.0), {}
    together = [list(structures)] if len(structures) > 1 else []
    for batch in [*([atoms] for atoms in structures), *together]:
        expected = model.compute(model.make_graph(batch), outputs)
        for name, value in zip(outputs, function(batch), strict=True):
            wanted, found = expected[name].detach().double(), value.double()
            size = max(float(wanted.abs().max()), 1.0 if name != "stress" else 0.01)
            gap = float((found - wanted).abs().max()) / size
            # No comparison is true of NaN, so that it would pass for no difference.
            worst[name] = math.inf if math.isnan(gap) else max(worst[name], gap)
            bound = AGREEMENT.get(model.dtype, 2e-5)
            if not gap <= bound and not gap <= ROUNDING * _rounding(model, batch, name) / size:
                strange[name] = worst[name]

    if strange:
        said = ", ".join(f"{name} by {value:.1e} of its size" for name, value in strange.items())
        raise PredictionError(
            f"What was made of '{model.family or type(model).__name__}' does not give its numbers: "
            f"{said}. It was not written. A model whose neighbor list is more than the pairs "
            "within its cutoff can be neither exported nor compiled."
        )
    return worst


def _rounding(model: Potential, batch: Sequence[Atoms], name: str) -> float:
    """Return how far an output of the model is from that of its twin in double precision."""
    exact = deepcopy(model).to(torch.float64)
    own, wanted = (
        one.compute(one.make_graph(list(batch)), (name,))[name].detach().double()
        for one in (model, exact)
    )
    return float((own - wanted).abs().max())
