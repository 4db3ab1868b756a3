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


def asked_of_a_step(standin, run):
    """Waits, and copies to the device, that one more step of a run costs: runs of 4 and 12."""
    totals = []
    for steps in (4, 12):
        standin.clear()
        run(steps)
        totals.append((standin.waits.total(), standin.uploads.total()))
    return [(more - few) / 8 for few, more in zip(*totals, strict=True)]


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


@pytest.mark.slow
def test_a_batched_relaxation_on_a_device_takes_the_same_steps_and_waits_seldom(subject):
    options = {"fmax": 1e-9, "batch": 10**6}
    here = relax_many(subject.model, structures(subject), steps=12, **options)
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)
        there = relax_many(model, structures(subject), steps=12, **options)

        def run(steps):
            relax_many(model, structures(subject), steps=steps, **options)

        assert asked_of_a_step(standin, run)[0] <= 3, standin.waits
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

        assert asked_of_a_step(standin, run)[0] <= 3, standin.waits


#: Waits, and copies to the device, of a step: noise and targets are the host's, and BFGS solves
#: there.
ASKED = {
    "FIRE": (2, 0),
    "LBFGS": (2, 0),
    "BFGS": (3, 1),
    "nve": (2, 0),
    "langevin": (2, 2),
    "nvt": (2, 0),
    "npt": (2, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ASKED)
def test_batched_runs_on_a_device_take_the_same_steps_and_keep_their_state_there(subject, method):
    moving_cell = method in ("BFGS", "npt")
    given = [subject.crystal()] * 2 if moving_cell else structures(subject)

    def run(model, steps):
        # A skin that nobody crosses: a search now and then is another matter.
        options = {"steps": steps, "batch": 10**6, "skin": 3.0}
        if method.isupper():
            options |= {"optimizer": method, "fmax": 1e-9, "cell": moving_cell}
            return relax_many(model, given, **options)
        return run_dynamics(model, given, method, temperature_K=300, seed=1, **options)

    here = run(subject.model, 12)
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)
        there = run(model, 12)
        waits, uploads = asked_of_a_step(standin, lambda steps: run(model, steps))
        assert waits <= ASKED[method][0], standin.waits
        assert uploads <= ASKED[method][1], standin.uploads
    for one, two in zip(here, there, strict=True):
        assert two.steps == one.steps == 12
        for name in ("positions", "cell"):
            np.testing.assert_allclose(
                getattr(two.atoms, name), getattr(one.atoms, name), rtol=0, atol=1e-8
            )
        np.testing.assert_allclose(
            two.atoms.get_momenta(), one.atoms.get_momenta(), rtol=0, atol=1e-8
        )


def test_a_run_on_a_device_is_gone_on_with_elsewhere(subject, tmp_path):
    """Frames, checkpoints and monitors see copies; where the state lives is not part of it."""
    from ase.io import read

    options = {"optimizer": "LBFGS", "fmax": 1e-9, "batch": 10**6, "steps": 12}
    whole = relax_many(subject.model, structures(subject), folder=tmp_path / "whole", **options)

    class Enough(Exception):
        """Raised by the progress."""

    calls = []

    def progress(said):
        calls.append(said)
        if len(calls) == 7:
            raise Enough

    again = {"folder": tmp_path / "halves", **options}
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)
        with pytest.raises(Enough):
            relax_many(model, structures(subject), progress=progress, **again)
    resumed = relax_many(subject.model, structures(subject), **again)
    for one, two in zip(whole, resumed, strict=True):
        assert (two.status, two.steps) == (one.status, one.steps)
        frames = [read(tmp_path / d / f"{one.index:06d}.traj", ":") for d in ("whole", "halves")]
        assert len(frames[0]) == len(frames[1]) == 13
        for here, there in zip(*frames, strict=True):
            np.testing.assert_allclose(there.positions, here.positions, rtol=0, atol=1e-8)
            np.testing.assert_allclose(there.get_forces(), here.get_forces(), rtol=0, atol=1e-8)


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
