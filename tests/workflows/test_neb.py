"""Paths against ASE's own nudged elastic band."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.neb import draw_neb, minimum_energy_path


def ends():
    """Gold on aluminum (100), from a hollow to the next."""
    slab = fcc100("Al", (2, 2, 3))
    add_adsorbate(slab, "Au", 1.7, "hollow")
    slab.center(axis=2, vacuum=4.0)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in slab]))
    final = slab.copy()
    final[-1].x += final.cell[0, 0] / 2
    return slab, final


@pytest.fixture(scope="module")
def hop():
    return minimum_energy_path(*ends(), EMT(), images=3, fmax=0.03)


@pytest.mark.slow
def test_the_barrier_is_that_of_ases_own_band(hop):
    band = [ends()[0], *(ends()[0] for _ in range(3)), ends()[1]]
    for image in band:
        image.calc = EMT()
    for end in (band[0], band[-1]):
        BFGS(end, logfile=None).run(fmax=0.03)
    chain = NEB(band, climb=True, method="improvedtangent")
    chain.interpolate()
    assert FIRE(chain, logfile=None).run(fmax=0.03, steps=400)
    energies = [image.get_potential_energy() for image in band]
    assert hop.converged
    assert hop.barrier == pytest.approx(max(energies) - energies[0], abs=0.003)
    assert hop.reverse_barrier == pytest.approx(hop.barrier, abs=0.003)  # by symmetry
    assert hop.reaction_energy == pytest.approx(0, abs=0.003)


def test_the_top_is_a_saddle_point(hop):
    top = hop.images[int(np.argmax(hop.energies))].copy()
    top.calc = EMT()
    assert np.linalg.norm(top.get_forces(), axis=1).max() < 0.05
    # on the bridge, halfway, by symmetry
    first, last = hop.images[0].positions[-1], hop.images[-1].positions[-1]
    assert top.positions[-1, 0] == pytest.approx((first[0] + last[0]) / 2, abs=0.02)


def test_images_carry_energies_and_the_input_is_left_alone(hop):
    initial, final = ends()
    before = initial.positions.copy(), final.positions.copy()
    result = minimum_energy_path(initial, final, EMT(), images=1, steps=40, fmax=0.1)
    np.testing.assert_array_equal(initial.positions, before[0])
    np.testing.assert_array_equal(final.positions, before[1])
    assert [image.get_potential_energy() for image in result.images] == list(result.energies)
    assert (np.diff(hop.distances) > 0).all()


def test_a_path_across_the_cells_edge_is_the_short_one():
    initial, final = ends()
    final.positions[-1, 0] += final.cell[0, 0]  # the same place, one cell on
    result = minimum_energy_path(initial, final, EMT(), images=1, steps=60, fmax=0.1)
    assert result.distances[-1] < 4


def test_a_band_that_is_cut_short_says_so():
    result = minimum_energy_path(*ends(), EMT(), images=3, steps=20, fmax=0.005, relax_ends=False)
    assert not result.converged
    assert result.steps <= 20


@pytest.mark.parametrize(
    ("other", "settings", "error", "said"),
    [
        (lambda a: a[:-1], {}, StructureError, "different atoms"),
        (lambda a: a[::-1], {}, StructureError, "another order"),
        (lambda a: a, {"images": 0}, ConfigError, "at least 1"),
        (lambda a: a, {"method": "magic"}, ConfigError, "improvedtangent"),
    ],
)
def test_ends_that_do_not_belong_together_are_refused(other, settings, error, said):
    initial, final = ends()
    with pytest.raises(error, match=said):
        minimum_energy_path(initial, other(final), EMT(), **settings)


def test_different_cells_are_refused():
    a, b = Atoms("H", cell=[5, 5, 5], pbc=True), Atoms("H", cell=[5, 5, 6], pbc=True)
    with pytest.raises(StructureError, match="different cells"):
        minimum_energy_path(a, b, EMT())


def test_the_picture_is_drawn(hop, tmp_path):
    pytest.importorskip("matplotlib")
    draw_neb(hop, tmp_path / "neb.png", energy_std=np.full(len(hop.energies), 0.01))
    assert (tmp_path / "neb.png").stat().st_size > 5000
