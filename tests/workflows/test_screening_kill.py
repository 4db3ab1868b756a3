"""Processes of a screening run are killed ten times: by hand, under Dask, Ray and Parsl."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scale_workers import SETTINGS, kill_workers, screen_slabs, slabs, slow_model

from ase_nnp import open_dataset
from ase_nnp.errors import ConfigError
from ase_nnp.workflows.batched import relax_many
from ase_nnp.workflows.mapping import RayExecutor
from ase_nnp.workflows.screening import merge, screen, status

HELPERS = str(Path(__file__).resolve().parents[1] / "helpers")
KILLS, NUMBER, PAUSE = 10, 24, 0.02


@contextmanager
def local(tmp_path):
    yield None


@contextmanager
def dask(tmp_path):
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        # A worker that is killed while it starts does not come back by itself.
        cluster.adapt(minimum=2, maximum=2, interval="500 ms")
        yield executor


@contextmanager
def ray(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": HELPERS}},
    )
    try:
        yield RayExecutor(max_retries=100)
    finally:
        ray.shutdown()


@contextmanager
def parsl(tmp_path):
    pytest.importorskip("parsl")
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    config = Config(
        executors=[
            HighThroughputExecutor(
                label="local",
                address="127.0.0.1",
                max_workers_per_node=2,
                provider=LocalProvider(
                    init_blocks=1, max_blocks=1, worker_init=f"export PYTHONPATH={HELPERS}"
                ),
                encrypted=False,
            )
        ],
        retries=100,
        run_dir=str(tmp_path / "parsl"),
        usage_tracking=0,
    )
    with ParslPoolExecutor(config=config) as executor:
        yield executor


OTHER_INPUTS = (
    lambda given: given[-1].positions.__setitem__((0, 0), given[-1].positions[0, 0] + 1e-9),
    lambda given: given[0].numbers.__setitem__(0, 28),
    lambda given: given[9].cell.__setitem__((2, 2), 20.0),
    lambda given: given[3].set_pbc(True),
    lambda given: given[8].set_constraint(),
    lambda given: given[5].info.update(charge=1),
    lambda given: given.pop(),
    lambda given: given.append(given[0].copy()),
    lambda given: given.reverse(),
    lambda given: given.sort(key=lambda atoms: -atoms.info["number"] % 7),
)
EXECUTORS = {"local processes": local, "Dask": dask, "Ray": ray, "Parsl": parsl}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Dask, Ray and Parsl
@pytest.mark.parametrize("engine", EXECUTORS)
def test_ten_kills_lose_and_double_nothing_and_no_other_input_goes_on(
    engine, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # no message to anybody
    folder, log = tmp_path / "run", tmp_path / "log"
    killed: list[int] = []
    finished = threading.Event()

    def kill():
        killed.extend(kill_workers(log, finished.is_set, KILLS))

    with EXECUTORS[engine](tmp_path) as executor:
        killer = threading.Thread(target=kill)
        killer.start()
        # An engine that waits for workers for ever fails the test and does not stop all others.
        give_up = partial(executor.shutdown, wait=False) if executor else finished.set
        limit = threading.Timer(900, give_up)
        limit.start()
        try:
            screen_slabs(
                folder, NUMBER, PAUSE, log, (0, 2), executor=executor, workers=2, retries=100
            )
        finally:
            limit.cancel()
            finished.set()
            killer.join()

        assert status(folder)["finished"] == NUMBER // 2
        refused = 0
        for change in OTHER_INPUTS:
            other = slabs(NUMBER)
            change(other)
            with pytest.raises(ConfigError, match=r"holds another run \(structures"):
                screen(slow_model(), other, folder, executor=executor, **SETTINGS)
            refused += 1
        counts = screen_slabs(folder, NUMBER, 0.0, log, executor=executor, workers=2)

    print(
        f"{engine}: {len(killed)} of {KILLS} killed, {counts}; "
        f"{refused} of {len(OTHER_INPUTS)} other inputs refused"
    )
    assert len(killed) == KILLS
    assert counts["finished"] == NUMBER
    assert counts["failed"] == 0
    assert merge(folder, tmp_path / "out.lmdb").written == NUMBER
    outcomes = relax_many(slow_model(), slabs(NUMBER), fmax=1e-3, steps=60)
    results = open_dataset(tmp_path / "out.lmdb")
    assert [a.info["screen_index"] for a in results] == list(range(NUMBER))
    for atoms, outcome in zip(results, outcomes, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(outcome.energy, abs=1e-8)
        np.testing.assert_allclose(atoms.positions, outcome.atoms.positions, rtol=0, atol=1e-8)
        assert atoms.info["steps"] == outcome.steps
    assert list((folder / "work").iterdir()) == []
    assert len(list((folder / "results").iterdir())) == NUMBER // SETTINGS["chunk"]


@pytest.mark.slow
def test_a_structure_that_ends_its_process_is_one_failed_record(tmp_path):
    given = slabs(6)
    given[2] = Atoms("Ne2", positions=[[0, 0, 0], [0, 0, 3.0]])
    counts = screen(slow_model(), given, tmp_path, workers=2, retries=0, **SETTINGS)
    assert counts == {"finished": 6, "failed": 1, "computed": 6}
    failures = merge(tmp_path, tmp_path / "out.lmdb").failures
    assert [f["name"] for f in failures] == ["Structure 2 (Ne2)"]
    assert status(tmp_path)["complete"]


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(
        f"import sys\nsys.path.insert(0, {HELPERS!r})\n"
        "from scale_workers import screen_slabs\n"
        f"screen_slabs({str(tmp_path / 'run')!r}, 2, 0.0, None, workers=1)\n"
    )
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "TaskError: A process of this machine ended before it had begun" in done.stderr
    said, guide = done.stderr.splitlines()[-2:]
    assert said.count('if __name__ == "__main__":') == 1
    assert guide.startswith("See docs/scale.md")
