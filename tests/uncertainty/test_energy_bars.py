"""Energy bars of ``auto``: work of force errors, on simulated errors whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.uncertainty.methods.environment_widths import Evidence, _structures, fit_widths

ATOMS = 12


def simulated(structures, farther, seed, *, work=True, spread=0.3):
    """Force errors grow with distance; energies are off by the work of these, or by anything."""
    rng = np.random.default_rng(seed)
    count = structures * ATOMS
    owner = np.repeat(np.arange(structures), ATOMS)
    shift = rng.normal(scale=spread / 3, size=structures)[owner]
    far = farther * np.exp(shift + spread * rng.standard_normal(count))
    sigma = 0.05 * far**1.5

    doubt = np.sqrt(np.bincount(owner, (sigma * far) ** 2)) if work else np.full(structures, 0.3)
    empty = np.full((structures, 6), np.nan)
    return Evidence(
        far=far, near=far, numbers=np.ones(count, dtype=np.int64), owner=owner,
        forces=sigma[:, None] * rng.standard_normal((count, 3)), spread=None,
        energy=doubt * rng.standard_normal(structures), energy_std=None,
        stress=empty, volume=empty[:, 0], source=np.zeros(structures, dtype=np.intp),
    )  # fmt: skip


def judged(known, new):
    """Mean square of errors over stds, and coverage, of structures that were not calibrated on."""
    folds = np.arange(known.structures) % 5
    widths, _ = fit_widths(known, folds, 0.9, [str(k) for k in range(5)])
    signs = _structures(new, widths)
    error = np.abs(new.energy)
    z = error / widths["energy"](signs)
    return np.mean(z**2), np.mean(error <= widths["energy_interval"](signs))


def test_energy_bars_grow_with_the_way_on_which_force_errors_act():
    """Twice as far, energies are off 5.7 times as much and forces 2.8 times."""
    rounds = [judged(simulated(50, 1.0, k), simulated(300, 2.0, 100 + k)) for k in range(8)]
    square, covered = np.mean(rounds, axis=0)
    assert square == pytest.approx(1.0, abs=0.25)
    assert covered == pytest.approx(0.9, abs=0.03)


def test_energies_that_are_off_by_anything_overrule_the_law_where_distances_vary():
    wide = {"work": False, "spread": 2.0}
    rounds = [
        judged(simulated(60, 1.0, k, **wide), simulated(300, 1.0, 50 + k, **wide)) for k in range(8)
    ]
    square, covered = np.mean(rounds, axis=0)
    assert square == pytest.approx(1.0, abs=0.4)
    assert covered == pytest.approx(0.9, abs=0.04)
