"""Bulk Pourbaix diagrams: formation energies, and closed forms of two decompositions."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import kB

from ase_nnp.errors import ConfigError
from ase_nnp.uncertainty.observables import Observable, Source
from ase_nnp.workflows.thermo.bulk_pourbaix import bulk_pourbaix, formation_energy

#: eV an atom, and of a formula unit: ZnO forms with -3.6 eV.
ELEMENTS = {"Zn": -1.2, "O": -5.0, "H": -3.4}
SOLIDS = {"ZnO": -9.8}
#: eV; measured, as in ase.phasediagram.
IONS = {"Zn++(aq)": -1.525, "H+(aq)": 0.0, "H2O(aq)": -2.458}


def test_a_formation_energy_knows_what_cancels():
    source = Source("linear")
    oxide = Observable(-9.8, {source: np.array([0.3, 0.1])})
    metal = Observable(-1.2, {source: np.array([0.3, 0.0])})
    formed = formation_energy("ZnO", oxide, {**ELEMENTS, "Zn": metal})
    assert float(formed) == pytest.approx(-3.6)
    assert formed.std == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="atom of O"):
        formation_energy("ZnO", -9.8, {"Zn": -1.2})


@pytest.mark.parametrize(("voltage", "acidity"), [(-0.5, 3.0), (0.2, 2.0)])
def test_an_oxide_dissolves_in_acid_where_the_formula_says(voltage, acidity):
    # ZnO + 2 H+ -> Zn++ + H2O, no electron: the voltage does not matter.
    diagram = bulk_pourbaix("ZnO", SOLIDS, ELEMENTS, ions=IONS)
    change = -1.525 - 2.458 + 3.6 + kB * 298.15 * (np.log(1e-6) + 2 * np.log(10) * acidity)
    energy, phase = diagram.get_pourbaix_energy(voltage, acidity)
    assert energy == pytest.approx(-change, abs=2e-3)
    assert energy > 0  # unstable
    assert "Zn++(aq)" in {str(getattr(s, "name", s)) for s in phase.count}


def test_an_oxide_is_reduced_where_the_formula_says():
    # ZnO + 2 H+ + 2 e- -> Zn + H2O.
    voltage, acidity = -2.0, 12.0
    diagram = bulk_pourbaix("ZnO", SOLIDS, ELEMENTS, ions=IONS)
    change = -2.458 + 3.6 + 2 * voltage + 2 * kB * 298.15 * np.log(10) * acidity
    energy, _ = diagram.get_pourbaix_energy(voltage, acidity)
    assert energy == pytest.approx(-change, abs=2e-3)


def test_ions_come_from_ases_table_by_default():
    diagram = bulk_pourbaix("ZnO", SOLIDS, ELEMENTS)
    assert "Zn++(aq)" in diagram.refs
    with pytest.raises(ConfigError, match="none of the solids"):
        bulk_pourbaix("Zn", SOLIDS, ELEMENTS)
