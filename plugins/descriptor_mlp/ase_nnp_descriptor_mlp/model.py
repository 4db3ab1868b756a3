"""MODNet (De Breuck et al. 2021, doi:10.1038/s41524-021-00552-2): descriptors and a small tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from ase import Atoms
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

from .descriptors import Descriptors, descriptor_names
from .elements import MAX_Z
from .matminer_features import matminer_descriptors, matminer_names

__all__ = ["DescriptorMLP"]


class DescriptorMLP(Potential):
    """Properties of a structure from selected descriptors.

    Parameters
    ----------
    properties
        Name and unit of each property.
    descriptors
        ``"own"`` or ``"matminer"``.
    selected
        Names of the descriptors that are read; None for all.
    cutoff
        Angstrom.
    shared, separate
        Widths of the layers that all properties share, and of those each has of its own.

    Attributes
    ----------
    names
        The descriptors that are read (F,).
    center, width
        What the descriptors (F,) are shifted by and divided by; set by ``prepared``.
    mean, spread
        The same of the properties (T,).
    """

    elements = frozenset(range(1, MAX_Z + 1))
    energy_kind = "none"
    columns: Tensor
    center: Tensor
    width: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        properties: Mapping[str, str],
        descriptors: str,
        selected: Sequence[str] | None,
        cutoff: float,
        shared: Sequence[int],
        separate: Sequence[int],
    ) -> None:
        super().__init__()
        taken = {"energy", "forces", "stress", "energies"} & set(properties)
        if not properties or taken:
            raise ConfigError(
                f"Properties of a structure were expected, not {sorted(taken) or 'none'}."
            )
        if descriptors not in ("own", "matminer"):
            raise ConfigError(f"descriptors must be 'own' or 'matminer', not {descriptors!r}.")
        if not shared or min(*shared, *separate, 1) < 1 or not cutoff > 0:
            raise ConfigError("A positive cutoff, layer widths and one shared layer are needed.")

        self.by_matminer = descriptors == "matminer"
        names = matminer_names() if self.by_matminer else descriptor_names()
        chosen = list(names) if selected is None else list(selected)
        if unknown := sorted(set(chosen) - set(names)):
            raise ConfigError(
                f"Descriptors {unknown[:5]} are none of '{descriptors}'. It has: "
                f"{', '.join(names[:5])}, ... ({len(names)})."
            )
        if not chosen:
            raise ConfigError("selected is empty; give names, or null for all descriptors.")

        self.names = tuple(chosen)
        self.outputs, self.units = tuple(properties), dict(properties)
        self.cutoff = float(cutoff)
        self.descriptors = None if self.by_matminer else Descriptors(self.cutoff)
        columns = torch.tensor([names.index(name) for name in chosen])
        self.register_buffer("columns", columns, persistent=False)

        for name, count, value in (
            ("center", len(chosen), 0.0),
            ("width", len(chosen), 1.0),
            ("mean", len(properties), 0.0),
            ("spread", len(properties), 1.0),
        ):
            self.register_buffer(name, torch.full((count,), value))
        self.trunk = _layers([len(chosen), *shared])
        branches = [_layers([shared[-1], *separate]) for _ in properties]
        last = [*shared, *separate][-1]
        self.branches = nn.ModuleList(nn.Sequential(b, nn.Linear(last, 1)) for b in branches)

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """As the base class; matminer's descriptors (B, F) are in ``extra["descriptors"]``."""
        graph = super().make_graph(atoms, device)
        if not self.by_matminer:
            return graph
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        rows = torch.from_numpy(matminer_descriptors(structures)).to(graph.positions)
        return graph.replace(extra={**graph.extra, "descriptors": rows})

    def described(self, graph: AtomGraph) -> Tensor:
        """Return the selected descriptors (B, F) as they are, before shift and width."""
        if self.descriptors is not None:
            rows: Tensor = self.descriptors(graph)
        elif "descriptors" in graph.extra:
            rows = graph.extra["descriptors"]
        else:
            raise ConfigError("A graph for matminer's descriptors is made by model.make_graph.")
        return rows[:, self.columns]

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return the properties (B,) under their names."""
        x = (self.described(graph) - self.center) / self.width

        # What matminer does not know of an element is as in the mean structure.
        x = self.trunk(torch.nan_to_num(x, nan=0.0))
        values = torch.cat([branch(x) for branch in self.branches], dim=1)
        values = values * self.spread + self.mean
        return dict(zip(self.outputs, values.unbind(1), strict=True))

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`, of the property if there is one alone.

        Several properties have no unit in common: theirs are set by ``prepared``.
        """
        if any(references.values()):
            raise ConfigError("This model gives properties: it takes no reference energies.")
        if len(self.outputs) == 1:
            self.mean.fill_(mean)
            self.spread.fill_(energy)


def _layers(widths: Sequence[int]) -> nn.Sequential:
    steps = pairwise(widths)
    return nn.Sequential(*(part for a, b in steps for part in (nn.Linear(a, b), nn.ELU())))
