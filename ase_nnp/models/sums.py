"""Potentials that add up: one energy, one gradient, and the error bars of the parts carried."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.models.structures import structures_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Sum", "SumOfEnergies", "SumPotential", "sum_potentials", "within"]

#: What adds up; everything else is the first potential's alone.
ADDITIVE = ("energy", "forces", "stress", "energies")
#: What is shifted by an added value: structures come first in those of the energy, second in those
#: of the forces.
MOVED = {
    "energy": ("energy_interval", "energy_members"),
    "forces": ("forces_interval", "forces_members", "forces_comm"),
}
#: Ends of names that say something of one part's error bars, and nothing where there are several.
OF_ONE_PART = ("_interval", "_members", "_comm", "_cov", "_var", "_uncertainty", "_ensemble")


def sum_potentials(
    potentials: Sequence[Potential],
    weights: Sequence[float] | None = None,
    *,
    names: Sequence[str] = (),
) -> Potential:
    """Return the weighted sum of potentials, itself a potential.

    Energy, forces, stress and atomic energies add up; standard deviations add in squares, as those
    of independent errors do; further outputs are those of the first. Where all are gradients of
    their energies, one backward pass makes the derivatives of the sum.

    Parameters
    ----------
    potentials
        The first speaks for all: what it reads, what its energy means.
    weights
        Factors; 1 each by default.
    names
        Of the potentials, for errors.

    Raises
    ------
    ConfigError
        No potentials, another number of weights, or one without an energy.
    """
    if not potentials:
        raise ConfigError("A sum needs at least one potential.")
    factors = [1.0] * len(potentials) if weights is None else [float(w) for w in weights]
    if len(factors) != len(potentials):
        raise ConfigError(f"{len(potentials)} potentials and {len(factors)} weights.")
    called = [*names, *(p.family or type(p).__name__ for p in potentials[len(names) :])]
    for name, one in zip(called, potentials, strict=True):
        if "energy" not in one.outputs:
            raise ConfigError(f"'{name}' gives no energy to add: {', '.join(one.outputs)}.")

    # A model that computes its results in a way of its own has no energies() to differentiate.
    gradients = all(
        isinstance(p, Conservative) and type(p).compute is Conservative.compute for p in potentials
    )
    kind = SumOfEnergies if gradients else SumPotential
    return kind(potentials, factors, called).eval()


def _sees_all_pairs(model: Potential) -> bool:
    limited = model.max_neighbors is not None or bool(dict(model.graph_options))
    return model.plain_graph and not limited


class Sum(Potential):
    """What both kinds of sums share: the members, their graphs and what is said of them."""

    def __init__(
        self, potentials: Sequence[Potential], weights: Sequence[float], names: Sequence[str]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(potentials)
        self.weights, self.names = tuple(weights), tuple(names)

        first = potentials[0]
        self.cutoff, self.max_neighbors = first.cutoff, first.max_neighbors
        self.energy_kind, self.energy_reference = first.energy_kind, first.energy_reference
        self.units, self.graph_options = first.units, first.graph_options
        self.per_atom, self.row_axis = first.per_atom, first.row_axis
        self.family, self.config = first.family, first.config
        self.conservative = all(p.conservative for p in potentials)
        self.repulsive_core = any(p.repulsive_core for p in potentials)
        self.required_inputs = tuple(
            dict.fromkeys(name for p in potentials for name in p.required_inputs)
        )
        self.outputs = _outputs(potentials)
        # Edges of further terms travel in the graph under names of this sum, not of one within.
        self.prefix = "sum" * (1 + sum(isinstance(part, Sum) for part in first.modules()))
        known = [p.elements for p in potentials if p.elements is not None]
        self.elements = frozenset.intersection(*known) if known else None
        # The first one's edges serve all where they are every pair within a cutoff that is enough.
        self.shared = _sees_all_pairs(first) and all(
            _sees_all_pairs(p) and p.cutoff <= first.cutoff for p in potentials[1:]
        )

    @property
    def plain_graph(self) -> bool:
        """Whether the graph is nothing but the first potential's positions and edges."""
        return self.shared

    @property
    def plain_search(self) -> bool:
        """Whether the first potential's pairs serve all."""
        return self.shared

    @property
    def base(self) -> Potential:
        """The first potential."""
        member = self.members[0]
        assert isinstance(member, Potential)
        return member

    @property
    def unwrapped(self) -> Potential:
        """The first potential without anything around it."""
        return self.base.unwrapped

    @property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Where the weights of the first potential are from."""
        return self.base.provenance

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the first potential."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Device of the first potential."""
        return self.base.device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every potential, formulas without parameters too."""
        for _, _, _, term in self.terms():
            term.to(*args, **kwargs)
        return self

    def around(self, first: Potential) -> Potential:
        """Return the sum with another first potential, such as this one's with error bars."""
        terms = [term for _, _, _, term in self.terms()][1:]
        total = sum_potentials([first, *terms], self.weights, names=self.names)
        total.corrections = self.corrections
        return total

    @property
    def uq(self) -> Any:
        """What the error bars of the first potential are."""
        return getattr(self.base, "uq", None)

    def freeze(self) -> Self:
        """Freeze each potential by itself, so that one taken out again can still be trained."""
        for _, _, _, term in self.terms():
            term.freeze()
        return self.eval()

    def set_scales(self, references: Mapping[int, float], **units: float) -> None:
        """Set the units of the first potential; the terms have none."""
        self.base.set_scales(references, **units)

    def shift_references(self, shift: Mapping[int, float]) -> None:
        """Shift the reference energies of the first potential."""
        self.base.shift_references(shift)

    def terms(self) -> Iterator[tuple[int, str, float, Any]]:
        """Number, name, weight and potential of each term."""
        for k, (name, weight) in enumerate(zip(self.names, self.weights, strict=True)):
            yield k, name, weight, self.members[k]

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the first potential's graph, what the others need beside it in ``extra``."""
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        self.check_elements(structures)
        graph = self.base.make_graph(structures, device)
        if self.shared:
            return graph

        for k, name, _, term in self.terms():
            if k == 0:
                continue
            with _named(name):
                own = term.make_graph(structures, device)
            # Numbered within their structure, so that graphs can be joined along the first axis;
            # lists of long terms are large, and one structure needs no new numbers.
            edges, counts = own.edge_index, torch.tensor([own.num_edges], device=own.batch.device)
            if own.num_structures > 1:
                of_structure = own.batch[edges[1]]
                edges = edges - _first_atoms(own)[of_structure]
                counts = torch.bincount(of_structure, minlength=own.num_structures)
            mine = f"{self.prefix}{k}"
            graph.extra[f"{mine}_edges"] = edges.T
            graph.extra[f"{mine}_shifts"] = own.edge_shift
            graph.extra[f"{mine}_counts"] = counts
            graph.extra.update({f"{mine}:{key}": value for key, value in own.extra.items()})
        return graph

    def _graph_of(self, k: int, term: Potential, graph: AtomGraph) -> AtomGraph:
        """Return the batch as one of the terms wants it, at the same positions and cells."""
        if k == 0:
            return graph
        if self.shared:
            return within(graph, term.cutoff)
        mine = f"{self.prefix}{k}"
        if f"{mine}_edges" not in graph.extra:
            # Somebody made the graph by the first one's rule alone; atoms and images stay in order.
            made = term.make_graph(structures_of(graph), graph.positions.device)
            return made.replace(positions=graph.positions, cell=graph.cell)

        edges = graph.extra[f"{mine}_edges"].T
        if graph.num_structures > 1:
            counts = graph.extra[f"{mine}_counts"]
            structures = torch.arange(graph.num_structures, device=counts.device)
            edges = edges + _first_atoms(graph)[structures.repeat_interleave(counts)]
        return graph.replace(
            edge_index=edges,
            edge_shift=graph.extra[f"{mine}_shifts"],
            extra={
                name.removeprefix(f"{mine}:"): value
                for name, value in graph.extra.items()
                if name.startswith(f"{mine}:")
            },
        )


class SumOfEnergies(Sum, Conservative):
    """A sum whose derivatives come from one backward pass through all of its energies."""

    conservative = True

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return the summed energies (B,) in eV beside what else the first potential gives."""
        results: dict[str, Tensor] = {}
        for k, name, weight, term in self.terms():
            with _named(name):
                part = term.energies(self._graph_of(k, term, graph))
            part = part if isinstance(part, dict) else {"energy": part}
            _accumulate(results, part, weight, first=k == 0)
        return {k: v for k, v in results.items() if k not in ADDITIVE or k in self.outputs}


class SumPotential(Sum):
    """A sum of any potentials, each with derivatives of its own making."""

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in :attr:`outputs`."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``."""
        # An interval moves with its value, so the value is needed too.
        needed = {"energy", *properties}
        needed |= {"forces"} if any(p.startswith("forces") for p in properties) else set()

        results: dict[str, Tensor] = {}
        for k, name, weight, term in self.terms():
            with _named(name):
                own = self._graph_of(k, term, graph)
                part = term.compute(own, needed & set(term.outputs))
            _accumulate(results, dict(part), weight, first=k == 0)
        # Lengths of summed error bars are no sum of lengths.
        if "forces_std" in results:
            results["forces_std_norm"] = results["forces_std"].norm(dim=1)
        return {
            name: value
            for name, value in results.items()
            if name in self.outputs or not (name in ADDITIVE or name.endswith(OF_ONE_PART))
        }


def _outputs(potentials: Sequence[Potential]) -> tuple[str, ...]:
    """What a sum can give: added values that all have, and the first one's own."""
    first, *others = potentials
    stds = [n for p in others for n in p.outputs if n.endswith("_std")]
    names = [n for n in first.outputs if n not in ADDITIVE or all(n in p.outputs for p in others)]
    if stds:  # an interval of one part is none of the sum
        names = [n for n in names if not n.endswith(OF_ONE_PART)]
    norm = ["forces_std_norm"] if "forces_std" in {*names, *stds} else []
    return tuple(dict.fromkeys([*names, *stds, *norm]))


def within(graph: AtomGraph, cutoff: float) -> AtomGraph:
    """Return the graph with the edges up to ``cutoff`` Angstrom."""
    with torch.no_grad():
        near = graph.edge_vectors().norm(dim=1) <= cutoff
    return graph.replace(edge_index=graph.edge_index[:, near], edge_shift=graph.edge_shift[near])


def _first_atoms(graph: AtomGraph) -> Tensor:
    sizes = graph.atoms_per_structure()
    return sizes.cumsum(0) - sizes


def _accumulate(
    results: dict[str, Tensor], part: dict[str, Tensor], weight: float, first: bool
) -> None:
    """Add one term; ends of intervals and members move with the value that they belong to."""
    if first:
        for name, value in part.items():
            factor = _factor(name, weight)
            results[name] = value if factor == 1.0 else factor * value
            if name.endswith("_interval") and weight < 0:  # the lower end becomes the upper one
                results[name] = results[name].flip(0 if name.startswith("forces") else -1)
        return

    for name in ADDITIVE:
        if name not in part or name not in results:
            results.pop(name, None)
            continue
        added = weight * part[name]
        results[name] = results[name] + added
        for other in MOVED.get(name, ()):
            if other in results:
                results[other] = results[other] + (
                    added[:, None] if name == "energy" else added[None]
                )

    for name in [n for n in part if n.endswith("_std")]:
        mine = results.get(name, torch.zeros_like(part[name]))
        results[name] = (mine.square() + (weight * part[name]).square()).sqrt()


def _factor(name: str, weight: float) -> float:
    """What an output of a potential is multiplied by, where its energy is by ``weight``."""
    if name in ADDITIVE or name in MOVED["energy"] or name in MOVED["forces"]:
        return weight
    if name.endswith(("_std", "_uncertainty")):
        return abs(weight)
    return weight**2 if name.endswith(("_cov", "_var")) else 1.0


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except AseNnpError as error:
        raise type(error)(f"In the term '{name}' of a sum: {error}") from error
