"""Reaction free energies at an electrode: the computational hydrogen electrode, and diagrams."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase.units import kB

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.uncertainty.observables import Observable, combine
from ase_nnp.workflows.thermo.gibbs import FreeEnergyLike, free_energy_of

__all__ = [
    "WATER_SPLITTING",
    "ReactionDiagram",
    "Step",
    "draw_reaction_diagram",
    "oxygen_from_water",
    "reaction_diagram",
]

#: Measured free energy of 2 H2O(l) -> O2 + 2 H2, eV: twice 237.1 kJ/mol, as Rossmeisl et al. 2005
#: (doi:10.1016/j.chemphys.2005.05.038) round it.
WATER_SPLITTING = 4.92


@dataclass(frozen=True)
class Step:
    """One elementary step.

    Attributes
    ----------
    equation
        As it was given.
    energy
        Reaction free energy at 0 V against the reversible hydrogen electrode and the diagram's
        temperature, eV.
    electrons
        Released; negative where they are consumed.
    """

    equation: str
    energy: Observable
    electrons: float

    def at(self, potential: float) -> Observable:
        """Return the free energy at this potential, V against the reversible electrode."""
        return self.energy - self.electrons * potential


@dataclass(frozen=True)
class ReactionDiagram:
    """Free energies along a sequence of steps.

    Attributes
    ----------
    steps
        In their order.
    potential
        V against the reversible hydrogen electrode, at which :attr:`levels` are.
    temperature
        K.
    """

    steps: list[Step]
    potential: float
    temperature: float

    @property
    def levels(self) -> list[Observable]:
        """Free energies of the states before, between and after the steps; the first is zero."""
        levels = [Observable(0.0)]
        for step in self.steps:
            levels.append(levels[-1] + step.at(self.potential))
        return levels

    @property
    def electrons(self) -> float:
        """Electrons released in all."""
        return sum(step.electrons for step in self.steps)

    @property
    def limiting_potential(self) -> Observable:
        """The potential (V, reversible electrode) at which the last electron step runs downhill.

        Of an oxidation the largest, of a reduction the smallest that any step asks for.
        """
        moving = [step for step in self.steps if step.electrons]
        signs = {math.copysign(1.0, step.electrons) for step in moving}
        if len(signs) != 1:
            raise ConfigError(
                "A limiting potential needs steps that all release electrons, or all consume them."
            )
        choose = max if signs == {1.0} else min
        wanted = [step.energy / step.electrons for step in moving]
        return combine(lambda *u: choose(u), *wanted)

    @property
    def equilibrium_potential(self) -> Observable:
        """The potential at which the whole reaction has no driving force, V."""
        if not self.electrons:
            raise ConfigError("The reaction exchanges no electrons in all.")
        total = sum((step.energy for step in self.steps), Observable(0.0))
        return total / self.electrons

    @property
    def overpotential(self) -> Observable:
        """Distance of the limiting from the equilibrium potential, V; positive or zero."""
        apart = self.limiting_potential - self.equilibrium_potential
        return apart if self.electrons > 0 else -apart

    @property
    def limiting_step(self) -> Step:
        """The step that sets the limiting potential."""
        moving = [step for step in self.steps if step.electrons]
        return max(moving, key=lambda step: step.energy.value / abs(step.electrons))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "potential": self.potential,
            "temperature": self.temperature,
            "steps": [
                {
                    "equation": step.equation,
                    "gibbs": step.energy.value,
                    "std": step.energy.std,
                    "electrons": step.electrons,
                    "unknown": list(step.energy.unknown),
                }
                for step in self.steps
            ],
            "levels": [level.value for level in self.levels],
            "levels_std": [level.std for level in self.levels],
            "levels_unknown": [list(level.unknown) for level in self.levels],
        }


def oxygen_from_water(water: FreeEnergyLike, hydrogen: FreeEnergyLike) -> Observable:
    """Return the free energy of O2 from those of water and hydrogen and the measured reaction.

    Density functionals, and models of them, err by tenths of an electron volt for O2 itself.
    """
    return 2 * free_energy_of(water) - 2 * free_energy_of(hydrogen) + WATER_SPLITTING


def reaction_diagram(
    steps: Sequence[str],
    states: Mapping[str, FreeEnergyLike],
    *,
    temperature: float = 298.15,
    potential: float = 0.0,
    ph: float = 0.0,
    scale: str = "RHE",
) -> ReactionDiagram:
    """Return free energies of steps with proton-electron pairs, by Norskov's electrode.

    A pair H+ + e- has the free energy of half a hydrogen molecule less eU, U against the
    reversible hydrogen electrode (Norskov et al. 2004, doi:10.1021/jp047349j).

    Parameters
    ----------
    steps
        Equations such as ``"* + H2O -> *OH + H+ + e-"``; numbers before names count molecules.
    states
        Free energies by the names in the equations: observables, results of
        :func:`~ase_nnp.workflows.thermo.gibbs`, or numbers, eV. ``H2`` is always needed.
    temperature
        K.
    potential
        V, on ``scale``.
    ph
        Acidity; on the scale of the standard electrode it shifts the potential by kT ln 10 / e.
    scale
        ``"RHE"`` or ``"SHE"``.

    Raises
    ------
    ConfigError
        A scale or state that does not exist, or an equation that cannot be read.
    StructureError
        An equation that does not keep atoms, sites or charge.
    """
    if scale not in ("RHE", "SHE") or not temperature > 0:
        raise ConfigError(f"scale = {scale!r}, temperature = {temperature}: RHE or SHE, and K.")
    reversible = potential
    if scale == "SHE":
        reversible += kB * temperature * math.log(10) * ph
    made = [_step(equation, states) for equation in steps]
    if not made:
        raise ConfigError("A diagram needs steps.")
    return ReactionDiagram(made, reversible, temperature)


def _step(equation: str, states: Mapping[str, FreeEnergyLike]) -> Step:
    sides = re.split(r"\s*(?:->|→)\s*", equation.strip())
    if len(sides) != 2 or not all(sides):
        raise ConfigError(f"'{equation}' is no equation such as '* + H2O -> *OH + H+ + e-'.")
    change: dict[str, float] = {}
    for sign, side in zip((-1, 1), sides, strict=True):
        for amount, name in _terms(side, equation):
            change[name] = change.get(name, 0.0) + sign * amount
    change = {name: amount for name, amount in change.items() if amount}
    _check_balance(equation, change)

    pairs = change.pop("H+", 0.0)
    change.pop("e-", 0.0)
    if pairs:
        change["H2"] = change.get("H2", 0.0) + pairs / 2
    missing = sorted(set(change) - set(states))
    if missing:
        raise ConfigError(
            f"'{equation}' needs {', '.join(missing)}; there are {', '.join(states)}."
        )
    total = sum(
        (amount * free_energy_of(states[name]) for name, amount in change.items()), Observable(0.0)
    )
    return Step(equation, total, pairs)


def _terms(side: str, equation: str) -> list[tuple[float, str]]:
    """Return amounts and names of one side of an equation."""
    # Brackets around a proton and its electron are for the reader.
    words = re.split(r"\s+\+\s+", side.replace("(H+ + e-)", "H+ + e-").strip())
    terms = []
    for word in words:
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)\s*)?(\S+)", word)
        if match is None:
            raise ConfigError(f"'{word}' in '{equation}' is no amount and name.")
        terms.append((float(match[1] or 1), match[2]))
    return terms


def _check_balance(equation: str, change: Mapping[str, float]) -> None:
    """Refuse an equation that makes or loses atoms, sites or charge."""
    from ase.formula import Formula

    totals: dict[str, float] = {}
    for name, amount in change.items():
        if name in ("H+", "e-"):
            charge = 1 if name == "H+" else -1
            counts = {"charge": charge, **({"H": 1} if name == "H+" else {})}
        else:
            bare = re.sub(r"\((?:g|l|aq|s)\)$", "", name)
            sites = bare.count("*")
            try:
                counts = {**Formula(bare.replace("*", "") or "").count(), "sites (*)": sites}
            except ValueError as error:
                raise ConfigError(f"'{name}' in '{equation}' is no formula.") from error
        for kind, count in counts.items():
            totals[kind] = totals.get(kind, 0.0) + amount * count
    wrong = {kind: value for kind, value in totals.items() if abs(value) > 1e-9}
    if wrong:
        said = ", ".join(f"{value:+g} {kind}" for kind, value in sorted(wrong.items()))
        raise StructureError(f"'{equation}' is not balanced: {said} from left to right.")


def draw_reaction_diagram(
    diagram: ReactionDiagram,
    path: str | os.PathLike[str],
    *,
    potentials: Sequence[float] = (),
    labels: Sequence[str] | None = None,
    coverage: float = 0.9,
) -> None:
    """Draw the levels with bands of their intervals; crosses mark what the model does not know.

    Parameters
    ----------
    diagram
        What to draw.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    potentials
        V against the reversible electrode, a line each; by default the diagram's own.
    labels
        Of the levels, one more than steps; by default what the equations have on their right.
    coverage
        Of the bands.
    """
    from matplotlib.figure import Figure

    from ase_nnp.workflows.picture import save_figure

    names = list(labels) if labels is not None else _level_names(diagram)
    figure = Figure(figsize=(1.6 + 1.3 * len(names), 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, potential in enumerate(potentials or (diagram.potential,)):
        color = f"C{number}"
        levels = ReactionDiagram(diagram.steps, potential, diagram.temperature).levels
        values = [level.value for level in levels]
        strange = [k for k, level in enumerate(levels) if level.unknown]
        for k, level in enumerate(levels):
            ends = [k - 0.3, k + 0.3]
            shown = f"U = {potential:g} V" if k == 0 else None
            axes.plot(ends, [level.value] * 2, color=color, linewidth=2.5, label=shown)
            band = level.interval(coverage) if k else None
            if band is not None and band[1] > band[0]:
                axes.fill_between(ends, *band, color=color, alpha=0.25, linewidth=0)
            if k:
                inner = [k - 0.7, k - 0.3]
                axes.plot(inner, values[k - 1 : k + 1], color=color, linewidth=0.8, linestyle=":")
        if strange:
            shown = "unknown to the model" if number == 0 else None
            at = [values[k] for k in strange]
            axes.plot(strange, at, "x", color="tab:red", zorder=3, label=shown)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="free energy (eV)", xlim=(-0.5, len(names) - 0.5))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)


def _level_names(diagram: ReactionDiagram) -> list[str]:
    """Return the surface before the first step, and what each step leaves but for H+ and e-."""
    sides = [re.split(r"\s*(?:->|→)\s*", step.equation) for step in diagram.steps]
    words = [re.split(r"\s+\+\s+", text) for text in (sides[0][0], *(side[1] for side in sides))]
    first = [word for word in words[0] if "*" in word] or words[0]
    others = [[w for w in row if not re.search(r"\bH\+|e-", w)] for row in words[1:]]
    return [" + ".join(row) for row in (first, *others)]
