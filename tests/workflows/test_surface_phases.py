"""Surface phase diagrams, Pourbaix lines and Wulff shapes against algebra."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.units import kB

from ase_nnp.errors import ConfigError
from ase_nnp.uncertainty.observables import Observable, Source
from ase_nnp.workflows.thermo.surface_phases import (
    SurfacePhase,
    draw_surface_phases,
    surface_energy,
    surface_phase_diagram,
    surface_pourbaix,
    wulff_shape,
)


def phases(source=None):
    one = Observable(-5.0, {source: np.array([0.3, 0.0])}) if source else -5.0
    two = Observable(-8.0, {source: np.array([0.3, 0.4])}) if source else -8.0
    return [
        SurfacePhase("clean", 0.0, {}, 20.0),
        SurfacePhase("1/4 O", one, {"O": 1}, 20.0),
        SurfacePhase("1/2 O", two, {"O": 2}, 20.0),
    ]


def test_phases_cross_where_algebra_says():
    diagram = surface_phase_diagram(phases(), "O", np.linspace(-6, -2, 101))
    points = diagram.transitions()
    # -5 - mu = 0 at -5; -8 - 2 mu = -5 - mu at -3.
    assert [(one, two) for one, two, _ in points] == [(0, 1), (1, 2)]
    np.testing.assert_allclose([p.value for *_, p in points], [-5.0, -3.0], atol=1e-10)
    k = int(np.argmin(np.abs(diagram.values + 4)))
    np.testing.assert_allclose(diagram.gamma[:, k], [0, -1 / 20, 0], atol=1e-10)


def test_a_crossings_bar_is_that_of_the_difference():
    diagram = surface_phase_diagram(phases(Source("linear")), "O", np.linspace(-6, -2, 101))
    (_, _, first), (_, _, second) = diagram.transitions()
    assert first.std == pytest.approx(0.3, abs=1e-10)
    assert second.std == pytest.approx(0.4, abs=1e-10)  # what both phases share cancels
    np.testing.assert_allclose(diagram.std[:, 0], [0, 0.3 / 20, 0.5 / 20], atol=1e-12)


def test_other_particles_have_their_chemical_potential():
    both = [phases()[0], SurfacePhase("OH", -6.0, {"O": 1, "H": 1}, 20.0)]
    diagram = surface_phase_diagram(both, "O", np.linspace(-6, -1, 51), {"H": -3.0})
    assert diagram.transitions()[0][2].value == pytest.approx(-3.0, abs=1e-10)
    with pytest.raises(ConfigError, match="chemical potential of H"):
        surface_phase_diagram(both, "O", [-6, -1])


def test_pourbaix_lines_cross_at_the_potential_of_the_reaction():
    water, hydrogen, clean = -14.2, -6.8, 0.0
    wet = water - hydrogen / 2 + 0.6  # * + H2O -> *OH + H+ + e-, 0.6 eV
    dry = water - hydrogen + 1.8  # and *O at 1.8 eV: from *OH at 1.2 V
    surface = [
        SurfacePhase("clean", clean, {}, 25.0),
        SurfacePhase("OH", wet, {"O": 1, "H": 1}, 25.0),
        SurfacePhase("O", dry, {"O": 1}, 25.0),
    ]
    grid = np.linspace(-0.5, 2, 251)
    diagram = surface_pourbaix(surface, water, hydrogen, grid)
    np.testing.assert_allclose([p.value for *_, p in diagram.transitions()], [0.6, 1.2], atol=1e-9)
    shifted = surface_pourbaix(surface, water, hydrogen, grid, ph=5.0)
    step = 5 * kB * 298.15 * np.log(10)
    moved = [p.value for *_, p in shifted.transitions()]
    np.testing.assert_allclose(moved, [0.6 - step, 1.2 - step], atol=1e-9)
    with pytest.raises(ConfigError, match="C"):
        surface_pourbaix([SurfacePhase("C", 0.0, {"C": 1}, 1.0)], water, hydrogen, grid)


def test_parallel_phases_never_cross():
    diagram = surface_phase_diagram(phases()[:2], "H", [-4, -2], {"O": -4.0})
    assert not diagram.transitions()
    with pytest.raises(ConfigError, match="never cross"):
        diagram.crossing(0, 1)


def test_what_slab_and_bulk_share_cancels_in_a_surface_energy():
    source = Source("members")
    shared = np.array([-0.01, 0.0, 0.01])  # eV an atom
    slab = Observable(-96.0, {source: 24 * shared + np.array([0.1, -0.1, 0.0])})
    atom = Observable(-4.2, {source: shared})
    result = surface_energy(slab, atom, 24, 30.0)
    assert result.value == pytest.approx((-96 + 24 * 4.2) / 60)
    assert result.std == pytest.approx(0.1 / 60)


def test_wulff_shapes_are_those_of_geometry():
    pytest.importorskip("pymatgen")
    crystal = bulk("Ni", cubic=True)
    cube = wulff_shape(crystal, {(1, 0, 0): 1.0, (1, 1, 1): 2.0})
    assert cube.area_fraction_dict[(1, 0, 0)] == pytest.approx(1.0, abs=1e-6)
    # Equal energies: the truncated octahedron's ratio of hexagons to squares is that of geometry.
    both = wulff_shape(crystal, {(1, 0, 0): 1.0, (1, 1, 1): 1.0})
    assert sum(both.area_fraction_dict.values()) == pytest.approx(1.0, abs=1e-6)
    # At distance 1: a face of the octahedron x + y + z = sqrt(3), its corners cut at x = 1.
    hexagons = 8 * np.sqrt(3) / 4 * (6 - 3 * 2 * (np.sqrt(3) - 1) ** 2)
    squares = 6 * 2 * (np.sqrt(3) - 1) ** 2
    share = hexagons / (hexagons + squares)
    assert both.area_fraction_dict[(1, 1, 1)] == pytest.approx(share, abs=1e-6)


def test_the_picture_has_bands(tmp_path):
    pytest.importorskip("matplotlib")
    diagram = surface_phase_diagram(phases(Source("linear")), "O", np.linspace(-6, -2, 101))
    draw_surface_phases(diagram, tmp_path / "phases.png")
    assert (tmp_path / "phases.png").stat().st_size > 5000
