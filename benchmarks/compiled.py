"""Compiled models beside the same models as they are, and beside an older checkout.

    python benchmarks/compiled.py [--before CHECKOUT] [--turns 9] [--record]

CPU time of energy and forces on a graph that is given, one thread, in processes of their own that
take turns; peak resident memory of each process, over that with torch and the model alone. A second
table has 16 slabs one by one and as one batch.
``--before``: a checkout of this repository (``git worktree add CHECKOUT COMMIT``) whose code joins
the turns.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from facet import structure
from measurement import record_option, write_measurement
from turns import Worker, peak_mib, serve, take_turns

HERE = Path(__file__).resolve()
WEIGHTS = HERE.parents[1] / "plugins/facet/ase_nnp_facet/weights/facet-metals-2.nnp"
MODELS = ("facet-metals-2", "cgcnn_oc20")
COLUMNS = (
    "model",
    "structure",
    "CPU ms before",
    "as it is",
    "compiled",
    "as it is / compiled",
    "before / compiled",
    "share of matrix speed",
    "MiB as it is",
    "MiB compiled",
    "edges",
    "used up to, edges",
)
ONE_BY_ONE, ONE_BATCH = "16 slabs one by one", "16 slabs in one batch"
BATCHES = ("model", "way", "CPU ms one by one", "one batch", "one by one / one batch")


def copper() -> Any:
    from ase.build import bulk

    atoms = bulk("Cu", "fcc", a=3.65, cubic=True).repeat((3, 3, 6))
    atoms.rattle(0.05, seed=0)
    return atoms


STRUCTURES = {
    "66 atoms, CO on Cu(111)": lambda: structure("co_on_cu", None),
    "216 atoms, Cu": copper,
}


def worker(way: str, name: str) -> None:
    """Answer with the CPU time of one call on a structure."""
    import torch

    import ase_nnp

    torch.set_num_threads(1)
    if name == "cgcnn_oc20":
        model = ase_nnp.build_model(name, {}, seed=0, device="cpu").freeze()
    else:
        model = ase_nnp.load_model(WEIGHTS, device="cpu").unwrapped.freeze()
    wanted = [p for p in model.outputs if p != "stress"]

    def plain(graph: Any) -> Any:
        with torch.no_grad():
            return model.compute(graph, wanted)

    call, border = plain, 0.0
    if way == "compiled":
        from ase_nnp.models.compiled import CompiledModel

        compiled = CompiledModel(model)
        call, border = compiled.compute, compiled.most_edges
    # A first small call, so that what is loaded then is no memory of the structure's.
    from ase.build import bulk

    call(model.make_graph(bulk("Cu", cubic=True)))
    graphs = {key: [model.make_graph([make()])] for key, make in STRUCTURES.items()}
    slabs = [structure("co_on_cu", None) for _ in range(16)]
    for seed, slab in enumerate(slabs):
        slab.rattle(0.02, seed=seed)
    graphs |= {ONE_BY_ONE: [model.make_graph([slab]) for slab in slabs]}
    graphs |= {ONE_BATCH: [model.make_graph(slabs)]}
    empty = peak_mib()

    def answer(seed: int, key: str) -> dict[str, Any]:
        if key == "matrices":
            a = torch.rand(1024, 1024)
            a @ a
            begin = time.process_time()
            a @ a
            return {"seconds": time.process_time() - begin}
        if key == "border":
            return {"edges": border}
        call(graphs[key][0])  # caches as they are within a run of one program
        begin = time.process_time()
        energies = [call(graph)["energy"] for graph in graphs[key]]
        seconds = time.process_time() - begin
        energy = float(torch.cat(energies).sum())
        return {
            "seconds": seconds,
            "energy": energy,
            "mib": peak_mib() - empty,
            "edges": sum(g.num_edges for g in graphs[key]),
        }

    serve(answer)


class Whole(nullcontext[None]):
    """All operations belong to the whole model."""

    parents = frozenset({"Global"})


def products(name: str, key: str) -> float:
    """Return the floating-point operations of the matrix products of the model as it is."""
    from torch.utils.flop_counter import FlopCounterMode

    import ase_nnp

    if name == "cgcnn_oc20":
        model = ase_nnp.build_model(name, {}, seed=0, device="cpu").freeze()
    else:
        model = ase_nnp.load_model(WEIGHTS, device="cpu").unwrapped.freeze()
    graph = model.make_graph([STRUCTURES[key]()])
    counter = FlopCounterMode(display=False)
    # Which module a product belongs to is asked by hooks that gradients within gradients refuse.
    counter.mod_tracker = Whole()
    with counter:
        model.compute(graph, ("energy", "forces"))
    return float(counter.get_total_flops())


def measure(name: str, before: str | None, turns: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return the rows of one model in both tables."""
    ways = ["as it is", "compiled"]
    workers = {way: Worker(sys.executable, HERE, way, name) for way in ways}
    if before is not None and name != "cgcnn_oc20":
        path = [before, *map(str, Path(before, "plugins").iterdir())]
        here, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", ""), os.pathsep.join(path)
        workers["before"] = Worker(sys.executable, HERE, "before", name)
        os.environ["PYTHONPATH"] = here

    speed = take_turns({"as it is": workers["as it is"]}, turns, key="matrices")["as it is"]
    used = workers["compiled"].call(seed=0, key="border")["edges"]
    matrices = 2 * 1024**3 / statistics.median(answer["seconds"] for answer in speed)
    rows = []
    for key in STRUCTURES:
        answers = take_turns(workers, turns, warm=2, key=key)
        times = {way: [a["seconds"] for a in given] for way, given in answers.items()}
        energies = {way: given[-1]["energy"] for way, given in answers.items()}
        print(name, key, energies, flush=True)

        def ratio(one: str, times: dict[str, list[float]] = times) -> Any:
            pairs = zip(times[one], times["compiled"], strict=True)
            return statistics.median(a / b for a, b in pairs)

        median = {way: statistics.median(values) for way, values in times.items()}
        share = products(name, key) / median["compiled"] / matrices
        rows.append(
            [
                name,
                key,
                1e3 * median["before"] if "before" in median else "",
                *(1e3 * median[way] for way in ways),
                ratio("as it is"),
                ratio("before") if "before" in median else "",
                share,
                *(answers[way][-1]["mib"] for way in ways),
                answers["compiled"][-1]["edges"],
                "any" if used == math.inf else int(used),
            ]
        )
        print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)

    few = max(3, turns // 3)
    loop, batch = (take_turns(workers, few, key=key) for key in (ONE_BY_ONE, ONE_BATCH))
    batches = []
    for way in workers:
        one, other = ([a["seconds"] for a in part[way]] for part in (loop, batch))
        times = [1e3 * statistics.median(values) for values in (one, other)]
        batches.append([name, way, *times, times[0] / times[1]])
        print(dict(zip(BATCHES, batches[-1], strict=True)), flush=True)
    for one in workers.values():
        one.close()
    return rows, batches


def main() -> None:
    """Print the table."""
    if "--worker" in sys.argv:
        worker(*sys.argv[sys.argv.index("--worker") + 1 :])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--before")
    parser.add_argument("--turns", type=int, default=9)
    record_option(parser)
    options = parser.parse_args()
    measured = [measure(name, options.before, options.turns) for name in options.models]
    if options.record:
        write_measurement("compiled", COLUMNS, [row for rows, _ in measured for row in rows])
        write_measurement(
            "compiled_batches", BATCHES, [row for _, rows in measured for row in rows]
        )


if __name__ == "__main__":
    main()
