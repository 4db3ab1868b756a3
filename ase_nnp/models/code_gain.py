"""Up to which size compiled code is faster than its model: measured once and kept beside the code.

Code that sums messages in one sweep wins where a call's fixed costs are large; a model that works
in pieces that fit the processor's cache may win where there are many edges. Which is so depends on
the machine. It is measured once and not while somebody computes, so that a trajectory does not
depend on what else the machine had to do.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from ase_nnp.files.atomic import whole_file
from ase_nnp.models.export_check import sample_structures
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.modes import evaluating
from ase_nnp.models.potential import Potential

__all__ = ["kept_gain", "most_edges"]

#: Crystals of so many copies of the largest sample (16 atoms), each timed so often in turns.
COPIES = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (4, 4, 2))
TURNS = 3
#: They are as dense as copper, Angstrom^3 an atom: code has work for every edge, a model that sums
#: over neighbors first has it for every atom, so code loses earliest where neighbors are many.
VOLUME = 11.8
#: From this many seconds a call the larger crystals are left out.
LONG = 2.0


def kept_gain(code: Path, measure: Callable[[], float]) -> float:
    """Return what is written beside the code, else what is measured, and write that.

    Parameters
    ----------
    code
        The code's file; the number stands beside it, with the ending ``.json``.
    measure
        Called where there is none; infinity is kept too.
    """
    file = code.with_suffix(".json")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))["most_edges"]
        return math.inf if said is None else float(said)
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged
        found = measure()

    with whole_file(file) as beside:
        said = {"most_edges": None if math.isinf(found) else found}
        beside.write_text(json.dumps(said), encoding="utf-8")
    return found


def most_edges(run: Callable[[AtomGraph], Any], model: Potential) -> float:
    """Return the edges of the largest crystal up to which ``run`` is the faster one.

    0 where it never is, infinity where it always is. The code gives a stress whether asked or not;
    the model is timed without, as most calls are.
    """
    asked = [name for name in model.outputs if name != "stress"]
    largest = 0.0
    for copies in COPIES:
        graph = model.make_graph([_dense(sample_structures(model)[-1]) * copies])
        with torch.no_grad(), evaluating(model):
            theirs, own = _seconds(partial(run, graph), partial(model.compute, graph, asked))
        if theirs >= own:
            return largest
        largest = float(graph.num_edges)

        if own > LONG:
            break
    return math.inf


def _dense(atoms: Atoms) -> Atoms:
    factor = (VOLUME * len(atoms) / atoms.get_volume()) ** (1 / 3)
    atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    return atoms


def _seconds(*functions: Callable[[], Any]) -> list[float]:
    """Return the least time of each; they take turns, so that a load meets them all."""
    least = [math.inf] * len(functions)
    for function in functions:  # once for what only first calls do
        function()

    for _ in range(TURNS):
        for place, function in enumerate(functions):
            start = time.perf_counter()
            function()
            least[place] = min(least[place], time.perf_counter() - start)
    return least
