"""Whole runs on the stand-in accelerator: the host's results, and few waits of the host."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ase_nnp import predict, relax_many, run_dynamics
from ase_nnp.models.predictor import Predictor
from ase_nnp.testing import make_subject
from ase_nnp.testing.standin import Standin, is_available
from ase_nnp.uncertainty import DeepEnsemble

pytestmark = pytest.mark.skipif(not is_available(), reason="this torch has no devices in Python")


@pytest.fixture
def subject():
    return make_subject("lj")


def structures(subject):
    return [subject.crystal(), subject.slab(), subject.crystal()]


def waits_of_a_step(standin, run):
    """Waits that one more step of a run costs, from runs of 4 and of 12 steps."""
    totals = []
    for steps in (4, 12):
        standin.clear()
        run(steps)
        totals.append(standin.waits.total())
    return (totals[1] - totals[0]) / 8


def test_error_bars_are_the_same_on_a_device(subject):
    members = [copy.deepcopy(subject.model) for _ in range(2)]
    ensemble = DeepEnsemble(members, mode="sequential")
    here = predict(ensemble, structures(subject))
    with Standin() as standin:
        there = Predictor(ensemble.to(standin.device))(structures(subject))
    for one, two in zip(here, there, strict=True):
        assert one.keys() == two.keys()
        for key in ("energy", "forces", "energy_std", "forces_std"):
            np.testing.assert_allclose(two[key], one[key], rtol=1e-9, atol=1e-9)


def test_a_batched_relaxation_on_a_device_takes_the_same_steps_and_waits_seldom(subject):
    options = {"fmax": 1e-9, "batch": 10**6}
    here = relax_many(subject.model, structures(subject), steps=12, **options)
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)
        there = relax_many(model, structures(subject), steps=12, **options)

        def run(steps):
            relax_many(model, structures(subject), steps=steps, **options)

        assert waits_of_a_step(standin, run) <= 3, standin.waits
    for one, two in zip(here, there, strict=True):
        assert two.status == one.status
        np.testing.assert_allclose(two.atoms.positions, one.atoms.positions, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["facet", "sevennet"])
def test_families_with_graphs_of_their_own_wait_as_seldom(family):
    subject = make_subject(family)
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)

        def run(steps):
            options = {"fmax": 1e-9, "batch": 10**6}
            relax_many(model, [subject.crystal()] * 2, steps=steps, **options)

        assert waits_of_a_step(standin, run) <= 3, standin.waits


def test_batched_dynamics_on_a_device_take_the_same_steps(subject):
    options = {"steps": 10, "temperature_K": 300, "seed": 1, "batch": 10**6}
    here = run_dynamics(subject.model, structures(subject), "nve", **options)
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)
        there = run_dynamics(model, structures(subject), "nve", **options)
    for one, two in zip(here, there, strict=True):
        np.testing.assert_allclose(two.atoms.positions, one.atoms.positions, rtol=0, atol=1e-8)


def test_a_calculator_on_a_device_keeps_its_list_and_waits_three_times_a_call(subject):
    moving = subject.slab()
    rng = np.random.default_rng(0)
    with Standin() as standin:
        there = Predictor(copy.deepcopy(subject.model).to(standin.device))
        for step in range(6):
            if step == 4:  # as far as half a skin, so that it is searched again
                moving.positions[0] += 0.5
            moving.positions += rng.normal(scale=0.02, size=moving.positions.shape)
            standin.clear()
            found = there.single(moving, ("energy", "forces"))
            if step not in (0, 4):
                assert standin.waits.total() <= 3, standin.waits
            here = predict(subject.model, moving)[0]
            assert found["energy"] == pytest.approx(here["energy"], rel=1e-9)
            np.testing.assert_allclose(found["forces"], here["forces"], rtol=1e-9, atol=1e-9)
        assert there._kept.searches == 2
