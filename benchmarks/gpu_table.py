"""The whole GPU table by one command: relaxation, batches, search, training, precision, memory.

    python benchmarks/gpu_table.py [--device cuda] [--minutes 8] [--families facet escaip ...]
    python benchmarks/gpu_table.py --device cpu --tiny      # shows that it runs

Fresh weights and copper slabs. Every row is printed when it is measured, and rows that would begin
after the time is up say so. A row that fails names its error and the others go on.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from ase import Atoms
from ase.build import fcc111
from ase.optimize import FIRE

import ase_nnp
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.devices import pick_device
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor


def slabs(count: int, side: int = 4) -> list[Atoms]:
    """Copper slabs of ``4 side^2`` atoms, each shaken in its own way."""
    made = []
    for seed in range(count):
        atoms = fcc111("Cu", (side, side, 4), vacuum=8.0, periodic=True)
        atoms.rattle(0.05, seed=seed)
        made.append(atoms)
    return made


class Table:
    """Rows that are printed at once, within a time."""

    def __init__(self, device: torch.device, minutes: float) -> None:
        self.device = device
        self.end = time.monotonic() + 60 * minutes
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        print(f"{name}, torch {torch.__version__}\n\n| what | figure |\n| --- | --- |", flush=True)

    def row(self, what: str, measure: Callable[[], str]) -> None:
        """Print what is measured, or why not."""
        if time.monotonic() > self.end:
            figure = "no time left"
        else:
            try:
                figure = measure()
            except Exception as error:  # one row must not cost the others
                figure = f"{type(error).__name__}: {str(error)[:80]}"
        print(f"| {what} | {figure} |", flush=True)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Wall clock of a run, once the device is idle."""
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def relaxation(table: Table, model: Potential, tiny: bool) -> None:
    """Relax many slabs at once, and a few of them with ASE one after the other."""
    many, few, steps = (4, 1, 2) if tiny else (512, 8, 20)
    structures = slabs(many, 2 if tiny else 4)
    atoms = sum(map(len, structures))

    def together() -> str:
        def run() -> None:
            ase_nnp.relax_many(model, structures, fmax=1e-9, steps=steps)

        run() if tiny else ase_nnp.relax_many(model, structures[:64], fmax=1e-9, steps=2)
        micro = 1e6 * table.seconds(run) / atoms / steps
        return f"{micro:.2f} us/atom/step"

    def alone() -> str:
        def run() -> None:
            for one in structures[:few]:
                moved = one.copy()
                moved.calc = ase_nnp.NNPCalculator(model)
                FIRE(moved, logfile=None).run(fmax=1e-9, steps=steps)

        own = sum(map(len, structures[:few]))
        return f"{1e6 * table.seconds(run) / own / steps:.2f} us/atom/step"

    table.row(f"relax_many, {many} slabs", together)
    table.row(f"ASE, {few} slabs one by one", alone)


def batches(table: Table, family: str, model: Potential, tiny: bool) -> None:
    """Structures a second by the size of the batch."""
    for count in (1, 2) if tiny else (1, 8, 64, 512):

        def measure(count: int = count) -> str:
            structures = slabs(count, 2 if tiny else 4)
            graph = model.make_graph(structures)
            wanted = [p for p in ("energy", "forces") if p in model.outputs]
            model.compute(graph, wanted)
            seconds = table.seconds(lambda: model.compute(graph, wanted))
            figure = f"{graph.num_atoms / seconds:.0f} atoms/s"
            if table.device.type == "cuda":
                figure += f", {torch.cuda.max_memory_allocated(table.device) / 2**30:.2f} GiB"
                torch.cuda.reset_peak_memory_stats(table.device)
            return figure

        table.row(f"{family}, batch of {count}", measure)


def search(table: Table, model: Potential, tiny: bool) -> None:
    """Neighbor search of a batch."""
    structures = slabs(2 if tiny else 256, 2 if tiny else 4)

    def measure() -> str:
        model.make_graph(structures)
        seconds = table.seconds(lambda: model.make_graph(structures))
        return f"{1e3 * seconds / len(structures):.3f} ms a structure"

    table.row(f"graphs of {len(structures)} slabs", measure)


def training(table: Table, model: Potential, tiny: bool) -> None:
    """One step on forces."""
    structures = slabs(1 if tiny else 32, 2 if tiny else 4)

    def measure() -> str:
        pupil = copy.deepcopy(model).train()
        if isinstance(pupil, Conservative):
            pupil.requires_grad_(True)
        graph = pupil.make_graph(structures)

        def step() -> None:
            output = pupil.compute(graph, ("energy", "forces"))
            output["forces"].square().mean().backward()

        step()
        return f"{1e3 * table.seconds(step):.1f} ms for {len(structures)} slabs"

    table.row("training step, forces", measure)


def precision(table: Table, model: Potential, tiny: bool) -> None:
    """Throughput of a predictor at each precision."""
    structures = slabs(2 if tiny else 256, 2 if tiny else 4)
    for name in (None, "tf32", "bf16"):

        def measure(name: str | None = name) -> str:
            predictor = Predictor(model, precision=name) if name else Predictor(model)
            predictor(structures, progress=False)
            seconds = table.seconds(lambda: predictor(structures, progress=False))
            return f"{sum(map(len, structures)) / seconds:.0f} atoms/s"

        table.row(f"predictor, {name or 'float32'}", measure)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--families", nargs="+", default=["facet", "escaip", "cgcnn_oc20", "scn"])
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    options = parser.parse_args()
    table = Table(pick_device(options.device), options.minutes)

    for number, family in enumerate(options.families):
        config = ase_nnp.list_models()[family].test_config if options.tiny else None
        model = ase_nnp.build_model(family, config, seed=0, device=table.device).freeze()
        if number == 0:
            relaxation(table, model, options.tiny)
            search(table, model, options.tiny)
            training(table, model, options.tiny)
            precision(table, model, options.tiny)
        batches(table, family, model, options.tiny)


if __name__ == "__main__":
    main()
