"""Potentials that add up: one energy, one gradient, and the error bars of the parts carried."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Conservative, Potential
from ase_nnp.registry.correction import parse_correction
from ase_nnp.registry.installed import installed

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "SumOfEnergies",
    "SumPotential",
    "add_corrections",
    "stored_corrections",
    "sum_potentials",
    "with_stored_corrections",
]

#: What adds up; everything else is the first potential's alone.
ADDITIVE = ("energy", "forces", "stress", "energies")
#: What is shifted by an added value: structures come first in those of the energy, second in those
#: of the forces.
MOVED = {
    "energy": ("energy_interval", "energy_members"),
    "forces": ("forces_interval", "forces_members", "forces_comm"),
}


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

    first, *others = potentials
    # The first one's edges serve all where they are every pair within a cutoff that is enough.
    shared = _sees_all_pairs(first) and all(
        _sees_all_pairs(p) and p.cutoff <= first.cutoff for p in others
    )
    gradients = all(isinstance(p, Conservative) for p in potentials)
    kind = SumOfEnergies if shared and gradients else SumPotential
    return kind(potentials, factors, called).eval()


def add_corrections(
    model: Potential, corrections: Sequence[str], options: Mapping[str, Any] | None = None
) -> Potential:
    """Return a model with corrections of installed plugins added.

    Parameters
    ----------
    model
        Any potential.
    corrections
        Names such as ``"zbl"``, with the functional where one is needed: ``"d3bj:pbe"``.
    options
        Parameters by the name of the correction, over its defaults.

    Raises
    ------
    ConfigError
        An unknown or repeated correction, or one that does not go with the model.
    """
    if not corrections:
        return model
    terms: list[Potential] = []
    for text in corrections:
        name, functional = parse_correction(text)
        correction = installed().correction(name)
        if text in model.corrections or text in corrections[: len(terms)]:
            raise ConfigError(f"The correction '{text}' is already in the model: counted twice.")
        config = correction.resolve(functional, (options or {}).get(name, {}))
        term = correction.build(config).to(model.dtype).to(model.device)
        term.family, term.config = name, config
        terms.append(term)

    total = sum_potentials([model, *terms], names=[model.family or "model", *corrections])
    total.corrections = (*model.corrections, *corrections)
    return total.freeze() if not any(p.requires_grad for p in model.parameters()) else total


def stored_corrections(model: Potential) -> list[dict[str, Any]]:
    """Return the corrections of a model as its file keeps them: name and parameters, in order.

    Raises
    ------
    CheckpointError
        The model is a sum of other potentials, which one file cannot hold.
    """
    layer: Any = model
    stored: list[dict[str, Any]] = []
    while layer is not layer.unwrapped:
        if len(getattr(layer, "potentials", ())) > 1:
            raise CheckpointError(
                f"{len(layer.potentials)} models are no one model; save the members alone."
            )
        if isinstance(layer, _Sum):
            terms = layer.corrections[len(layer.base.corrections) :]
            if len(terms) != len(layer.members) - 1 or set(layer.weights) != {1.0}:
                raise CheckpointError(
                    f"A sum of {', '.join(layer.names)} is no one model; save its parts alone."
                )
            configs = [dict(term.config) for _, _, _, term in list(layer.terms())[1:]]
            added = zip(terms, configs, strict=True)
            stored = [{"name": n, "config": c} for n, c in added] + stored
        layer = layer.base
    return stored


def with_stored_corrections(model: Potential, stored: Sequence[Mapping[str, Any]]) -> Potential:
    """Add the corrections that :func:`stored_corrections` returned."""
    for entry in stored:
        name, _ = parse_correction(entry["name"])
        options = {k: v for k, v in entry["config"].items() if k != "functional"}
        model = add_corrections(model, [entry["name"]], {name: options})
    return model


def _sees_all_pairs(model: Potential) -> bool:
    inner = model.unwrapped
    own = type(inner).make_graph is not Potential.make_graph
    return not (own or model.max_neighbors is not None or dict(model.graph_options))


class _Sum(Potential):
    """What both kinds of sums share: the members and what is said of them."""

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
        self.family, self.config, self.provenance = first.family, first.config, first.provenance
        self.conservative = all(p.conservative for p in potentials)
        self.reads = tuple(dict.fromkeys(name for p in potentials for name in p.reads))
        self.outputs = _outputs(potentials)
        known = [p.elements for p in potentials if p.elements is not None]
        self.elements = frozenset.intersection(*known) if known else None

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

    @property
    def uq(self) -> Any:
        """What the error bars of the first potential are."""
        return getattr(self.base, "uq", None)

    def terms(self) -> Iterator[tuple[int, str, float, Any]]:
        """Number, name, weight and potential of each term."""
        for k, (name, weight) in enumerate(zip(self.names, self.weights, strict=True)):
            yield k, name, weight, self.members[k]


class SumOfEnergies(_Sum, Conservative):
    """A sum whose derivatives come from one backward pass, on one list of edges."""

    conservative = True

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return the summed energies (B,) in eV beside what else the first potential gives."""
        results: dict[str, Tensor] = {}
        for k, name, weight, term in self.terms():
            with _named(name):
                part = term.energies(graph if k == 0 else within(graph, term.cutoff))
            part = part if isinstance(part, dict) else {"energy": part}
            _accumulate(results, part, weight, first=k == 0)
        return {k: v for k, v in results.items() if k not in ADDITIVE or k in self.outputs}


class SumPotential(_Sum):
    """A sum of any potentials: each is evaluated as it wants to be, on edges of its own."""

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the first potential's graph, the edges of the others beside it in ``extra``."""
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        self.check_elements(structures)
        graph = self.base.make_graph(structures, device)
        for k, name, _, term in self.terms():
            if k == 0:
                continue
            with _named(name):
                own = term.make_graph(structures, device)
            first = _first_atoms(own)
            of_structure = own.batch[own.edge_index[1]]
            counts = torch.bincount(of_structure, minlength=own.num_structures)
            # Numbered within their structure, so that graphs can be joined along the first axis.
            graph.extra[f"sum{k}_edges"] = (own.edge_index - first[of_structure]).T.contiguous()
            graph.extra[f"sum{k}_shifts"] = own.edge_shift
            graph.extra[f"sum{k}_counts"] = counts
        return graph

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
                part = term.compute(self._graph_of(k, graph), needed & set(term.outputs))
            _accumulate(results, dict(part), weight, first=k == 0)
        return {k: v for k, v in results.items() if k not in ADDITIVE or k in self.outputs}

    def _graph_of(self, k: int, graph: AtomGraph) -> AtomGraph:
        if f"sum{k}_edges" not in graph.extra:
            return graph
        counts = graph.extra[f"sum{k}_counts"]
        structures = torch.arange(graph.num_structures, device=counts.device)
        offset = _first_atoms(graph)[structures.repeat_interleave(counts)]
        edges = graph.extra[f"sum{k}_edges"].T + offset
        return graph.replace(edge_index=edges, edge_shift=graph.extra[f"sum{k}_shifts"], extra={})


def _outputs(potentials: Sequence[Potential]) -> tuple[str, ...]:
    """What a sum can give: added values that all have, and the first one's own."""
    first, *others = potentials
    stds = [n for p in others for n in p.outputs if n.endswith("_std")]
    names = [n for n in first.outputs if n not in ADDITIVE or all(n in p.outputs for p in others)]
    if stds:  # an interval of one part is none of the sum
        names = [n for n in names if not n.endswith(("_interval", "_members", "_comm"))]
    return tuple(dict.fromkeys([*names, *stds]))


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
            moves = name in ADDITIVE or name in MOVED["energy"] or name in MOVED["forces"]
            factor = weight if moves else abs(weight) if name.endswith("_std") else 1.0
            results[name] = value if factor == 1.0 else factor * value
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


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except AseNnpError as error:
        raise type(error)(f"In the term '{name}' of a sum: {error}") from error
