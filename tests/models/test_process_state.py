"""What the process is like must not matter: forks, and other packages' default precision."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111

import ase_nnp
from ase_nnp import NNPCalculator
from ase_nnp.models.modes import usual_default_dtype

FORK = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import torch
from ase.build import fcc111
from ase_nnp import NNPCalculator
from ase_nnp.workflows.mapping import map_structures
from ase_nnp.workflows.tasks import ModelTask

torch.set_num_threads(2)
slab = fcc111("Cu", (4, 4, 4), vacuum=8.0)
slab.rattle(0.05, seed=1)
slab.calc = calc = NNPCalculator(uncertainty=False, device="cpu")
forces = slab.get_forces()

def child(queue):
    other = slab.copy()
    other.calc = calc.clone()
    queue.put(abs(other.get_forces() - forces).max())

context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
process = context.Process(target=child, args=(queue,))
process.start()
process.join(100)
if process.is_alive():
    process.kill()
    sys.exit("the forked child hangs")
assert queue.get() < 1e-4

small = [fcc111("Cu", (1, 1, 2), vacuum=6.0) for _ in range(2)]
task = ModelTask("facet-metals-2", "predict")
pool = lambda: ProcessPoolExecutor(1, mp_context=context)
answers = list(map_structures(task, small, pool, retries=0))
assert len(answers) == 2 and torch.get_num_threads() == 2
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="nothing forks on this system")
def test_forked_children_of_a_process_that_ran_a_model_answer_too():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_default_precision_changes_no_number(default_dtype, dtype):
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    slab.rattle(0.05, seed=1)

    def answers(calc):
        slab.calc = calc
        return slab.get_forces(), calc.results["forces_std"].copy(), slab.get_stress()

    before = NNPCalculator(device="cpu")
    wanted = answers(before)
    default_dtype(dtype)
    before.reset()
    for calc in (before, NNPCalculator(device="cpu")):
        for ours, theirs in zip(answers(calc), wanted, strict=True):
            assert np.abs(ours - theirs).max() < 1e-6
    assert torch.get_default_dtype() == dtype


@pytest.mark.parametrize("family", sorted(ase_nnp.list_models()))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_family_is_built_under_the_usual_default(default_dtype, family, dtype):
    described = ase_nnp.list_models()[family]
    for package in described.requires:
        pytest.importorskip(package)
    config = described.test_config
    make = {"config": config, "seed": 1, "device": "cpu"}
    wanted = ase_nnp.build_model(family, **make).state_dict()
    default_dtype(dtype)
    made = ase_nnp.build_model(family, **make).state_dict()
    assert all(torch.equal(made[name], value) for name, value in wanted.items())


def test_threads_that_overlap_leave_the_default_as_it_was(default_dtype):
    default_dtype(torch.float64)
    inside, go = threading.Event(), threading.Event()
    seen = []

    def other():
        with usual_default_dtype():
            inside.set()
            go.wait(10)
            seen.append(torch.get_default_dtype())

    thread = threading.Thread(target=other)
    with usual_default_dtype():
        thread.start()
        inside.wait(10)
    seen.append(torch.get_default_dtype())  # the other one is still at work
    go.set()
    thread.join()
    assert seen == [torch.float32, torch.float32]
    assert torch.get_default_dtype() == torch.float64


def test_a_prediction_under_another_default_is_as_exact_as_before(default_dtype):
    model = ase_nnp.build_model("facet", seed=0, device="cpu", dtype="float64")
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    before = ase_nnp.predict(model, [atoms])[0]
    default_dtype(torch.float16)
    after = ase_nnp.predict(model, [atoms])[0]
    assert after["energy"] == pytest.approx(before["energy"], rel=1e-12)
    np.testing.assert_allclose(after["forces"], before["forces"], atol=1e-12)
