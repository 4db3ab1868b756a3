"""Screening by many processes: nothing is lost, nothing counts twice, whoever dies and when."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scale_workers import count, screen_slowly

from ase_nnp import build_model, open_dataset, save_model, write_dataset
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.workflows.ledger import Ledger, Worker
from ase_nnp.workflows.screening import merge, screen
from ase_nnp.workflows.tasks import ModelTask

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def numbered(n):
    structures = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info["number"] = k
        structures.append(atoms)
    return structures


def halved(atoms):
    return {"half": atoms.info["number"] / 2, "positions": atoms.positions}


def test_results_are_merged_in_the_order_of_the_dataset(tmp_path):
    data = numbered(11)
    assert screen(halved, data, tmp_path / "run", block=3) == {
        "done": 11,
        "failed": 0,
        "repeated": 0,
    }
    found = merge(tmp_path / "run", tmp_path / "out.jsonl")
    assert (found.written, found.missing, found.failures) == (11, 0, [])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["index"] for r in rows] == list(range(11))
    assert [r["half"] for r in rows] == [k / 2 for k in range(11)]
    assert np.array_equal(rows[4]["positions"], data[4].positions)


def test_finished_work_is_never_done_again(tmp_path):
    data, calls = numbered(6), []

    def remembered(atoms):
        calls.append(atoms.info["number"])
        return {}

    screen(remembered, data[:6], tmp_path / "run")
    assert screen(remembered, data[:6], tmp_path / "run")["done"] == 0
    assert sorted(calls) == list(range(6))


def test_a_worker_begins_with_its_own_part(tmp_path):
    order = []
    screen(lambda a: order.append(a.info["number"]) or {}, numbered(9), tmp_path, shard=(2, 3))
    assert order[:3] == [2, 5, 8]
    assert sorted(order) == list(range(9))


def test_a_failure_is_stored_by_name_and_the_run_goes_on(tmp_path):
    data = [bulk("Cu"), Atoms("He", info={"sid": 5}), bulk("Ni")]

    def counted(atoms):
        return {"atoms": count(atoms)}

    assert screen(counted, data, tmp_path / "run", block=2)["failed"] == 1
    found = merge(tmp_path / "run", tmp_path / "out.jsonl")
    assert found.written == 2
    assert found.failures == [
        {"index": 1, "name": "Structure 1 (He, id 5)", "error": "ValueError: no helium here"}
    ]
    assert Ledger(tmp_path / "run").status()["failed"] == 1


def test_a_result_that_no_file_can_hold_is_a_failure(tmp_path):
    screen(lambda atoms: 3, [bulk("Cu")], tmp_path)
    assert Ledger(tmp_path).status()["failed"] == 1


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    screen(halved, numbered(4), tmp_path, about={"fmax": 0.05})
    with pytest.raises(ConfigError, match=r"fmax: 0\.05 there, 0\.1 here"):
        screen(halved, numbered(4), tmp_path, about={"fmax": 0.1})
    with pytest.raises(ConfigError, match="total: 4 there, 5 here"):
        screen(halved, numbered(5), tmp_path, about={"fmax": 0.05})
    with pytest.raises(ConfigError, match="shards count from 0 to 1"):
        screen(halved, numbered(4), tmp_path, about={"fmax": 0.05}, shard=(2, 2))


def test_merging_an_unfinished_run_needs_to_be_asked_for(tmp_path):
    ledger = Ledger.create(tmp_path, 4, 1, {})
    with Worker(ledger) as worker:
        for block in worker.blocks():
            if block.number < 3:
                worker.commit(block, [b'J{"n":1}'])
    with pytest.raises(DatasetError, match="1 of 4 structures are not done"):
        merge(tmp_path, tmp_path / "out.jsonl")
    assert merge(tmp_path, tmp_path / "out.jsonl", partial=True).written == 3
    with pytest.raises(DatasetError, match="exists already"):
        merge(tmp_path, tmp_path / "out.jsonl", partial=True)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no run"):
        Ledger(tmp_path)


def test_a_damaged_result_is_seen(tmp_path):
    ledger = Ledger.create(tmp_path, 1, 1, {})
    with Worker(ledger) as worker:
        for block in worker.blocks():
            worker.commit(block, [b"something"])
    path = next((tmp_path / "results").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"record 0: is damaged"):
        ledger.read(0)


def test_what_a_living_worker_has_claimed_is_left_to_it(tmp_path):
    ledger = Ledger.create(tmp_path, 3, 1, {})
    with Worker(ledger) as one, Worker(ledger) as two:
        claims = one.blocks()
        mine = next(claims)
        theirs = {block.number for block in two.blocks()}
        assert theirs == {0, 1, 2} - {mine.number}
        claims.close()


def abandon(folder, host, monkeypatch):
    """Leave a claim on block 0 behind, as a process that was killed on ``host`` would."""
    from ase_nnp.workflows import ledger as module

    with monkeypatch.context() as patched:
        patched.setattr(module.socket, "gethostname", lambda: host)
        worker = Worker(Ledger(folder), lease=1.0)
        worker._life.write_text(json.dumps(module._whereabouts()))
    assert worker._take(0, 1) is not None
    return worker


def test_a_silent_worker_of_another_machine_keeps_its_claim_until_the_lease_ends(
    tmp_path, monkeypatch
):
    ledger = Ledger.create(tmp_path, 1, 1, {})
    lost = abandon(tmp_path, "elsewhere", monkeypatch)
    with Worker(ledger, lease=1.0) as worker:
        assert list(worker.blocks()) == []
    old = time.time() - 2.0
    os.utime(lost._life, (old, old))
    assert ledger.status(lease=1.0)["blocks_abandoned"] == 1
    with Worker(ledger, lease=1.0) as worker:
        assert [b.attempt for b in worker.blocks()] == [2]


def test_a_worker_that_was_thought_dead_cannot_count_its_result_twice(tmp_path, monkeypatch):
    ledger = Ledger.create(tmp_path, 1, 1, {})
    slow = abandon(tmp_path, "elsewhere", monkeypatch)
    old = time.time() - 2.0
    os.utime(slow._life, (old, old))
    with Worker(ledger, lease=1.0) as worker:
        for block in worker.blocks():
            assert worker.commit(block, [b"second"])
    assert slow.commit(ledger.block(0), [b"first"]) is False
    slow._release(0)
    slow._results.close()
    assert ledger.read(0) == [b"second"]
    assert ledger.finished() == {0}


def test_a_block_that_kills_its_workers_is_given_up(tmp_path):
    ledger = Ledger.create(tmp_path, 1, 1, {"files": []})
    (tmp_path / "claims" / "0").write_text(json.dumps({"id": "nobody", "attempt": 5}))
    assert screen(halved, numbered(1), tmp_path, attempts=5)["failed"] == 1
    assert b"its worker died 5 times" in ledger.read(0)[0]


def test_a_claim_is_given_back_when_the_work_is_interrupted(tmp_path):
    def interrupted(atoms):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(interrupted, numbered(2), tmp_path)
    ledger = Ledger(tmp_path)
    assert ledger.claimed() == ledger.finished() == set()
    assert list((tmp_path / "workers").iterdir()) == []


def simulate(*arguments, **options):
    import importlib.util

    spec = importlib.util.spec_from_file_location("sim", BENCHMARKS / "scale_simulation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate(*arguments, **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="simulates jobs by fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_hundreds_of_tasks_survive_workers_that_the_kernel_kills(tmp_path):
    found = simulate(tmp_path, 600, 0.02, 2)
    assert found["workers_killed"] > 2
    assert (found["lost"], found["doubled"], found["strange"]) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_ten_kills_at_random_moments_lose_and_double_nothing(tmp_path):
    data, pause, kills = numbered(60), 0.05, 0
    folder, log = tmp_path / "run", tmp_path / "log"
    chance, context = random.Random(1), get_context("spawn")

    def start(part):
        process = context.Process(
            target=screen_slowly, args=(data, folder, log, pause, (part, 2), 2.0)
        )
        process.start()
        return process

    running = [start(0), start(1)]
    while kills < 10:
        victim = chance.randrange(2)
        time.sleep(chance.uniform(0.0, 0.4))
        if not log.exists():  # still importing: not at work yet
            continue
        running[victim].kill()
        running[victim].join()
        kills += 1
        running[victim] = start(victim)
        while len(Path(log).read_text().split()) < 3 * kills and running[victim].is_alive():
            time.sleep(0.02)
    for process in running:
        process.join()
    assert [p.exitcode for p in running] == [0, 0]
    if not Ledger(folder).status()["complete"]:  # the last worker left while another held a claim
        screen_slowly(data, folder, log, 0.0, (0, 1), 2.0)
    assert merge(folder, tmp_path / "out.lmdb").written == 60
    found = open_dataset(tmp_path / "out.lmdb")
    assert [a.info["screen_index"] for a in found] == list(range(60))
    assert [a.info["square"] for a in found] == [k**2 for k in range(60)]
    evaluated = [int(n) for n in log.read_text().split()]
    assert set(evaluated) == set(range(60))
    assert len(evaluated) <= 60 + 2 * kills  # a kill costs one block of two at most


@pytest.fixture
def model_file(tmp_path):
    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    save_model(build_model("cgcnn_oc20", config, seed=0, device="cpu"), tmp_path / "m.nnp")
    return str(tmp_path / "m.nnp")


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return call


def test_the_command_screens_says_how_far_it_is_and_merges(run, tmp_path, model_file):
    write_dataset(tmp_path / "in.extxyz", numbered(7))
    common = ("screen", tmp_path / "in.extxyz", tmp_path / "run", "--model", model_file)
    code, out, err = run(*common, "--task", "predict", "--shard", "1/2", "--block", "2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["done"] == 7
    code, out, _ = run("screen", "status", tmp_path / "run", "--json")
    assert json.loads(out)["complete"]
    code, out, _ = run("screen", "merge", tmp_path / "run", tmp_path / "out.extxyz")
    assert code == 0
    assert "7 of 7 structures" in out
    found = open_dataset(tmp_path / "out.extxyz")
    wanted = ModelTask(model_file, task="predict", device="cpu").many(numbered(7))
    for one, two in zip(found, wanted, strict=True):
        assert one.get_potential_energy() == pytest.approx(two.get_potential_energy(), abs=1e-6)
    code, _, err = run(*common, "--task", "relax")
    assert code == 2
    assert "Another run lies in" in err


def test_a_relaxation_is_the_one_of_the_relax_workflow(tmp_path, model_file):
    from ase_nnp import NNPCalculator
    from ase_nnp.workflows.relax import relax

    data = numbered(2)
    job = ModelTask(model_file, steps=3, device="cpu", dtype="float64")
    screen(job, data, tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "out.lmdb")
    for atoms, found in zip(data, open_dataset(tmp_path / "out.lmdb"), strict=True):
        wanted = relax(atoms, NNPCalculator(model_file, dtype="float64", device="cpu"), steps=3)
        assert np.array_equal(found.positions, wanted.atoms.positions)
        assert found.get_potential_energy() == wanted.energy
        assert found.info["steps"] == wanted.steps


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "2/2"), "write i/n"),
        (("--task", "dance"), "No task 'dance'"),
        (("--optimizer", "Magic"), "No optimizer 'Magic'"),
    ],
)
def test_a_bad_setting_ends_in_one_line(run, tmp_path, model_file, arguments, said):
    write_dataset(tmp_path / "in.extxyz", numbered(1))
    code, out, err = run(
        "screen", tmp_path / "in.extxyz", tmp_path / "run", "--model", model_file, *arguments
    )
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
