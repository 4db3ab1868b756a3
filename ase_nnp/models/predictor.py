"""Many structures through one model: batches that fit, results in the order given."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from math import ceil, inf, pi
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, PredictionError, StructureError
from ase_nnp.models.batch_size import CudaMemory, LoopOrBatch, Memory, MemoryLimit
from ase_nnp.models.evaluator import Evaluator
from ase_nnp.models.files import load_model
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.kept_edges import KeptList
from ase_nnp.models.modes import progress_bar, usual_default_dtype
from ase_nnp.models.potential import Potential, model_name
from ase_nnp.models.result_rows import split_rows
from ase_nnp.models.structures import as_atoms, name_of, warn_of_charge

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

__all__ = ["Predictor", "as_atoms", "predict"]

#: Edges and atoms of one batch on a CPU, which is busy with one slab; elsewhere memory decides, up
#: to what 32-bit indices inside kernels can count.
MAX_EDGES, MAX_ATOMS, NO_LIMIT = 20_000, 1_000, 2**30


class Predictor:
    """A model with its device, precision and a batch size that it learns.

    On a CPU, structures go one at a time or in small batches, whichever is measured to be faster
    for their size. On a GPU, batches grow to what the memory holds; the next batch is copied and
    its neighbors are searched while the model is at work on the last.

    Parameters
    ----------
    model
        Any :class:`~ase_nnp.Potential`; evaluated in evaluation mode and left as it was.
    max_edges, max_atoms
        Budget of one batch instead of one that is learned; a structure larger than this is a batch
        of its own.
    precision
        None, or ``"tf32"`` or ``"bf16"`` to trade accuracy for speed inside this predictor's
        calls only; :func:`ase_nnp.models.precision.precision_error` measures how much.
    compile
        True for machine code of energy and derivatives in one piece, on the CPU; made once (a
        minute or more), then kept in the cache folder. See
        :class:`ase_nnp.models.compiled.CompiledModel` for what is refused. Or the name of a backend
        of :func:`torch.compile`, for the energies alone, with dynamic shapes.
    memory
        How to ask for the device's memory; by default CUDA's own counters on CUDA.
    """

    def __init__(
        self,
        model: Potential,
        *,
        max_edges: int | None = None,
        max_atoms: int | None = None,
        precision: str | None = None,
        compile: bool | str = False,
        memory: Memory | None = None,
    ) -> None:
        self._evaluate = Evaluator(model, precision, compile)
        self.model, self.precision, self.compile = model, precision, compile
        self._max_edges, self._max_atoms = max_edges, max_atoms
        self._memory = memory
        self._limit: MemoryLimit | None = None
        self._choice = LoopOrBatch()
        self._edges_per_atom = 0.0
        self.calls = 0  # model evaluations so far
        on_device = model.device.type != "cpu" and model.plain_search
        self._kept = KeptList(model) if on_device else None

    @property
    def on_cpu(self) -> bool:
        """Whether there is no device memory to fill."""
        return self._memory is None and self.model.device.type == "cpu"

    @property
    def max_edges(self) -> int:
        """Edges that one batch may hold."""
        return self._max_edges or (MAX_EDGES if self.on_cpu else NO_LIMIT)

    @property
    def max_atoms(self) -> int:
        """Atoms that one batch may hold."""
        return self._max_atoms or (MAX_ATOMS if self.on_cpu else NO_LIMIT)

    def properties(self, wanted: Collection[str] | None) -> tuple[str, ...]:
        """Check names against what the model gives; None means energy and forces where it has them.

        Raises
        ------
        ConfigError
            For a property that the model does not have.
        """
        outputs = self.model.outputs
        if wanted is None:
            return tuple(p for p in outputs if not p.startswith("stress"))
        strange = [p for p in wanted if p not in outputs]
        if strange:
            raise ConfigError(
                f"'{model_name(self.model)}' does not give "
                f"{', '.join(strange)}. It gives: {', '.join(outputs)}."
            )
        return tuple(wanted)

    @usual_default_dtype()
    def single(self, atoms: Atoms, properties: Collection[str]) -> dict[str, Any]:
        """Return the results of one structure; the path of the calculator."""
        warn_of_charge(atoms, self.model.required_inputs)
        try:
            if self._kept is None:
                return self._run(self.model.make_graph([atoms]), [atoms], properties)[0]
            # A search makes the host wait for a device many times, where one on a CPU is as cheap
            # as what a kept list needs.
            output = self._compute(self._kept.graph(atoms), properties)
            self._kept.check()
            return self._rows(output, [atoms], 0)[0]
        except torch.OutOfMemoryError as error:
            raise PredictionError(self._does_not_fit("The structure", atoms)) from error

    def _made(self, atoms: Sequence[Atoms]) -> AtomGraph:
        """Return the model's graph; here and not there, as terms of a sum read less than it."""
        for one in atoms:
            warn_of_charge(one, self.model.required_inputs)
        return self.model.make_graph(atoms)

    def _does_not_fit(self, name: str, atoms: Atoms) -> str:
        return (
            f"{name} ({name_of(atoms)}, {len(atoms)} atoms) does not fit into the "
            f"memory of {self.model.device}. Use a device with more, or the CPU."
        )

    @usual_default_dtype()
    def __call__(
        self,
        structures: Iterable[Any],
        properties: Collection[str] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Return one dictionary of results per structure; see :func:`predict`."""
        atoms = [as_atoms(s) for s in structures]
        wanted = self.properties(properties)
        work = self._on_cpu if self.on_cpu else self._on_device
        with progress_bar(len(atoms), progress) as advance:
            return work(atoms, wanted, advance)

    # ---- a CPU: loop or small batches

    def _on_cpu(
        self, atoms: Sequence[Atoms], wanted: Collection[str], advance: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """Consecutive structures, as many as the budget holds, in one call or one each."""
        results: list[dict[str, Any]] = []
        learns = self._max_edges is None and self._max_atoms is None
        waiting: AtomGraph | None = None
        while len(results) < len(atoms):
            first = len(results)
            graphs = [waiting or self._graph(atoms, first)]
            batched, most = True, len(atoms)
            if learns:
                load, total = _load(graphs[0]), len(atoms)
                batched, most = self._choice.plan(load, total, total - first, self.calls == 0)

            edges, count, waiting = graphs[0].num_edges, graphs[0].num_atoms, None
            while len(graphs) < most and first + len(graphs) < len(atoms):
                graph = self._graph(atoms, first + len(graphs))
                edges, count = edges + graph.num_edges, count + graph.num_atoms
                if edges > self.max_edges or count > self.max_atoms:
                    waiting = graph
                    break
                graphs.append(graph)

            for part in [graphs] if batched else [[graph] for graph in graphs]:
                warm, here, start = self.calls > 0, len(results), time.perf_counter()
                members = atoms[here : here + len(part)]
                results += self._run(AtomGraph.collate(part), members, wanted, here)
                if learns and warm:
                    self._choice.took([*map(_load, part)], time.perf_counter() - start)
            advance(len(graphs))
        return results

    def _graph(self, atoms: Sequence[Atoms], number: int) -> AtomGraph:
        """Return the graph of one of many structures; an error names it."""
        try:
            return self._made([atoms[number]])
        except StructureError as error:
            if len(atoms) == 1:
                raise
            raise type(error)(f"Structure {number}: {error}") from error

    # ---- a device with memory of its own

    def _on_device(
        self, atoms: Sequence[Atoms], wanted: Collection[str], advance: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """Batches as large as the memory holds; one is prepared while another is computed."""
        limit = self._limit = self._limit or self._new_limit()
        results: list[dict[str, Any]] = []
        computing: tuple[dict[str, Tensor], list[Atoms]] | None = None
        place = 0

        def fetch() -> None:
            nonlocal computing
            if computing is not None:
                output, members = computing
                computing = None
                results.extend(self._rows(output, members, len(results)))
                advance(len(members))

        while place < len(atoms):
            members = self._next(atoms, place, limit.load)
            load, short = self._expected(members), False
            try:
                if limit.memory is not None:
                    limit.memory.start()
                graph = self._prepared(atoms, members, place)
                load = _load(graph)
                self._edges_per_atom = graph.num_edges / graph.num_atoms
                if self._too_large(graph, limit.load) and len(members) > 1:
                    continue  # with what is known now, fewer are taken
                output = self._compute(graph, wanted)
                used = 0 if limit.memory is None else limit.memory.used()
            except Exception as error:
                if not limit.is_shortage(error, load):
                    raise

                # While another batch's results are still held, a lone structure may fit after they
                # are fetched.
                if len(members) == 1 and computing is None:
                    said = self._does_not_fit(f"Structure {place}", members[0])
                    raise PredictionError(said) from error
                short = True
            graph = None  # type: ignore[assignment]
            fetch()
            if short:  # outside the except block, where nothing holds the failed tensors any more
                limit.did_not_fit(load)
                if limit.memory is not None:
                    limit.memory.release()
                continue
            limit.went_well(load, used)
            computing = (output, list(members))
            place += len(members)
        fetch()
        return results

    def _new_limit(self) -> MemoryLimit:
        memory, device = self._memory, self.model.device
        if memory is None and device.type == "cuda":
            memory = CudaMemory(device)
        fixed = self._max_edges is not None or self._max_atoms is not None
        limit = MemoryLimit(memory, inf)
        if fixed:  # what the caller says is where to begin; memory may still ask for less
            limit.went_well(self.max_edges + self.max_atoms, 0)
        return limit

    def _expected(self, members: Sequence[Atoms]) -> int:
        """Return the load (edges + atoms) to expect, from the last batch or a metal's density."""
        known = self._edges_per_atom or 4 / 3 * pi * self.model.cutoff**3 * 0.08
        if self.model.max_neighbors is not None:
            known = min(known, self.model.max_neighbors)
        return ceil((1 + known) * sum(map(len, members)))

    def _next(self, atoms: Sequence[Atoms], place: int, limit: int) -> Sequence[Atoms]:
        """Take structures from ``place`` on, as many as should stay within the limits."""
        last, count = place, 0
        load_per_atom = max(1, self._expected([atoms[place]])) / max(1, len(atoms[place]))
        while last < len(atoms):
            count += len(atoms[last])
            over = count * load_per_atom > limit or count > self.max_atoms
            if last > place and (over or count * (load_per_atom - 1) > self.max_edges):
                break
            last += 1
        return atoms[place:last]

    def _too_large(self, graph: AtomGraph, limit: int) -> bool:
        return _load(graph) > 1.1 * limit or graph.num_edges > self.max_edges

    def _prepared(self, atoms: Sequence[Atoms], members: Sequence[Atoms], place: int) -> AtomGraph:
        """Return a batch on the device, made on a stream of its own; an error names the culprit."""
        device = self.model.device
        cuda = device.type == "cuda"
        if cuda and not hasattr(self, "_side"):
            self._side = torch.cuda.Stream(device)
        try:
            with torch.cuda.stream(self._side) if cuda else nullcontext():
                graph = self._made(members)
        except StructureError:
            for number in range(place, place + len(members)):
                self._graph(atoms, number)
            raise

        if cuda:
            now = torch.cuda.current_stream(device)
            now.wait_stream(self._side)
            graph.record_stream(now)
        return graph

    # ---- one call

    def _compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        self.calls += 1
        return self._evaluate(graph, properties)

    def _rows(
        self, output: dict[str, Tensor], atoms: Sequence[Atoms], first: int
    ) -> list[dict[str, Any]]:
        # One copy from a device, which the host waits for, whatever the number of results.
        flat = torch.cat([value.detach().double().flatten() for value in output.values()]).cpu()
        parts = flat.split([value.numel() for value in output.values()])
        arrays = {
            name: part.view(value.shape).to(torch.bool if value.dtype == torch.bool else part.dtype)
            for (name, value), part in zip(output.items(), parts, strict=True)
        }
        arrays = {name: part.numpy() for name, part in arrays.items()}
        return split_rows(arrays, atoms, self.model, first)

    def _run(
        self,
        graph: AtomGraph,
        atoms: Sequence[Atoms],
        properties: Collection[str],
        first: int = 0,
    ) -> list[dict[str, Any]]:
        return self._rows(self._compute(graph, properties), atoms, first)


def _load(graph: AtomGraph) -> int:
    return graph.num_edges + graph.num_atoms


def predict(
    model: Potential | str | Path,
    structures: Iterable[Any],
    properties: Collection[str] | None = None,
    *,
    device: str | torch.device | None = None,
    max_edges: int | None = None,
    max_atoms: int | None = None,
    precision: str | None = None,
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Return the properties of many structures, batched, in the order given.

    Parameters
    ----------
    model
        Anything that :func:`~ase_nnp.load_model` takes; None for the default model.
    structures
        ase.Atoms or pymatgen structures; a dataset will do, and so will one structure alone.
    properties
        Names such as ``("energy", "forces", "stress")``; by default everything the model gives
        but the stress.
    device
        Moves the model first, if given.
    max_edges, max_atoms, precision
        As in :class:`Predictor`.
    progress
        Show a bar on stderr; by default for 50 structures or more on a terminal.

    Returns
    -------
    list of dict
        One for each structure, also where there is only one.
        ``energy`` float (eV), ``forces`` (n, 3) eV/Angstrom, ``stress`` (3, 3) eV/Angstrom^3 for
        periodic cells with a volume, and any other property under its own name; arrays are float64.

    Raises
    ------
    StructureError, UnsupportedElementError
        Naming the structure.
    PredictionError
        The model's answer is not finite.
    """
    model = load_model(model, device=device or "auto")
    if hasattr(structures, "get_positions"):
        structures = [structures]
    predictor = Predictor(model, max_edges=max_edges, max_atoms=max_atoms, precision=precision)
    results = predictor(structures, properties, progress=progress)
    if properties is None:
        return results
    # A model may give more in the same pass (atomic energies); what was asked for is returned.
    return [{name: row[name] for name in properties if name in row} for row in results]
