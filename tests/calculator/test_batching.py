"""BatchingCalculator: plain ASE code in threads, evaluated in batches."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100
from ase.calculators.calculator import CalculationFailed, CalculatorSetupError
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

import ase_nnp
from ase_nnp.calculator.batching import _Exchange
from ase_nnp.errors import ConfigError


@pytest.fixture(scope="module")
def model():
    return ase_nnp.build_model("lj", config={}).to(torch.float64)


def crystal(seed: int) -> Atoms:
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def images(calculator) -> list[Atoms]:
    """Seven images of a hop from hollow to hollow, end points relaxed by the model itself."""
    first = fcc100("Cu", (2, 2, 2), a=3.5, vacuum=6.0)
    first.pbc = (True, True, False)
    last = first.copy()
    add_adsorbate(first, "Cu", 1.6, "hollow")
    add_adsorbate(last, "Cu", 1.6, "hollow", offset=(1, 0))
    for end in (first, last):
        end.set_constraint(FixAtoms(mask=end.get_tags() == 2))
        end.calc = calculator()
        BFGS(end, logfile=None).run(fmax=0.02, steps=200)
    path = [first, *(first.copy() for _ in range(5)), last]
    for image in path[1:-1]:
        image.calc = calculator()
    return path


@pytest.mark.slow
def test_a_neb_with_threads_is_evaluated_in_batches_and_is_the_same(model):
    plain = images(lambda: ase_nnp.NNPCalculator(model))
    band = NEB(plain, method="improvedtangent")
    band.interpolate("idpp")
    FIRE(band, logfile=None).run(fmax=0.05, steps=8)

    calculator = ase_nnp.BatchingCalculator(model, wait=1.0)
    threaded = images(calculator.clone)
    band = NEB(threaded, parallel=True, method="improvedtangent")
    band.interpolate("idpp")
    before = len(calculator.batches)
    FIRE(band, logfile=None).run(fmax=0.05, steps=8)
    for one, other in zip(plain, threaded, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-9)
    sizes = calculator.batches[before:]
    assert sum(sizes) >= 9 * 5
    assert np.mean(sizes) > 4


def relaxed(atoms: Atoms, optimizer=BFGS) -> np.ndarray:
    optimizer(atoms, logfile=None).run(fmax=0.01, steps=60)
    return atoms.positions.copy()


@pytest.mark.slow
def test_many_optimizers_in_threads_share_batches_and_end_where_they_should(model):
    calculator = ase_nnp.BatchingCalculator(model, wait=0.5)
    structures = [crystal(seed) * (1 + seed % 2, 1, 1) for seed in range(6)]
    expected = []
    for atoms in structures:
        alone = atoms.copy()
        alone.calc = ase_nnp.NNPCalculator(model)
        expected.append(relaxed(alone))
        atoms.calc = calculator.clone()
    with ThreadPoolExecutor(6) as pool:
        relaxed_ones = list(pool.map(relaxed, structures))
    for one, other in zip(relaxed_ones, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    assert max(calculator.batches) > 2
    assert len(calculator.batches) < sum(calculator.batches)


@pytest.mark.slow
def test_one_thread_with_many_clones_waits_once_at_most(model, monkeypatch):
    late_rounds, lead = [], _Exchange._lead

    def recorded(exchange, late):
        late_rounds.append(late)
        lead(exchange, late)

    monkeypatch.setattr(_Exchange, "_lead", recorded)
    calculator = ase_nnp.BatchingCalculator(model, wait=2.0)
    structures = [crystal(seed) for seed in range(4)]
    for atoms in structures:
        atoms.calc = calculator.clone()
    for _ in range(3):
        for atoms in structures:
            atoms.get_forces()
            atoms.positions[0] += 0.01
    assert sum(late_rounds) <= 1
    assert sum(calculator.batches) == 12


def test_an_error_goes_to_the_thread_that_caused_it(model):
    calculator = ase_nnp.BatchingCalculator(model, wait=1.0)
    structures = [crystal(seed) for seed in range(4)]
    structures[1].positions[0, 0] = np.nan
    clones = [calculator.clone() for _ in structures]

    def ask(k: int):
        structures[k].calc = clones[k]
        return structures[k].get_potential_energy()

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(ask, k) for k in range(4)]
    assert isinstance(futures[1].exception(), CalculatorSetupError)
    for k in (0, 2, 3):
        alone = structures[k].copy()
        alone.calc = ase_nnp.NNPCalculator(model)
        assert futures[k].result() == pytest.approx(alone.get_potential_energy(), abs=1e-10)


def test_threads_that_end_or_raise_keep_nobody_waiting(model):
    calculator = ase_nnp.BatchingCalculator(model, wait=0.2)
    clones = [calculator.clone() for _ in range(3)]
    done = []

    def work(k: int) -> None:
        atoms = crystal(k)
        atoms.calc = clones[k]
        for step in range(6):
            atoms.get_forces()
            if k == 1 and step == 1:
                return
            if k == 2 and step == 2:
                raise KeyError("something of its own")
            atoms.positions[0] += 0.01
        done.append(k)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, k) for k in range(3)]
        assert futures[0].exception(timeout=30) is None
    assert done == [0]
    assert isinstance(futures[2].exception(), KeyError)


def test_an_interrupted_leader_leaves_the_others_their_answers(model, monkeypatch):
    calculator = ase_nnp.BatchingCalculator(model, wait=0.5)
    clones = [calculator.clone() for _ in range(2)]
    exchange = calculator._exchange
    real, calls = exchange._answer, []

    def answer(questions):
        calls.append(len(questions))
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(questions)

    monkeypatch.setattr(exchange, "_answer", answer)

    def ask(k: int):
        atoms = crystal(k)
        atoms.calc = clones[k]
        return atoms.get_potential_energy()

    outcomes: list[object] = []

    def thread(k: int) -> None:
        try:
            outcomes.append(ask(k))
        except KeyboardInterrupt as stop:
            outcomes.append(stop)

    threads = [threading.Thread(target=thread, args=(k,)) for k in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(timeout=20)
        assert not one.is_alive()
    kinds = sorted(type(o).__name__ for o in outcomes)
    assert kinds in (["KeyboardInterrupt", "float"], ["float", "float"])


def test_stress_and_forces_asked_together_are_both_answered(model):
    calculator = ase_nnp.BatchingCalculator(model, wait=0.5)
    clones = [calculator.clone(), calculator.clone()]

    def ask(k: int):
        atoms = crystal(k)
        atoms.calc = clones[k]
        return atoms.get_stress() if k else atoms.get_forces()

    with ThreadPoolExecutor(2) as pool:
        forces, stress = pool.map(ask, range(2))
    assert forces.shape == (4, 3)
    assert stress.shape == (6,)


def test_it_is_a_calculator_like_any_other(model):
    import copy

    with pytest.raises(ConfigError, match="wait"):
        ase_nnp.BatchingCalculator(model, wait=-1.0)
    calculator = ase_nnp.BatchingCalculator(model)
    atoms = crystal(1)
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energy() == energy
    assert calculator.model_calls == 1
    twin = copy.deepcopy(calculator)
    assert twin.results["energy"] == energy
    lost = crystal(2)
    lost.positions[:] = np.inf
    lost.calc = calculator.clone()
    with pytest.raises((CalculatorSetupError, CalculationFailed)):
        lost.get_forces()


def test_a_used_calculator_and_its_clones_travel_to_other_processes(model):
    calc = ase_nnp.BatchingCalculator(model, wait=0.01)
    atoms = bulk("Cu", cubic=True)
    energy = calc.get_property("energy", atoms)
    one, two = pickle.loads(pickle.dumps([calc, calc.clone()]))
    assert one._exchange is two._exchange is not calc._exchange
    moved = atoms.copy()
    moved.rattle(0.05, seed=1)
    for twin in (one, two, copy.deepcopy(one)):
        assert twin.get_property("energy", atoms) == pytest.approx(energy, abs=1e-12)
        assert twin.get_property("energy", moved) != pytest.approx(energy, abs=1e-6)
