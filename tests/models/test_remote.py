"""Models in environments of their own: right numbers, only for us, and dead workers come back."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from remote_models import HERE, model

import ase_nnp
from ase_nnp.errors import ConfigError, StructureError, UnsupportedElementError, WorkerError
from ase_nnp.models.remote.client import worker_for


def structures():
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=1)
    return [slab, crystal, molecule("CO"), bulk("Ni")]


def test_the_numbers_are_those_of_the_calculator(emt):
    results = ase_nnp.predict(emt, structures(), ("energy", "forces", "stress"))
    for atoms, row in zip(structures(), results, strict=True):
        atoms.calc = EMT()
        assert row["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(row["forces"], atoms.get_forces(), atol=1e-12)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(row["stress"], atoms.get_stress(voigt=False), atol=1e-12)
        else:
            assert "stress" not in row


def test_it_is_a_calculator_like_any_other(emt):
    from ase.optimize import FIRE

    atoms, twin = (structures()[1] for _ in range(2))
    atoms.calc, twin.calc = ase_nnp.NNPCalculator(emt), EMT()
    for one in (atoms, twin):
        FIRE(one, logfile=None).run(fmax=0.02, steps=50)
    np.testing.assert_allclose(atoms.positions, twin.positions, atol=1e-8)


def test_an_adapter_gets_the_whole_batch_and_the_charge():
    potential = model("Batched", required_inputs=("charge",))
    charged = bulk("Cu")
    charged.info["charge"] = 2
    results = ase_nnp.predict(potential, [bulk("Cu"), charged, bulk("Ni")])
    assert [row["energy"] for row in results] == [3.0, 5.0, 3.0]
    potential.close()


def test_workers_make_a_pool_with_error_bars(emt):
    from ase_nnp.uncertainty import fit

    members = [emt, model("emt", {"scale": 1.01})]
    cells = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)] + [bulk("Ni", a=3.5)]
    pool = fit("pool", members, align_on=cells)
    results = ase_nnp.predict(pool, structures()[:2])
    assert all(row["forces_std"].shape == row["forces"].shape for row in results)
    forces = results[1]["forces"]
    # Two members, forces F and 1.01 F: the sample deviation is 0.01 |F| / sqrt(2), pooled over xyz.
    expected = 0.01 * np.linalg.norm(forces / 1.005, axis=1) / np.sqrt(2) / np.sqrt(3)
    np.testing.assert_allclose(results[1]["forces_std"][:, 0], expected, rtol=1e-6)


def test_copies_share_the_worker_and_pickles_work_elsewhere(emt):
    twin = copy.deepcopy(emt)
    assert twin.worker is emt.worker
    again = pickle.loads(pickle.dumps(emt))
    assert ase_nnp.predict(again, [bulk("Cu")])[0]["energy"] == pytest.approx(
        ase_nnp.predict(emt, [bulk("Cu")])[0]["energy"]
    )


def child(potential, queue):
    queue.put(ase_nnp.predict(potential, [bulk("Cu")])[0]["energy"])
    queue.put(potential.worker.pid)


def test_a_forked_process_starts_a_worker_of_its_own(emt):
    before = ase_nnp.predict(emt, [bulk("Cu")])[0]["energy"]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(emt, queue))
    process.start()
    energy, pid = queue.get(timeout=120), queue.get(timeout=120)
    process.join(60)
    assert energy == pytest.approx(before)
    assert pid != emt.worker.pid
    assert ase_nnp.predict(emt, [bulk("Cu")])[0]["energy"] == pytest.approx(before)


def test_a_killed_worker_is_one_clear_error_and_comes_back(emt):
    before = ase_nnp.predict(emt, [bulk("Cu")])[0]["energy"]
    os.kill(emt.worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"killed by signal 9.*next call starts it again"):
        ase_nnp.predict(emt, [bulk("Cu")])
    assert ase_nnp.predict(emt, [bulk("Cu")])[0]["energy"] == pytest.approx(before)


def test_a_worker_that_dies_in_a_call_is_an_error_of_that_call():
    potential = model("Suicidal")
    with pytest.raises(WorkerError, match="killed by signal 9"):
        ase_nnp.predict(potential, [Atoms("B")])
    assert ase_nnp.predict(potential, [Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])])[0] == {
        "energy": 2.0
    }
    assert potential.worker.starts == 2
    potential.close()


def test_what_the_model_raises_is_told_and_the_worker_lives_on():
    potential = model("Suicidal")
    pid = potential.worker.pid
    with pytest.raises(WorkerError, match="ValueError: carbon is not for me"):
        ase_nnp.predict(potential, [Atoms("C")])
    assert ase_nnp.predict(potential, [Atoms("H")])[0]["energy"] == 1.0
    assert potential.worker.pid == pid
    potential.close()


def test_bad_structures_are_refused_before_they_travel(emt):
    bad = bulk("Cu")
    bad.positions[0, 0] = np.nan
    with pytest.raises(StructureError):
        ase_nnp.predict(emt, [bad])
    picky = model("emt", elements={29})
    with pytest.raises(UnsupportedElementError, match="Ni"):
        ase_nnp.predict(picky, [bulk("Ni")])


@pytest.mark.parametrize(
    ("factory", "arguments", "text"),
    [
        ("worker_models:broken", {}, "no weights here"),
        ("worker_models:nothing", {}, "AttributeError"),
        ("no_such_module:x", {}, "no_such_module"),
        ("worker_models:emt", {"colour": 1}, "TypeError"),
        ("worker_models:emt", {"scale": object()}, "JSON"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(factory, arguments, text):
    with pytest.raises(WorkerError, match=text):
        ase_nnp.remote(sys.executable, factory, arguments, path=[HERE])


def test_an_environment_that_is_not_there_says_so():
    with pytest.raises(WorkerError, match="no interpreter"):
        ase_nnp.remote("/no/such/place", "a:b")
    with pytest.raises(ConfigError, match="module:factory"):
        ase_nnp.remote(sys.executable)


def test_one_process_has_one_worker_for_one_job(emt):
    assert worker_for(emt.job) is emt.worker


@pytest.mark.slow
def test_the_worker_ends_with_the_program_that_started_it_and_the_next_clears_up():
    code = (
        "import os, sys, ase_nnp\n"
        f"m = ase_nnp.remote(sys.executable, 'worker_models:emt', path=[{HERE!r}])\n"
        "print(m.worker.pid, m.worker._running.folder, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(done.stdout.split()[0])
    for _ in range(300):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or " Z " in state.read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker outlived its parent")

    folder = Path(done.stdout.split()[1])
    assert folder.exists()  # nobody was left to remove it
    potential = model("emt", {"scale": 2.0})  # a worker that nobody has started yet
    ase_nnp.predict(potential, [bulk("Cu")])
    assert not folder.exists()
    potential.close()
