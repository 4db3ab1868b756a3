"""Many structures through one model: batches that fit, results in the order given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ase_nnp.errors import ConfigError, PredictionError, StructureError
from ase_nnp.graph import AtomGraph
from ase_nnp.potential import Potential

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

__all__ = ["Predictor", "as_atoms", "predict"]

#: Edges in one batch. A CPU is busy with one slab, so small batches lose nothing there.
MAX_EDGES = {"cpu": 20_000, "cuda": 1_000_000}
MAX_ATOMS = {"cpu": 1_000, "cuda": 50_000}
BASIC = ("energy", "forces")


def as_atoms(structure: Any) -> Atoms:
    """Return ``structure`` as ase.Atoms; a pymatgen Structure or Molecule is converted."""
    if hasattr(structure, "get_positions"):
        return structure  # type: ignore[no-any-return]
    if hasattr(structure, "to_ase_atoms"):
        if not getattr(structure, "is_ordered", True):
            raise StructureError(
                "The pymatgen structure has partly occupied sites. Make an ordered structure of "
                "it first (pymatgen.transformations offers several ways)."
            )
        return structure.to_ase_atoms(msonable=False)  # type: ignore[no-any-return]
    raise StructureError(
        f"An ase.Atoms or a pymatgen structure was expected, not {type(structure).__name__}."
    )


def has_stress(atoms: Atoms) -> bool:
    """Whether a stress can be meant: the cell has a volume and is periodic somewhere."""
    return bool(atoms.cell.rank == 3 and atoms.pbc.any())


class Predictor:
    """A model with its device, precision and batch budget.

    Parameters
    ----------
    model
        Any :class:`~ase_nnp.Potential`; evaluated in evaluation mode and left as it was.
    max_edges, max_atoms
        Budget of one batch; a structure larger than this is a batch of its own.
    precision
        None, or ``"tf32"`` or ``"bf16"`` to trade accuracy for speed inside this predictor's
        calls only.
    """

    def __init__(
        self,
        model: Potential,
        *,
        max_edges: int | None = None,
        max_atoms: int | None = None,
        precision: str | None = None,
    ) -> None:
        if precision not in (None, "tf32", "bf16"):
            raise ConfigError(f"precision must be None, 'tf32' or 'bf16', not {precision!r}.")
        self.model = model
        self.precision = precision
        self._max_edges, self._max_atoms = max_edges, max_atoms
        self.calls = 0  # model evaluations so far

    @property
    def max_edges(self) -> int:
        """Edges that one batch may hold."""
        return self._max_edges or MAX_EDGES.get(self.model.device.type, MAX_EDGES["cpu"])

    @property
    def max_atoms(self) -> int:
        """Atoms that one batch may hold."""
        return self._max_atoms or MAX_ATOMS.get(self.model.device.type, MAX_ATOMS["cpu"])

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
                f"'{self.model.family or type(self.model).__name__}' does not give "
                f"{', '.join(strange)}. It gives: {', '.join(outputs)}."
            )
        return tuple(wanted)

    def single(self, atoms: Atoms, properties: Collection[str]) -> dict[str, Any]:
        """Return the results of one structure; the path of the calculator."""
        graph = self.model.make_graph([atoms])
        return self._run(graph, [atoms], properties)[0]

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
        results: list[dict[str, Any]] = []
        with _progress(len(atoms), progress) as advance:
            for graphs, members in self._batches(atoms):
                results += self._run(AtomGraph.collate(graphs), members, wanted, len(results))
                advance(len(members))
        return results

    def _batches(self, atoms: Sequence[Atoms]) -> Iterator[tuple[list[AtomGraph], list[Atoms]]]:
        """Consecutive structures, as many as the budget holds."""
        graphs: list[AtomGraph] = []
        members: list[Atoms] = []
        edges = count = 0
        for number, one in enumerate(atoms):
            try:
                graph = self.model.make_graph([one])
            except StructureError as error:
                if len(atoms) == 1:
                    raise
                raise type(error)(f"Structure {number}: {error}") from error
            full = edges + graph.num_edges > self.max_edges or count + len(one) > self.max_atoms
            if graphs and full:
                yield graphs, members
                graphs, members, edges, count = [], [], 0, 0
            graphs.append(graph)
            members.append(one)
            edges, count = edges + graph.num_edges, count + len(one)
        if graphs:
            yield graphs, members

    def _run(
        self,
        graph: AtomGraph,
        atoms: Sequence[Atoms],
        properties: Collection[str],
        first: int = 0,
    ) -> list[dict[str, Any]]:
        self.calls += 1
        with (
            torch.no_grad(),
            _evaluating(self.model),
            _precision(self.precision, graph.positions.device),
        ):
            output = self.model.compute(graph, properties)
        missing = [p for p in properties if p not in output]
        if missing:
            raise PredictionError(
                f"{type(self.model).__name__} declares {', '.join(missing)} and did not return it."
            )
        keep = {k: v for k, v in output.items() if not k.startswith("stress") or k in properties}
        arrays = {
            k: (v if v.dtype == torch.bool else v.double()).detach().cpu().numpy()
            for k, v in keep.items()
        }
        return _split(arrays, atoms, self.model, first)


def _split(
    arrays: dict[str, np.ndarray], atoms: Sequence[Atoms], model: Potential, first: int
) -> list[dict[str, Any]]:
    sizes = [len(a) for a in atoms]
    ends = np.cumsum([0, *sizes])
    rows: list[dict[str, Any]] = [{} for _ in atoms]
    for name, array in arrays.items():
        axis = model.row_axis.get(name, 0)
        want = ends[-1] if name in model.per_atom else len(atoms)
        if array.shape[axis : axis + 1] != (want,):
            raise PredictionError(
                f"'{name}' has shape {array.shape}; its axis {axis} should be {want} "
                f"({len(atoms)} structures with {ends[-1]} atoms)."
            )
        for k, one in enumerate(atoms):
            rows_of_one = np.arange(ends[k], ends[k + 1]) if name in model.per_atom else k
            value = array.take(rows_of_one, axis=axis)
            if name.startswith("stress") and not has_stress(one):
                continue
            unbounded = name.startswith("ood_") or name.endswith("_interval")
            if np.isnan(value).any() or not (unbounded or np.isfinite(value).all()):
                raise PredictionError(
                    f"'{name}' of structure {first + k} ({one.get_chemical_formula()}) is not "
                    "finite. Are atoms on top of each other, or positions very large?"
                )
            rows[k][name] = value.item() if value.ndim == 0 else value.copy()
    return rows


@contextmanager
def _evaluating(model: Potential) -> Iterator[None]:
    """Evaluation mode for the duration of one call, so that predicting may interrupt training."""
    if not model.training:
        yield
        return
    torch.nn.Module.train(model, False)
    try:
        yield
    finally:
        torch.nn.Module.train(model, True)


@contextmanager
def _precision(precision: str | None, device: torch.device) -> Iterator[None]:
    """Lower precision for the duration of one call; torch's own switches are put back."""
    if precision is None:
        yield
        return
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Any]:
    """A progress bar for long work; by default only for 50 structures or more on a terminal."""
    bar: AbstractContextManager[Any] = nullcontext()
    if show or (show is None and total >= 50):
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        if show or console.is_terminal:
            bar = Progress(console=console)
    with bar as progress:
        if progress is None:
            yield lambda n: None
            return
        task = progress.add_task("predict", total=total)
        yield lambda n: progress.advance(task, n)


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
        A potential, or what :func:`~ase_nnp.load_model` takes as its first argument.
    structures
        ase.Atoms or pymatgen structures; a dataset will do.
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
        ``energy`` float (eV), ``forces`` (n, 3) eV/Angstrom, ``stress`` (3, 3) eV/Angstrom^3 for
        periodic cells with a volume, and any other property under its own name; arrays are float64.

    Raises
    ------
    StructureError, UnsupportedElementError
        Naming the structure.
    PredictionError
        The model's answer is not finite.
    """
    if not isinstance(model, Potential):
        from ase_nnp.models import load_model

        model = load_model(model, device=device or "auto")
    elif device is not None:
        from ase_nnp.models import pick_device

        model = model.to(pick_device(device))
    predictor = Predictor(model, max_edges=max_edges, max_atoms=max_atoms, precision=precision)
    return predictor(structures, properties, progress=progress)
