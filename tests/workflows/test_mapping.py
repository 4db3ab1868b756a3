"""map_structures: order, bounds, failures by name, processes that die, executors of others."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from scale_workers import count, deadly, dies_once

from ase_nnp.errors import ConfigError, TaskError
from ase_nnp.workflows.mapping import Failure, RayExecutor, map_structures


def processes(workers=2):
    return ProcessPoolExecutor(workers, get_context("spawn"))


def crystals(n):
    return [bulk("Cu") * (k + 1, 1, 1) for k in range(n)]


def test_results_come_in_order_whatever_finishes_first():
    gates = [threading.Event() for _ in range(4)]

    def last_first(atoms):
        size = len(atoms)
        if size < 4:
            gates[size].wait(10)
        gates[size - 1].set()
        return size

    with ThreadPoolExecutor(4) as pool:
        assert list(map_structures(last_first, crystals(4), pool, in_flight=4)) == [1, 2, 3, 4]


def test_structures_are_read_only_a_little_ahead():
    read = []

    def source():
        for k, atoms in enumerate(crystals(20)):
            read.append(k)
            yield atoms

    with ThreadPoolExecutor(1) as pool:
        answers = map_structures(len, source(), pool, in_flight=3)
        assert [next(answers) for _ in range(4)] == [1, 2, 3, 4]
        assert len(read) <= 7
        answers.close()


def test_a_failure_names_the_structure_and_its_reason():
    structures = [bulk("Cu"), Atoms("He", info={"sid": 77})]
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(TaskError, match=r"Structure 1 \(He, id 77\): ValueError: no helium here"),
    ):
        list(map_structures(count, structures, pool))


def test_failures_can_stand_in_the_place_of_results():
    seen = []
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            map_structures(
                count,
                [bulk("Cu"), Atoms("He"), bulk("Ni")],
                pool,
                on_error="return",
                progress=seen.append,
            )
        )
    assert answers[0] == answers[2] == 1
    assert isinstance(answers[1], Failure)
    assert (answers[1].index, type(answers[1].error)) == (1, ValueError)
    assert seen == [1, 2, 3]


def test_settings_that_cannot_be_are_refused_before_anything_runs():
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ConfigError, match="on_error"):
            map_structures(len, [], pool, on_error="ignore")
        with pytest.raises(ConfigError, match="in_flight"):
            map_structures(len, [], pool, in_flight=-1)


@pytest.mark.slow
def test_a_process_that_dies_costs_nothing_but_time(tmp_path):
    structures = crystals(6)
    structures[2].info["mark"] = str(tmp_path / "died")
    assert list(map_structures(dies_once, structures, processes)) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_the_structure_that_kills_is_found_and_no_other_is_blamed():
    structures = [*crystals(2), Atoms("Ne"), *crystals(2)]
    answers = list(map_structures(deadly, structures, processes, retries=1, on_error="return"))
    assert [f for k, f in enumerate(answers) if k != 2] == [1, 2, 1, 2]
    assert answers[2].name == "Structure 2 (Ne)"


@pytest.mark.slow
def test_an_executor_that_cannot_be_replaced_says_so():
    with processes(1) as pool, pytest.raises(TaskError, match=r"Structure 0 \(Ne\): its process"):
        list(map_structures(deadly, [Atoms("Ne")], pool))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own, about ports, sockets and its event loop
def test_dask_finishes_when_one_of_two_workers_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    structures = crystals(30)
    structures[4].info["mark"] = str(tmp_path / "died")  # its worker ends there, in mid-work
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=str(tmp_path),
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as pool,
    ):
        answers = list(map_structures(dies_once, structures, pool, in_flight=8))
    assert answers == list(range(1, 31))
    assert (tmp_path / "died").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, about its files and sockets
def test_ray_finishes_when_a_worker_process_dies(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # no message to anybody
    ray = pytest.importorskip("ray")
    structures = crystals(10)
    structures[4].info["mark"] = str(tmp_path / "died")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}},
    )
    try:
        answers = list(map_structures(dies_once, structures, RayExecutor(max_retries=3)))
        with pytest.raises(TaskError, match=r"Structure 0 \(He\)"):
            list(map_structures(count, [Atoms("He")], RayExecutor()))
    finally:
        ray.shutdown()
    assert answers == list(range(1, 11))
    assert (tmp_path / "died").exists()


def test_ray_must_be_started_first():
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"ray\.init"):
        RayExecutor()
