"""What an ASE user does with uncertainties: keep, watch, propagate."""

import warnings

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.db import connect
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from toy_models import Pair, label, molecules

from ase_nnp import NNPCalculator
from ase_nnp.errors import UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty import (
    UncertaintyMonitor,
    UncertaintyTrajectory,
    UncertaintyWarning,
    aliases,
    attach_uncertainty,
    fit,
    freeze,
    read_uncertainty,
    save_uncertainty,
    wrap,
    write_db,
    write_extxyz,
)
from ase_nnp.workflows import propagate

KEYS = ("energy_std", "forces_std", "forces_std_norm", "forces_cov", "energy_members")


MORE = ("forces_members", "energy_interval", "forces_interval", "stress_std")


@pytest.fixture(scope="module")
def train():
    return label(molecules(20, seed=1), Pair(seed=9).double(), noise=0.02)


@pytest.fixture(scope="module")
def members():
    return [Pair(hidden=8, seed=s).double() for s in range(3)]


@pytest.fixture
def atoms(members, train):
    ensemble = fit("ensemble", members, calibration=train, details=True)
    crystal = bulk("C", "diamond", 3.0, cubic=True)
    crystal.rattle(0.1, seed=1)
    crystal.calc = NNPCalculator(ensemble)
    crystal.get_stress()
    return crystal


def same(got, results, keys=(*KEYS, *MORE)):
    for key in keys:
        np.testing.assert_allclose(got[key], results[key], rtol=0, atol=1e-8, err_msg=key)
        assert np.shape(got[key]) == np.shape(results[key])
    assert got["uq"] == results["uq"]


def test_attached_uncertainties_come_back(atoms):
    results = atoms.calc.results.copy()
    attach_uncertainty(atoms)
    assert atoms.arrays["nnp_forces_std"].shape == (8, 3)
    same(read_uncertainty(atoms), results)
    atoms.calc.results["energy_std"] = 5.0
    assert read_uncertainty(attach_uncertainty(atoms))["energy_std"] == 5.0
    with pytest.raises(UncertaintyError, match="no calculated results"):
        attach_uncertainty(bulk("Cu"))


def test_freeze_keeps_the_extra_keys_and_lets_go_of_the_model(atoms):
    before = atoms.calc.results.copy()
    still = freeze(atoms)
    atoms.rattle(0.2, seed=3)
    atoms.get_forces()
    assert atoms.calc.results["energy_std"] != pytest.approx(before["energy_std"], rel=1e-3)
    assert still.get_potential_energy() == before["energy"]
    assert still.calc.get_property("energy_std", still) == before["energy_std"]
    assert "energy_std" not in type(still.calc).implemented_properties


def test_extxyz_keeps_everything(atoms, tmp_path):
    results = atoms.calc.results.copy()
    write_extxyz(tmp_path / "a.extxyz", [atoms, freeze(atoms)])
    for frame in read(tmp_path / "a.extxyz", ":"):
        same(read_uncertainty(frame), results)
        assert frame.get_potential_energy() == pytest.approx(results["energy"], abs=1e-8)


def test_trajectory_keeps_everything(atoms, tmp_path):
    results = atoms.calc.results.copy()
    with UncertaintyTrajectory(tmp_path / "a.traj", atoms) as trajectory:
        trajectory()
        trajectory.write(freeze(atoms))
    for frame in read(tmp_path / "a.traj", ":"):
        same(read_uncertainty(frame), results)
        np.testing.assert_allclose(frame.get_forces(), results["forces"], atol=1e-12)


def test_database_keeps_everything_and_selects(atoms, tmp_path):
    results = atoms.calc.results.copy()
    database = connect(tmp_path / "a.db")
    number = write_db(database, atoms, round=3)
    (row,) = database.select(f"nnp_energy_std>{results['energy_std'] / 2},round=3")
    assert row.id == number
    assert not list(database.select(f"nnp_energy_std>{results['energy_std'] * 2}"))
    back = row.toatoms(add_additional_information=True)
    same(read_uncertainty(back), results)
    assert back.get_potential_energy() == pytest.approx(results["energy"], abs=1e-10)


def test_flags_and_scores_survive_files(train, tmp_path):
    strange = molecules(1, numbers=(1, 6, 79))[0]
    strange.calc = NNPCalculator(fit("latent", Pair(seed=1).double(), train=train))
    strange.get_potential_energy()
    assert strange.calc.results["ood_flag"] is True
    write_extxyz(tmp_path / "a.extxyz", [strange])
    with UncertaintyTrajectory(tmp_path / "a.traj") as trajectory:
        trajectory.write(strange)
    number = write_db(connect(tmp_path / "a.db"), strange)
    row = connect(tmp_path / "a.db").get(number)
    for back in (
        read(tmp_path / "a.extxyz"),
        read(tmp_path / "a.traj"),
        row.toatoms(add_additional_information=True),
    ):
        stored = read_uncertainty(back)
        assert stored["ood_flag"] is True
        np.testing.assert_allclose(stored["ood_scores"], strange.calc.results["ood_scores"])


def test_aliases_speak_the_language_of_others(atoms):
    results = atoms.calc.results
    mace, matscipy = aliases(results, "mace"), aliases(results, "matscipy")
    assert mace["energy_var"] == pytest.approx(results["energy_std"] ** 2)
    np.testing.assert_array_equal(matscipy["forces_uncertainty"], results["forces_std"])
    assert aliases(results, "metatomic")["energy_ensemble"].shape == (3,)
    with pytest.raises(UncertaintyError, match="mace, metatomic, matscipy"):
        aliases(results, "none")


def test_a_calculator_gives_the_names_of_others_too(members, train, tmp_path):
    fitted = fit("ensemble", members, calibration=train, details=True).with_aliases("mace")
    save_uncertainty(fitted, tmp_path / "my.uq")
    atoms = train[0].copy()
    atoms.calc = NNPCalculator(members[0], uncertainty=tmp_path / "my.uq")
    atoms.get_forces()
    results = atoms.calc.results
    assert results["energy_var"] == pytest.approx(results["energy_std"] ** 2)
    np.testing.assert_allclose(results["forces_var"], results["forces_std"] ** 2)
    assert results["forces_comm"].shape == (3, len(atoms), 3)
    assert atoms.calc.get_property("energy_var", atoms) == results["energy_var"]
    changed = fitted.with_aliases("matscipy")
    assert "forces_uncertainty" in changed.outputs
    assert "energy_var" not in changed.outputs
    with pytest.raises(UncertaintyError, match="No aliases"):
        fitted.with_aliases("none")


def heated(model, seed=3):
    """A cluster whose atoms rush together, and so leave what a model knows."""
    atoms = molecules(1, seed=seed)[0]
    atoms.positions *= 1.5
    atoms.calc = NNPCalculator(model)
    atoms.set_velocities(-0.06 * (atoms.positions - atoms.positions.mean(axis=0)))
    return atoms


def first_excursion(model, threshold, steps=60):
    atoms = heated(model)
    dyn, values = VelocityVerlet(atoms, 0.5 * units.fs), []
    dyn.attach(lambda: values.append(atoms.calc.results["forces_std_norm"].max()))
    dyn.run(steps)
    above = np.flatnonzero(np.array(values) > threshold)
    return values, int(above[0]) if len(above) else None


def test_a_monitor_stops_a_run_at_the_right_step_and_warns_once(members, tmp_path):
    ensemble = wrap("ensemble", members, mode="sequential")
    values, _ = first_excursion(ensemble, 1e9)
    threshold = (values[0] + max(values)) / 2
    values, expected = first_excursion(ensemble, threshold)
    assert expected > 0
    atoms = heated(ensemble)
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    monitor = UncertaintyMonitor(dyn, threshold=threshold, save=tmp_path / "hot.traj")
    dyn.attach(monitor)  # once more does no harm
    with pytest.warns(UncertaintyWarning) as caught:
        dyn.run(60)
    assert dyn.nsteps == expected
    assert len(caught) == len(monitor.events) == 1
    event = monitor.events[0]
    assert event.step == expected
    worst = int(np.argmax(atoms.calc.results["forces_std_norm"]))
    assert event.atoms[0] == worst
    assert f"{atoms.symbols[worst]}{worst}" in str(caught[0].message)
    # one and the same state: positions, results and velocities belong together
    fresh = predict(ensemble, [atoms])[0]
    np.testing.assert_allclose(atoms.get_forces(), fresh["forces"], atol=1e-12)
    np.testing.assert_allclose(monitor.history, values[: expected + 1])
    monitor.close()
    (saved,) = read(tmp_path / "hot.traj", ":")
    np.testing.assert_allclose(saved.positions, atoms.positions)
    assert read_uncertainty(saved)["forces_std_norm"].max() > threshold
    # and the run can go on from where it stopped
    twin = heated(ensemble)
    VelocityVerlet(twin, 0.5 * units.fs).run(expected)
    np.testing.assert_allclose(twin.get_velocities(), atoms.get_velocities(), atol=1e-12)


class Steps:
    """A dynamics without dynamics, whose uncertainty is given."""

    def __init__(self, values):
        self.atoms, self.values, self.nsteps, self.max_steps = molecules(1)[0], values, 0, 99
        self.atoms.calc = self
        self.results = {}

    def attach(self, function, interval):
        assert interval == 1

    def run(self, monitor):
        for value in self.values:
            rows = np.zeros((5, 3))
            rows[2, 0] = value
            self.results = {"forces_std": rows, "forces": np.ones((5, 3)), "energy_std": value}
            monitor()
            self.nsteps += 1
            if self.max_steps == 0:
                break


def test_patience_bands_and_repeated_excursions(caplog):
    steps = Steps([0, 2, 0, 2, 2, 2, 0, 2, 2])
    seen = []
    monitor = UncertaintyMonitor(
        steps, "forces_std", 1.0, patience=2, mode="callback", callback=lambda a, e: seen.append(e)
    )
    with pytest.warns(UncertaintyWarning) as caught:
        steps.run(monitor)
    assert [e.step for e in seen] == [4, 8]
    assert len(caught) == 2
    assert seen[0].atoms == (2,)
    steps, seen = Steps([0, 50]), []
    band = UncertaintyMonitor(
        steps, "energy_std", 1.0, upper=10, callback=lambda a, e: seen.append(e)
    )
    with pytest.warns(UncertaintyWarning, match="energy_std = 50"):
        steps.run(band)
    assert not seen
    assert steps.max_steps == 0
    steps = Steps([0, 2, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps.run(UncertaintyMonitor(steps, "forces_std", 1.0, mode="log"))
    assert "H2" not in caplog.text
    assert caplog.text.count("exceeds") == 1
    assert "O2" in caplog.text


def test_relative_and_mean_values():
    steps = Steps([3.0])
    relative = UncertaintyMonitor(steps, "forces_std", 9.0, relative=0.5)
    mean = UncertaintyMonitor(steps, "forces_std", 9.0, per_atom=False)
    steps.run(relative)
    mean()
    assert relative.history == [pytest.approx(3 / (np.sqrt(3) + 0.5))]
    assert mean.history == [pytest.approx(3 / 5)]
    steps.nsteps, steps.results = 1, {"energy": 1.0}
    steps.atoms.calc.get_potential_energy = lambda *a, **k: 1.0
    with pytest.raises(UncertaintyError, match="gives no 'forces_std'"):
        relative()
    with pytest.raises(UncertaintyError, match="mode must"):
        UncertaintyMonitor(steps, mode="explode")


def test_a_monitor_stops_an_optimizer(members):
    atoms = molecules(1, seed=3)[0]
    atoms.calc = NNPCalculator(wrap("ensemble", members))
    optimizer = BFGS(atoms, logfile=None)
    UncertaintyMonitor.watch(optimizer, threshold=1e-6)
    with pytest.warns(UncertaintyWarning):
        optimizer.run(fmax=1e-6, steps=20)
    assert optimizer.nsteps == 0


def test_propagation_runs_the_observable_once_per_member(members):
    def relaxed(calc):
        atoms = bulk("C", "diamond", 3.0, cubic=True)
        atoms.calc = calc
        return atoms.get_potential_energy()

    each = [relaxed(NNPCalculator(m)) for m in members]
    ensemble = wrap("ensemble", members)
    for given in (members, ensemble, NNPCalculator(ensemble)):
        got = propagate(relaxed, given, coverage=0.9)
        assert got.mean == pytest.approx(np.mean(each))
        assert got.std == pytest.approx(np.std(each, ddof=1))
        low, high = got.interval
        assert (high - low) / 2 == pytest.approx(2.919986 * got.std * np.sqrt(4 / 3), rel=1e-6)
        assert "not covered" in str(got)


def test_the_credible_interval_holds_a_new_draw_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(4000):
        draws = rng.standard_normal(6)
        low, high = propagate(lambda x: x, draws[:5], coverage=0.8).interval
        held.append(low <= draws[5] <= high)
    assert np.mean(held) == pytest.approx(0.8, abs=0.02)


def test_series_and_failures_are_propagated():
    rng = np.random.default_rng(1)
    got = propagate(lambda m: m + rng.standard_normal(4096), [0.0, 1.0, 2.0], series=True)
    assert got.mean == pytest.approx(1, abs=0.05)
    assert got.statistical_std == pytest.approx(1 / 64, rel=0.5)
    assert got.total_std > got.std

    def fragile(member):
        if member == 1:
            raise ValueError("no minimum")
        return np.array([member, 2 * member])

    with pytest.raises(ValueError, match="no minimum"):
        propagate(fragile, [0, 1, 2])
    got = propagate(fragile, [0, 1, 2], allow_failures=True)
    assert got.failed == {1: "ValueError: no minimum"}
    np.testing.assert_allclose(got.mean, [1, 2])
    with pytest.raises(UncertaintyError, match="two or more"):
        propagate(fragile, [0])
