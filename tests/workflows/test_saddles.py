"""Saddle points, their modes, and rates against Vineyard's formula."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.units import _e, _hplanck, invcm, kB
from path_worker import hop

import ase_nnp
from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.uncertainty.observables import Observable, Source
from ase_nnp.workflows.paths import check_saddle, reaction_paths, saddle, transition_rate
from ase_nnp.workflows.paths.follow import bofill_update
from ase_nnp.workflows.vibrations import vibrations

EMT_MODEL = ase_nnp.from_ase(EMT)


@pytest.fixture(scope="module")
def path():
    return reaction_paths([hop("Al", "Au")], EMT_MODEL, images=3, fmax=0.02)[0]


@pytest.mark.slow
def test_a_saddle_has_one_imaginary_mode_and_leads_down_to_both_minima(path):
    check = check_saddle(path.saddle, EMT_MODEL, (path.images[0], path.images[-1]))
    assert check.passed, check.problems
    assert len(check.imaginary) == 1
    assert min(check.distances[0]) < 0.1


@pytest.mark.slow
def test_a_soft_saddle_whose_force_is_not_quite_zero_still_leads_down_to_both_minima():
    # What force is left here pulls back over the top after a push of 0.1 Angstrom.
    (path,) = reaction_paths([hop("Ag", "Cu")], EMT_MODEL, images=3)
    check = check_saddle(path.saddle, EMT_MODEL, (path.images[0], path.images[-1]))
    assert check.passed, check.problems
    assert check.imaginary[0] < 50


@pytest.mark.slow
def test_a_minimum_and_a_wrong_pair_of_ends_do_not_pass(path):
    at_rest = check_saddle(path.images[0], EMT_MODEL, (path.images[0], path.images[-1]))
    assert "0 imaginary modes" in at_rest.problems[0]
    other = path.images[-1].copy()
    other.positions[-1, 1] += other.cell[1, 1] / 2
    wrong = check_saddle(path.saddle, EMT_MODEL, (path.images[0], other))
    assert any("second minimum" in problem for problem in wrong.problems)


def test_a_saddle_is_found_from_a_guess_with_and_without_a_mode(path):
    guess = path.saddle.copy()
    guess.positions[-1] += [0.25, 0.05, 0.05]
    tangent = path.images[-1].positions - path.images[0].positions
    for mode in (tangent, None):
        result = saddle(guess, EMT_MODEL, mode=mode, fmax=0.01)
        assert result.converged
        assert result.atoms.get_potential_energy() == pytest.approx(
            path.saddle.get_potential_energy(), abs=2e-3
        )
    with pytest.raises(ConfigError, match="mode has shape"):
        saddle(guess, EMT_MODEL, mode=np.ones((2, 3)))


def test_the_updated_hessian_maps_the_step_and_is_exact_for_quadratic_surfaces():
    generator = np.random.default_rng(2)
    true = generator.standard_normal((6, 6))
    true = true + true.T  # indefinite
    guess = 70 * np.eye(6)
    for _ in range(60):
        step = generator.standard_normal(6)
        guess = bofill_update(guess, step, true @ step)
        np.testing.assert_allclose(guess @ step, true @ step, atol=1e-8)
    np.testing.assert_allclose(guess, true, atol=1e-2)


def test_the_classical_rate_is_vineyards_product_of_frequencies():
    bottom, top = np.array([100.0, 200.0, 300.0]), np.array([150j, 250.0, 180.0])
    temperature, barrier = 600.0, 0.7
    rate = transition_rate(barrier, bottom * invcm, top * invcm, temperature, quantum=False)
    hertz = invcm * _e / _hplanck
    prefactor = bottom.prod() / (250.0 * 180.0) * hertz
    assert rate.prefactor == pytest.approx(prefactor, rel=1e-10)
    wanted = prefactor * np.exp(-barrier / (kB * temperature))
    assert rate.value == pytest.approx(wanted, rel=1e-10)


def test_quantum_rates_have_zero_point_energies_and_the_classical_limit():
    bottom, top = np.array([1000.0, 900.0]) * invcm, np.array([800j, 700.0]) * invcm
    cold = transition_rate(0.5, bottom, top, 150.0)
    zero_point = (700 - 1900) * invcm / 2
    wanted = kB * 150 * _e / _hplanck * np.exp(-(0.5 + zero_point) / (kB * 150))
    assert cold.value == pytest.approx(wanted, rel=2e-3)
    hot = [transition_rate(0.5, bottom, top, 2e4, quantum=q).value for q in (True, False)]
    assert hot[0] == pytest.approx(hot[1], rel=1e-3)
    x = 800 * invcm / (kB * 400)
    pair = [transition_rate(0.5, bottom, top, 400.0, tunneling=t) for t in (True, False)]
    assert pair[0].value / pair[1].value == pytest.approx(1 + x**2 / 24, rel=1e-10)


def test_the_rates_interval_is_that_of_its_barrier():
    barrier = Observable(0.6, {Source("linear"): np.array([0.03, 0.04])})
    modes = np.array([100.0, 200.0]) * invcm, np.array([90j, 150.0]) * invcm
    rate = transition_rate(barrier, *modes, 300.0)
    assert rate.log10.std == pytest.approx(0.05 / (kB * 300 * np.log(10)), rel=1e-9)
    low, high = rate.interval()
    edges = [transition_rate(e, *modes, 300.0).value for e in barrier.interval()[::-1]]
    np.testing.assert_allclose([low, high], edges, rtol=1e-9)


def test_modes_that_do_not_belong_together_are_refused():
    with pytest.raises(StructureError, match="one less"):
        transition_rate(0.5, np.array([0.1, 0.1, 0.1]), np.array([0.1j, 0.1]))
    with pytest.raises(StructureError, match="saddle point has an imaginary"):
        transition_rate(0.5, np.array([0.1, 0.1]), np.array([0.1, 0.1]))
    with pytest.raises(ConfigError, match="finite"):
        transition_rate(0.5, np.array([0.1, 0.1]), np.array([0.1j, 0.1]), np.inf)
    for barrier in (-0.1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="barrier"):
            transition_rate(barrier, np.array([0.1, 0.1]), np.array([0.1j, 0.1]))


def test_at_a_few_kelvin_a_rate_is_its_barrier_with_zero_point_energies():
    # Zero-point energies of 0.3 and 0.05 eV: what is left of 0.5 eV is 0.25.
    rate = transition_rate(0.5, np.array([0.5, 0.1]), np.array([0.05j, 0.1]), 2.0)
    heat = kB * 2.0
    wanted = np.log10(heat * _e / _hplanck) - 0.25 / (heat * np.log(10))
    assert rate.log10.value == pytest.approx(wanted, rel=1e-9)
    assert (rate.value, rate.prefactor) == (0.0, np.inf)
    assert transition_rate(0.0, np.array([0.5, 0.1]), np.array([0.05j, 0.1]), 2.0).value == np.inf


def test_from_a_band_to_a_rate(path):
    free = [len(path.saddle) - 1]
    modes = [
        vibrations(atoms, EMT_MODEL, free=free).get_internal_energies()
        for atoms in (path.images[0], path.saddle)
    ]
    rate = transition_rate(path.barrier, *modes, 300.0)
    assert 1e11 < rate.prefactor < 1e14
    assert rate.log10.std is None  # EMT has no error bar
    assert rate.interval() is None
