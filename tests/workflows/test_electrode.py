"""Diagrams against the algebra of the computational hydrogen electrode."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import kB

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.uncertainty.observables import Observable, Source
from ase_nnp.workflows.thermo.electrode import (
    WATER_SPLITTING,
    draw_reaction_diagram,
    oxygen_from_water,
    reaction_diagram,
)

OER = [
    "* + H2O -> *OH + H+ + e-",
    "*OH -> *O + H+ + e-",
    "*O + H2O -> *OOH + H+ + e-",
    "*OOH -> * + O2 + H+ + e-",
]


def states(oh, o, ooh, source=None):
    """Free energies for given energies of the intermediates relative to water and hydrogen."""
    water, hydrogen, clean = -14.2, -6.8, -100.0
    return {
        "*": clean,
        "H2O": water,
        "H2": hydrogen,
        "*OH": clean + water - hydrogen / 2 + oh,
        "*O": clean + water - hydrogen + o,
        "*OOH": clean + 2 * water - 1.5 * hydrogen + ooh,
        "O2": oxygen_from_water(water, hydrogen),
    }


def test_four_steps_of_oxygen_evolution_add_up_to_the_measured_energy():
    diagram = reaction_diagram(OER, states(0.9, 2.2, 4.1))
    energies = [step.energy.value for step in diagram.steps]
    np.testing.assert_allclose(energies, [0.9, 1.3, 1.9, 0.82], atol=1e-10)
    assert sum(energies) == pytest.approx(WATER_SPLITTING, abs=1e-10)
    assert diagram.electrons == 4
    assert diagram.equilibrium_potential.value == pytest.approx(1.23, abs=1e-10)
    assert diagram.limiting_potential.value == pytest.approx(1.9, abs=1e-10)
    assert diagram.overpotential.value == pytest.approx(0.67, abs=1e-10)
    assert diagram.limiting_step.equation == OER[2]


def test_an_ideal_catalyst_needs_no_overpotential():
    diagram = reaction_diagram(OER, states(1.23, 2.46, 3.69), potential=1.23)
    assert diagram.limiting_potential.value == pytest.approx(1.23, abs=1e-10)
    assert diagram.overpotential.value == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose([level.value for level in diagram.levels], 0, atol=1e-10)


def test_reductions_run_the_other_way():
    back = [" -> ".join(reversed(step.split(" -> "))) for step in reversed(OER)]
    diagram = reaction_diagram(back, states(0.9, 2.2, 4.1))
    assert diagram.electrons == -4
    assert diagram.equilibrium_potential.value == pytest.approx(1.23, abs=1e-10)
    # *OOH -> * + O2 read backward is the hardest: 0.82 V, 0.41 below 1.23.
    assert diagram.limiting_potential.value == pytest.approx(0.82, abs=1e-10)
    assert diagram.overpotential.value == pytest.approx(0.41, abs=1e-10)


def test_acidity_shifts_the_scale_of_the_standard_electrode_only():
    free = states(0.9, 2.2, 4.1)
    acid = reaction_diagram(OER, free, potential=1.0, ph=7.0, scale="SHE")
    assert acid.potential == pytest.approx(1.0 + 7 * kB * 298.15 * np.log(10), abs=1e-12)
    assert acid.potential == pytest.approx(1.414, abs=1e-3)  # 59.2 mV a unit
    assert reaction_diagram(OER, free, potential=1.0, ph=7.0).potential == 1.0


def test_limiting_potentials_carry_the_members_spread():
    source, generator = Source("members"), np.random.default_rng(4)
    table = np.array([0.9, 2.2, 4.1]) + 0.1 * generator.standard_normal((6, 3))
    plain = states(*table.mean(axis=0))
    for k, name in enumerate(("*OH", "*O", "*OOH")):
        plain[name] = Observable(plain[name], {source: table[:, k] - table[:, k].mean()})
    diagram = reaction_diagram(OER, plain)
    steps = np.diff(np.column_stack([np.zeros(6), table, np.full(6, 4.92)]), axis=1)
    limits = steps.max(axis=1)
    np.testing.assert_allclose(diagram.limiting_potential.members, limits, atol=1e-10)
    assert diagram.overpotential.std == pytest.approx(limits.std(ddof=1), abs=1e-10)
    # The last level is the sum of all steps: what the intermediates doubt has cancelled.
    assert diagram.levels[-1].std == pytest.approx(0, abs=1e-12)


def test_amounts_and_brackets_are_read():
    free = {"H2": -6.8, "H2O": -14.2, "O2": -10.0}
    diagram = reaction_diagram(["2 H2O -> O2 + 4 H+ + 4 e-"], free)
    assert diagram.electrons == 4
    assert diagram.steps[0].energy.value == pytest.approx(-10.0 - 2 * 6.8 + 2 * 14.2)
    pair = reaction_diagram(["* + (H+ + e-) -> *H"], {"*": 0.0, "*H": -3.0, "H2": -6.8})
    assert pair.steps[0].energy.value == pytest.approx(0.4)
    assert pair.electrons == -1


@pytest.mark.parametrize(
    ("step", "error", "said"),
    [
        ("* + H2O -> *OH + H+", StructureError, "charge"),
        ("* + H2O -> *O + H+ + e-", StructureError, "H"),
        ("H2O -> *OH + H+ + e-", StructureError, "sites"),
        ("* + H2O", ConfigError, "equation"),
        ("* + Xx2 -> *Xx2", ConfigError, "formula|needs"),
        ("* + CO -> *CO", ConfigError, "needs"),
    ],
)
def test_equations_that_make_or_lose_something_are_refused(step, error, said):
    with pytest.raises(error, match=said):
        reaction_diagram([step], states(1, 2, 4))


def test_the_diagram_is_drawn_with_bands(tmp_path):
    pytest.importorskip("matplotlib")
    free = states(0.9, 2.2, 4.1)
    source = Source("linear")
    for k, name in enumerate(("*OH", "*O", "*OOH")):
        free[name] = Observable(free[name], {source: 0.1 * np.eye(3)[k]})
    picture = tmp_path / "oer.png"
    draw_reaction_diagram(reaction_diagram(OER, free), picture, potentials=(0.0, 1.23))
    assert picture.stat().st_size > 5000
