"""Finding a model's last linear layer, and its features for each atom and structure.

A model may name its layer with an attribute ``last_layer`` (``"head.out"``, or a parameter such
as ``"head.kernel"``). Otherwise every linear layer with one output is tried, the last one called
first, then every parameter that is one row or column. A candidate is taken only if the energy is
shown to be linear in its weights with exactly the features it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

__all__ = ["LastLayer", "ParameterLayer", "energy_of", "find_last_layer", "layer_from"]


@dataclass(frozen=True)
class LastLayer:
    """A linear read-out: ``E = scale * sum_i w . x_i + rest``.

    Attributes
    ----------
    name
        Of the submodule.
    rows
        ``"atom"`` (one or several rows per atom) or ``"structure"``.
    scale
        Of the energy against the layer's output (normalization, mean over rows).
    mean
        Structure features are means over its atoms, not sums.
    """

    name: str
    rows: str
    scale: float
    mean: bool = False

    @contextmanager
    def watch(self, model: Potential) -> Iterator[list[Tensor]]:
        """Collect the layer's inputs of the forward calls inside the block."""
        caught: list[Tensor] = []
        layer: nn.Module = attrgetter(self.name)(model)

        def keep(module: object, args: tuple[object, ...]) -> None:
            if args and isinstance(args[0], Tensor):  # a whole network may take only keywords
                caught.append(args[0])

        handle = layer.register_forward_pre_hook(keep)
        try:
            yield caught
        finally:
            handle.remove()

    def weight(self, model: Potential) -> Tensor:
        """The layer's weights."""
        weight = model.get_submodule(self.name).weight
        assert isinstance(weight, Tensor)
        return weight

    def read(
        self, caught: list[Tensor], graph: AtomGraph, energy: Tensor, *, differentiable: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Features of atoms, if there are any, and of structures, after a watched call."""
        atoms, total = self.split(caught[-1], graph)
        if differentiable:
            return atoms, total
        return None if atoms is None else atoms.detach(), total.detach()

    def state(self) -> list[Any]:
        """Plain values that make this again (:func:`layer_from`)."""
        return [self.name, self.rows, self.scale, self.mean]

    def split(self, x: Tensor, graph: AtomGraph) -> tuple[Tensor | None, Tensor]:
        """Per-atom (N, d), if there are any, and per-structure (B, d) features of an input."""
        flat = x.reshape(-1, x.shape[-1])
        flat = flat if self.scale == 1.0 else flat * self.scale
        if self.rows == "structure":
            return None, flat
        atoms = flat
        if len(flat) != graph.num_atoms:
            atoms = flat.reshape(graph.num_atoms, -1, flat.shape[1]).sum(dim=1)
        if self.mean:
            atoms = atoms / graph.atoms_per_structure()[graph.batch][:, None].to(atoms)
        total = atoms.new_zeros((graph.num_structures, atoms.shape[1]))
        return atoms, total.index_add(0, graph.batch, atoms)


@dataclass(frozen=True)
class ParameterLayer:
    """A parameter w that the energy is linear in; features are ``dE_b / dw``.

    For models whose last layer is no module of its own. There are no features of atoms.
    """

    name: str

    @contextmanager
    def watch(self, model: Potential) -> Iterator[list[Tensor]]:
        """Let energies computed inside the block be differentiated in the parameter."""
        weight = self.weight(model)
        before = weight.requires_grad
        weight.requires_grad_(True)
        try:
            yield [weight]
        finally:
            weight.requires_grad_(before)

    def weight(self, model: Potential) -> Tensor:
        """The parameter."""
        return model.get_parameter(self.name)

    def read(
        self, caught: list[Tensor], graph: AtomGraph, energy: Tensor, *, differentiable: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Features of structures (B, d)."""
        weight = caught[0]
        # A structure's features come from its own energy alone.
        rows = [
            torch.autograd.grad(e, weight, retain_graph=True, create_graph=differentiable)[0]
            for e in energy
        ]
        return None, torch.stack([row.reshape(-1) for row in rows])

    @property
    def rows(self) -> str:
        """Always ``"structure"``."""
        return "structure"

    def state(self) -> list[Any]:
        """Plain values that make this again."""
        return [self.name]


@dataclass(frozen=True)
class SpeciesLayer(LastLayer):
    """A parameter applied to the rows of atoms that a module takes, scaled by element.

    Attributes
    ----------
    parameter
        Name of the weights.
    scales
        Atomic number and scale of each element that was seen.
    """

    parameter: str = ""
    scales: tuple[tuple[int, float], ...] = ()

    def weight(self, model: Potential) -> Tensor:
        """The parameter."""
        return model.get_parameter(self.parameter)

    def split(self, x: Tensor, graph: AtomGraph) -> tuple[Tensor | None, Tensor]:
        """Features of atoms and structures."""
        table = x.new_full((119,), sum(c for _, c in self.scales) / len(self.scales))
        for z, scale in self.scales:
            table[z] = scale
        return super().split(x * table[graph.atomic_numbers][:, None], graph)

    def state(self) -> list[Any]:
        """Plain values that make this again."""
        return [*super().state(), self.parameter, [list(pair) for pair in self.scales]]


def layer_from(state: list[Any]) -> LastLayer | ParameterLayer:
    """Read what ``state()`` of a layer gave."""
    if len(state) == 6:
        name, rows, scale, mean, parameter, pairs = state
        scales = tuple((int(z), float(c)) for z, c in pairs)
        return SpeciesLayer(name, rows, scale, mean, parameter, scales)
    return ParameterLayer(*state) if len(state) == 1 else LastLayer(*state)


def energy_of(model: Potential, graph: AtomGraph) -> Tensor:
    """Energies (B,) with their computation graph, as cheaply as the model allows.

    Raises
    ------
    UncertaintyError
        The model gives a property and no energy.
    """
    if "energy" not in model.outputs:
        raise UncertaintyError(
            f"{model.family or type(model).__name__} gives {', '.join(model.outputs)} and no "
            "energy, of whose features these error bars are made. Use the method 'latent', or an "
            "ensemble."
        )
    if hasattr(model, "energies"):
        result: Any = model.energies(graph)  # type: ignore[operator]
        return result["energy"] if isinstance(result, dict) else result  # type: ignore[no-any-return]
    return model(graph)["energy"]  # type: ignore[no-any-return]


def find_last_layer(model: Potential, graph: AtomGraph) -> LastLayer | ParameterLayer:
    """Find and verify the last linear layer on a batch of structures of different sizes.

    Raises
    ------
    UncertaintyError
        No layer passes; says what to use instead.
    """
    order: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == 1:
            handles.append(
                module.register_forward_pre_hook(lambda m, args, name=name: order.append(name))
            )
    try:
        with torch.no_grad():
            energy_of(model, graph)
    finally:
        for handle in handles:
            handle.remove()

    # Called last is nearest to the energy; a layer called twice has no single input.
    named = getattr(model, "last_layer", None)
    parameters = dict(model.named_parameters())
    modules = [n for n in reversed(order) if order.count(n) == 1 and named in (None, n)]
    for name in modules:
        layer = _verify(model, graph, name)
        if layer is not None:
            return layer

    # One row or column of four numbers or more: biases and single factors are no read-outs.
    slim = [n for n, p in parameters.items() if p.ndim in (1, 2) and 4 <= p.numel() == max(p.shape)]
    for name in [named] if named in parameters else reversed(slim):
        if _verify_parameter(model, graph, name):
            return _rows_of(model, graph, name) or ParameterLayer(name)
    raise UncertaintyError(
        f"{model.family or type(model).__name__} has no linear last layer that its energy is "
        "linear in (the attribute last_layer may name one). Use the method 'latent', which works "
        "for every model, or an ensemble."
    )


def _verify(model: Potential, graph: AtomGraph, name: str) -> LastLayer | None:
    """Check ``dE_b/dw = scale * features_b`` and linearity, in float as the model is."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    state = weight.requires_grad
    weight.requires_grad_(True)
    try:
        with LastLayer(name, "atom", 1.0).watch(model) as caught, torch.enable_grad():
            energy = energy_of(model, graph)
        if len(caught) != 1 or not energy.requires_grad:
            return None
        slopes = torch.stack(
            [torch.autograd.grad(e, weight, retain_graph=True)[0].reshape(-1) for e in energy]
        )
    except RuntimeError:
        return None
    finally:
        weight.requires_grad_(state)

    # Several rows an atom (a basis, directions) are added up before the energy sees them.
    x = caught[0].detach().reshape(-1, weight.shape[1])
    options = []
    if x.shape[0] == graph.num_structures:
        options.append(LastLayer(name, "structure", 1.0))
    if x.shape[0] % graph.num_atoms == 0:
        options += [LastLayer(name, "atom", 1.0), LastLayer(name, "atom", 1.0, mean=True)]

    tolerance = 1e-3 if x.dtype == torch.float32 else 1e-8
    for option in options:
        features = option.split(x, graph)[1]
        scale = float((slopes * features).sum() / (features**2).sum())
        if (slopes - scale * features).norm() <= tolerance * slopes.norm() and scale != 0:
            layer = LastLayer(name, option.rows, scale, option.mean)
            return layer if _is_linear(model, graph, weight, slopes, tolerance) else None
    return None


def _verify_parameter(model: Potential, graph: AtomGraph, name: str) -> bool:
    """Check that the energy is linear in a parameter, with features that depend on positions."""
    layer = ParameterLayer(name)
    tolerance = 1e-3 if graph.positions.dtype == torch.float32 else 1e-8
    # Moved by a formula, not at random: the same model must always give the same layer.
    wiggle = 0.02 * torch.sin(torch.arange(3 * graph.num_atoms).reshape(-1, 3).to(graph.positions))

    slopes = []
    try:
        for moved in (graph, graph.replace(positions=graph.positions + wiggle)):
            with layer.watch(model) as caught, torch.enable_grad():
                energy = energy_of(model, moved)
                slopes.append(layer.read(caught, moved, energy, differentiable=False)[1])
    except RuntimeError:  # the energy does not depend on it
        return False

    change = float((slopes[1] - slopes[0]).norm())
    if change <= 1e-5 * float(slopes[0].norm()):
        return False  # counts of elements, not features
    return _is_linear(model, graph, layer.weight(model), slopes[0], tolerance)


def _rows_of(model: Potential, graph: AtomGraph, name: str) -> SpeciesLayer | None:
    """Find the module whose input rows, scaled by element, are the features of a parameter."""
    with ParameterLayer(name).watch(model) as caught, torch.enable_grad():
        energy = energy_of(model, graph)
        want = ParameterLayer(name).read(caught, graph, energy, differentiable=False)[1]
    tolerance = 1e-3 if want.dtype == torch.float32 else 1e-8
    elements = torch.unique(graph.atomic_numbers)

    # The module that holds the parameter, or one further out, is called with the rows.
    owner = name
    while "." in owner:
        owner = owner.rpartition(".")[0]
        plain = LastLayer(owner, "atom", 1.0)
        with plain.watch(model) as rows, torch.no_grad():
            energy_of(model, graph)
        if len(rows) != 1 or rows[0].shape != (graph.num_atoms, want.shape[1]):
            continue
        parts = [
            plain.split(rows[0] * (graph.atomic_numbers == z)[:, None].to(rows[0]), graph)[1]
            for z in elements
        ]
        table = torch.stack([p.reshape(-1) for p in parts], dim=1).double()
        # A normalization by element stands between rows and energy in some families.
        scales = torch.linalg.lstsq(table, want.double().reshape(-1)).solution
        missed = table @ scales - want.double().reshape(-1)
        if float(missed.norm()) <= tolerance * float(want.norm()):
            pairs = zip(elements.tolist(), scales.tolist(), strict=True)
            return SpeciesLayer(owner, "atom", 1.0, False, name, tuple(pairs))
    return None


def _is_linear(
    model: Potential, graph: AtomGraph, weight: Tensor, slopes: Tensor, tolerance: float
) -> bool:
    with torch.no_grad():
        before = energy_of(model, graph)
        kept = weight.detach().clone()
        step = torch.linspace(-1, 1, weight.numel()).to(weight).reshape(weight.shape)
        step = step * (1 + kept.abs().max())
        try:
            weight.add_(step)
            change = energy_of(model, graph) - before
        finally:
            weight.copy_(kept)

    want = slopes @ step.reshape(-1)
    # Energies of free atoms may be thousands of eV: of them only the rounding is excused.
    rounding = torch.finfo(graph.positions.dtype).eps * before.abs().max()
    slack = 10 * tolerance * want.abs().max() + 4 * rounding
    return bool((change - want).abs().max() <= slack)
