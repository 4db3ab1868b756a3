"""Potential: graph in, dictionary of properties out.

A direct model writes ``forward(graph)``. A model that only knows an energy derives from
:class:`ase_nnp.models.conservative.Conservative` and writes ``energies(graph)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.structures import check_numbers
from ase_nnp.registry.ancestry import fine_tuned_from

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Potential", "model_name"]

#: Properties with one row per atom; everything else has one row per structure.
PER_ATOM = frozenset(
    {"forces", "energies", "magmoms", "charges", "forces_std", "energies_std", "forces_raw"}
)


class Potential(nn.Module):
    """A model of atoms.

    ``forward(graph)`` returns a dictionary: ``energy`` (B,) eV, ``forces`` (N, 3) eV/Angstrom,
    ``stress`` (B, 3, 3) eV/Angstrom^3 with ASE's sign, and any named property besides.

    Attributes
    ----------
    cutoff
        Angstrom.
    max_neighbors
        Cap on the neighbors of an atom, or None.
    outputs
        What the model can return.
    elements
        Atomic numbers it was made for, or None for no restriction.
    conservative
        Whether forces are the gradient of the energy.
    energy_kind
        ``"total"``, ``"adsorption"``, ``"formation"`` or ``"none"``; ``energy_reference`` says to
        what a referenced energy is referenced.
    units
        Unit of each output that is not in eV and Angstrom.
    required_inputs
        Fields beside geometry that the model reads: ``charge``, ``spin``, ``tags``, ``fixed``.
    repulsive_core
        Whether any two atoms repel at distances shorter than any bond; the conformance suite
        holds a model to it.
    graph_options
        Further arguments for :meth:`AtomGraph.from_atoms` (``wrap``, ``pbc``).
    per_atom, row_axis
        Outputs with a row an atom (others have one a structure), and the axis of the rows where it
        is not the first.
    images
        Axes along which a periodic structure has images for this model, all three by default.
    corrections
        Terms added to it, as they are named: ``"zbl"``, ``"d3bj:pbe"``.
    family, config, provenance
        Set by the registry: the family, its hyper-parameters, and where the weights are from.

    Examples
    --------
    Springs to the origin, with forces written by hand:

    >>> import torch
    >>> from ase import Atoms
    >>> from ase_nnp import Potential, predict
    >>> class Springs(Potential):
    ...     def forward(self, graph):
    ...         energy = (graph.positions**2).sum(dim=1) / 2  # (N,) eV
    ...         total = energy.new_zeros(graph.num_structures).index_add(0, graph.batch, energy)
    ...         return {"energy": total, "forces": -graph.positions}
    >>> springs = Springs()
    >>> springs.graph_options = {"recenter": False}
    >>> predict(springs, [Atoms("H", [(2.0, 0.0, 0.0)])])[0]["forces"][0, 0].item()
    -2.0
    """

    cutoff: float = 6.0
    max_neighbors: int | None = None
    outputs: tuple[str, ...] = ("energy", "forces")
    elements: frozenset[int] | None = None
    conservative: bool = False
    repulsive_core: bool = False
    energy_kind: str = "total"
    energy_reference: str = ""
    units: Mapping[str, str] = {}
    per_atom: frozenset[str] = PER_ATOM
    #: Axis of the atoms or structures in outputs where it is not the first (members come first).
    row_axis: Mapping[str, int] = {}
    required_inputs: tuple[str, ...] = ()
    graph_options: Mapping[str, Any] = {}
    images: Sequence[bool] = (True, True, True)
    #: Terms added to it, as they are named: ``"zbl"``, ``"d3bj:pbe"``.
    corrections: tuple[str, ...] = ()
    #: Set by the registry: which family and configuration this is, and where its weights are from.
    family: str = ""
    config: Mapping[str, Any] = {}
    provenance: Mapping[str, Any] = {}

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return the properties of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must write forward(graph)")

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``; a model that can save work by the list overrides this."""
        result: dict[str, Tensor] = self(graph)
        return result

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the graph this model wants, in its own precision, on ``device`` or its own.

        Raises
        ------
        UnsupportedElementError
            Naming the elements that the model was not made for.
        StructureError
            For atoms that cannot be meant.
        """
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        self.check_elements(structures)
        graph = AtomGraph.from_atoms(
            structures,
            self.cutoff,
            self.max_neighbors,
            dtype=torch.float64,
            device=self.device if device is None else device,
            inputs=self.required_inputs,
            **{"recenter": True, **self.graph_options},
        )
        return self.finish_graph(graph)

    def finish_graph(self, graph: AtomGraph) -> AtomGraph:
        """Return what the model reads, from positions and pairs within the cutoff in float64.

        A family whose graph says more than its pairs, or says it otherwise, overrides this and not
        :meth:`make_graph`: batched runs then keep its neighbor lists from step to step.
        """
        return graph.to(dtype=self.dtype)

    def check_elements(self, structures: Sequence[Atoms]) -> None:
        """Refuse atoms of elements outside :attr:`elements`."""
        name = f"'{model_name(self)}'"
        for atoms in structures:
            check_numbers(atoms, self.elements, name)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the floating parameters and buffers."""
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return getattr(self, "_dtype", torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        for tensor in chain(self.parameters(), self.buffers()):
            return tensor.device
        return getattr(self, "_device", torch.device("cpu"))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As :meth:`torch.nn.Module.to`; a model without parameters remembers it too."""
        # torch's own parser of the many forms of to(); a formula without tensors (a pair potential)
        # has nowhere else to keep its precision.
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        self._dtype = dtype or getattr(self, "_dtype", torch.float32)
        self._device = device or getattr(self, "_device", torch.device("cpu"))
        return super().to(*args, **kwargs)

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of the reference implementation, under its names.

        The default expects this module's own names. Raises CheckpointError with what is missing,
        superfluous or of the wrong shape.
        """
        # All differences at once: a user who meets them one by one has to try again each time.
        own = self.state_dict()
        missing = sorted(set(own) - set(tensors))
        extra = sorted(set(tensors) - set(own))
        wrong = [
            f"{k}: {tuple(tensors[k].shape)} instead of {tuple(own[k].shape)}"
            for k in own
            if k in tensors and tensors[k].shape != own[k].shape
        ]

        if missing or extra or wrong:
            said = [
                f"{what}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
                for what, names in (("missing", missing), ("unknown", extra), ("shape", wrong))
                if names
            ]
            raise CheckpointError(
                f"These weights do not fit this {self.family or type(self).__name__}. "
                + "; ".join(said)
            )
        self.load_state_dict(dict(tensors))

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """Set the units of the network: what need not be learned. Saved with the model.

        A family whose network works in units of its own overrides this; training calls it once
        with what it found in the data.

        Parameters
        ----------
        references
            Energy of a free atom, eV by atomic number; added for every atom of a structure.
        mean
            Further energy of every structure, eV.
        energy
            What an output of 1 is worth, eV.
        forces
            What a direct force of 1 is worth, eV/Angstrom; without meaning for a gradient.

        Raises
        ------
        ConfigError
            This model has no such units.
        """
        raise ConfigError(
            f"'{self.family or type(self).__name__}' has no reference energies or scales to set."
        )

    def shift_references(self, shift: Mapping[int, float]) -> None:
        """Add to the reference energies, eV by atomic number; see :meth:`set_scales`.

        Raises
        ------
        ConfigError
            This model has none.
        """
        raise ConfigError(
            f"'{self.family or type(self).__name__}' has no reference energies to shift."
        )

    def with_elements(self, numbers: Collection[int]) -> Potential:
        """Return a model with further elements and the same weights for those it has.

        A family whose tables hold a row an element overrides this.

        Parameters
        ----------
        numbers
            Atomic numbers that :attr:`elements` lacks.

        Raises
        ------
        ConfigError
            The family cannot grow.
        """
        raise ConfigError(
            f"'{self.family or type(self).__name__}' cannot take further elements. Train a model "
            "with fresh weights on the old data and the new."
        )

    def freeze(self) -> Self:
        """Evaluation mode without parameter gradients; ``train()`` brings both back."""
        # Only what was trainable is noted: parts that a family keeps fixed stay so after train().
        names = [name for name, p in self.named_parameters() if p.requires_grad]
        self._frozen = {*getattr(self, "_frozen", ()), *names}
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch training mode; ``train()`` after :meth:`freeze` undoes the freezing."""
        frozen = getattr(self, "_frozen", None)
        if mode and frozen:
            for name, parameter in self.named_parameters():
                if name in frozen:
                    parameter.requires_grad_(True)
            self._frozen = set()
        return super().train(mode)

    @property
    def unwrapped(self) -> Potential:
        """The model itself, without error bars or other layers around it."""
        return self

    @property
    def plain_graph(self) -> bool:
        """Whether the graph is positions and edges within the cutoff, in the model's precision."""
        return self.plain_search and type(self).finish_graph is Potential.finish_graph

    @property
    def plain_search(self) -> bool:
        """Whether :meth:`make_graph` finishes pairs within the cutoff and does nothing else."""
        return type(self).make_graph is Potential.make_graph

    def traceable(self) -> Potential:
        """Return a model of the same numbers whose operations are the same for every graph.

        A family that chooses its way by sizes or values overrides this; an export traces it.
        """
        return self

    def describe(self) -> dict[str, Any]:
        """Return what a caller must know, as plain JSON-able values."""
        return {
            "family": self.family,
            "class": type(self).__name__,
            "parameters": sum(p.numel() for p in self.parameters()),
            "cutoff": self.cutoff,
            "max_neighbors": self.max_neighbors,
            "outputs": list(self.outputs),
            "elements": None if self.elements is None else sorted(self.elements),
            "conservative": self.conservative,
            "energy_kind": self.energy_kind,
            "energy_reference": self.energy_reference,
            "units": dict(self.units),
            "corrections": list(self.corrections),
            "provenance": dict(self.provenance),
        }


def model_name(model: Potential) -> str:
    """Return the name of the pretrained weights, else of family, calculator or class."""
    # Error bars and added terms have no name that a user has chosen: the model within has.
    inner = model.unwrapped
    pretrained = model.provenance.get("pretrained")
    said = str(pretrained or inner.family or getattr(inner, "name", "") or type(inner).__name__)
    start = "" if pretrained else fine_tuned_from(model.provenance)
    return f"{said} fine-tuned from {start}" if start else said
