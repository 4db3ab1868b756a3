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


@pytest.mark.slow
def test_energies_that_are_off_by_anything_overrule_the_law_where_distances_vary():
    wide = {"work": False, "spread": 2.0}
    rounds = [
        judged(simulated(60, 1.0, k, **wide), simulated(300, 1.0, 50 + k, **wide)) for k in range(8)
    ]
    square, covered = np.mean(rounds, axis=0)
    assert square == pytest.approx(1.0, abs=0.4)
    assert covered == pytest.approx(0.9, abs=0.04)


def with_scales(sizes, scales, seed):
    """Structures of these sizes, all equally far, with force errors of these scales."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    count = len(owner)
    far = np.exp(0.01 * rng.standard_normal(count))
    nothing = np.full((len(sizes), 6), np.nan)
    return Evidence(
        far=far, near=far, numbers=np.ones(count, dtype=np.int64), owner=owner,
        forces=np.asarray(scales)[owner][:, None] * rng.standard_normal((count, 3)), spread=None,
        energy=nothing[:, 0], energy_std=None, stress=nothing, volume=nothing[:, 0],
        source=np.zeros(len(sizes), dtype=np.intp),
    )  # fmt: skip


def force_coverage(known, folds, new):
    """Part of the force errors (B,) of each new structure that is inside its interval."""
    widths, table = fit_widths(known, folds, 0.9, ["one", "two"])
    half = widths["forces_interval"](new.atoms(), new.numbers)
    inside = (np.abs(new.forces) <= half[:, None]).mean(axis=1)
    return np.bincount(new.owner, inside) / np.bincount(new.owner), half, table["left_out"]


def test_a_kind_with_most_of_the_errors_is_left_out_in_parts():
    """Without it the rest knows nothing but forces that are nearly exact."""
    sizes, scales = np.full(20, 8), np.repeat([0.3, 1e-3], [12, 8])
    covered, half, table = force_coverage(
        with_scales(sizes, scales, 0), np.repeat([0, 1], [12, 8]), with_scales(sizes, scales, 1)
    )
    # Of the large errors 85 % lie within 1.44 times their scale, and all small ones.
    assert 0.88 < covered.mean() <= 1
    assert half.max() < 3 * 1.645 * 0.3
    assert {name: row["structures"] for name, row in table.items()} == {"one": 12, "two": 8}


def test_a_large_structure_counts_no_more_than_a_small_one():
    sizes, scales = np.tile([2, 60], 40), np.tile([1.0, 0.2], 40)
    new = with_scales(sizes, scales, 3)
    covered, _, _ = force_coverage(with_scales(sizes, scales, 2), np.arange(80) % 5, new)
    assert covered.mean() == pytest.approx(0.9, abs=0.03)
    assert covered[::2].mean() == pytest.approx(0.8, abs=0.06)
