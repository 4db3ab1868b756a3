"""Screening: chunks in order, failures by name, nothing computed twice, no other input goes on."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from scale_workers import SETTINGS, slabs, slow_model

from ase_nnp import open_dataset
from ase_nnp.errors import ConfigError, DatasetError, StructureError, TaskError
from ase_nnp.workflows.batched import relax_many
from ase_nnp.workflows.screening import merge, screen, status
from ase_nnp.workflows.tasks import ModelTask


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def relaxed(structures):
    return relax_many(slow_model(), structures, fmax=SETTINGS["fmax"], steps=SETTINGS["steps"])


def same(merged, outcomes):
    assert [a.info["screen_index"] for a in merged] == [o.index for o in outcomes]
    for atoms, outcome in zip(merged, outcomes, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(outcome.energy, abs=1e-8)
        np.testing.assert_allclose(atoms.positions, outcome.atoms.positions, rtol=0, atol=1e-8)
        assert atoms.info["steps"] == outcome.steps
        assert atoms.info["converged"] == outcome.converged
        assert atoms.info["number"] == outcome.atoms.info["number"]


@pytest.mark.slow
def test_a_screening_is_the_batched_relaxation_in_the_order_of_the_input(tmp_path, pool):
    given = slabs(6)
    counts = screen(slow_model(), given, tmp_path / "run", executor=pool, **SETTINGS)
    assert counts == {"finished": 6, "failed": 0, "computed": 6}
    merged = merge(tmp_path / "run", tmp_path / "out.lmdb")
    assert (merged.written, merged.missing, merged.failures) == (6, 0, [])
    same(open_dataset(tmp_path / "out.lmdb"), relaxed(given))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "lock", "results", "run.json", "work",
    ]  # fmt: skip
    assert list((tmp_path / "run" / "work").iterdir()) == []


def test_finished_work_is_never_done_again(tmp_path, pool):
    log = tmp_path / "log"
    screen(slow_model(), slabs(5), tmp_path / "run", executor=pool, **SETTINGS)
    again = screen(slow_model(log=log), slabs(5), tmp_path / "run", executor=pool, **SETTINGS)
    assert again == {"finished": 5, "failed": 0, "computed": 0}
    assert not log.exists()


@pytest.mark.slow
def test_shards_together_are_the_whole(tmp_path, pool):
    given = slabs(9)
    for part in (2, 0):
        screen(slow_model(), given, tmp_path / "run", executor=pool, shard=(part, 3), **SETTINGS)
    state = status(tmp_path / "run")
    assert (state["total"], state["finished"], state["complete"]) == (9, 5, False)
    with pytest.raises(DatasetError, match="4 of 9 structures are not done"):
        merge(tmp_path / "run", tmp_path / "out.lmdb")
    assert merge(tmp_path / "run", tmp_path / "part.lmdb", partial=True).written == 5
    screen(slow_model(), given, tmp_path / "run", executor=pool, shard=(1, 3), **SETTINGS)
    assert status(tmp_path / "run")["complete"]
    merge(tmp_path / "run", tmp_path / "out.lmdb")
    same(open_dataset(tmp_path / "out.lmdb"), relaxed(given))
    with pytest.raises(DatasetError, match="exists already"):
        merge(tmp_path / "run", tmp_path / "out.lmdb")


class Torn(list):
    """A list with a record that cannot be read."""

    def __getitem__(self, index):
        if isinstance(index, slice):
            raise TypeError("single places only")
        if index == 5:
            raise DatasetError("torn", path="slabs.lmdb")
        return super().__getitem__(index)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["relax", "predict"])
def test_one_bad_structure_is_one_failed_record(tmp_path, pool, task):
    given = Torn(slabs(7))
    given[1] = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, np.nan]], info={"sid": 5})
    counts = screen(slow_model(), given, tmp_path / "run", task=task, executor=pool, **SETTINGS)
    assert counts == {"finished": 7, "failed": 2, "computed": 7}
    merged = merge(tmp_path / "run", tmp_path / "out.lmdb")
    assert [f["index"] for f in merged.failures] == [1, 5]
    assert merged.failures[0]["name"] == "Structure 1 (Cu2, id 5)"
    assert "finite" in merged.failures[0]["error"].lower() or "nan" in str(merged.failures).lower()
    assert "torn" in merged.failures[1]["error"]
    indices = [a.info["screen_index"] for a in open_dataset(tmp_path / "out.lmdb")]
    assert indices == [0, 2, 3, 4, 6]
    assert status(tmp_path / "run")["failed"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda given, options: given[6].positions.__setitem__((0, 0), 9.0), "number 6 of 7"),
        (lambda given, options: given[0].numbers.__setitem__(0, 28), "number 0 of 7"),
        (lambda given, options: given[2].set_constraint(), "number 2 of 7"),
        (lambda given, options: given.pop(), "structures: 7 there, 6 here"),
        (lambda given, options: given.reverse(), "number 0 and 5 more of 7"),
        (lambda given, options: options.update(fmax=0.1), "fmax: 0.001 there, 0.1 here"),
        (lambda given, options: options.update(task="predict"), "task: 'relax' there"),
        (lambda given, options: options.update(chunk=3), "chunk: 4 there, 3 here"),
    ],
)
def test_another_input_does_not_go_on(tmp_path, pool, change, said):
    screen(slow_model(), slabs(7), tmp_path / "run", executor=pool, shard=(0, 2), **SETTINGS)
    given, options = slabs(7), dict(SETTINGS)
    change(given, options)
    with pytest.raises(ConfigError, match=f"holds another run.*{said}"):
        screen(slow_model(), given, tmp_path / "run", executor=pool, **options)
    assert status(tmp_path / "run")["finished"] == 4


def test_another_model_does_not_go_on(tmp_path, pool):
    screen(slow_model(), slabs(2), tmp_path / "run", executor=pool, **SETTINGS)
    other = slow_model()
    other.config = {"epsilon": 0.5}
    with pytest.raises(ConfigError, match=r"holds another run \(model"):
        screen(other, slabs(2), tmp_path / "run", executor=pool, **SETTINGS)


def test_the_size_of_a_chunk_is_kept_with_the_run(tmp_path, pool):
    options = {"fmax": 0.1, "steps": 1, "executor": pool}
    screen(slow_model(), slabs(9), tmp_path / "run", workers=1, **options)
    assert status(tmp_path / "run")["chunks"] == 3
    counts = screen(slow_model(), slabs(9), tmp_path / "run", workers=8, **options)
    assert counts["computed"] == 0


class Breaking(Executor):
    """Threads of which each answer is lost a number of times: how an engine tells of a death."""

    def __init__(self, losses, deadly=(), calls=None) -> None:
        self.losses, self.deadly = losses, deadly
        self.calls: list[tuple[int, int]] = [] if calls is None else calls

    def submit(self, function, piece):
        future: Future = Future()
        self.calls.append((piece.first, piece.last))
        kills = any(piece.first <= k < piece.last for k in self.deadly)
        if kills or self.calls.count((piece.first, piece.last)) <= self.losses:
            future.set_exception(BrokenExecutor("a process died") if self.losses else OSError("x"))
        else:
            future.set_result(function(piece))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False) -> None:
        pass


@pytest.mark.slow
def test_the_structure_that_kills_its_process_is_found_and_no_other_is_blamed(tmp_path):
    def executor():
        return Breaking(0, deadly=(5,))

    given = slabs(9)
    counts = screen(slow_model(), given, tmp_path / "run", executor=executor, **SETTINGS)
    assert counts == {"finished": 9, "failed": 1, "computed": 9}
    merged = merge(tmp_path / "run", tmp_path / "out.lmdb")
    assert [(f["index"], f["name"]) for f in merged.failures] == [(5, "Structure 5 (Cu8O)")]
    assert "process died" in merged.failures[0]["error"]
    outcomes = relaxed(given)
    same(open_dataset(tmp_path / "out.lmdb"), outcomes[:5] + outcomes[6:])
    again = screen(slow_model(), given, tmp_path / "run", executor=executor, **SETTINGS)
    assert again["computed"] == 0


def test_a_process_that_dies_is_no_structures_fault(tmp_path):
    calls: list[tuple[int, int]] = []
    counts = screen(
        slow_model(), slabs(6), tmp_path / "run", executor=lambda: Breaking(1, calls=calls),
        **SETTINGS,
    )  # fmt: skip
    assert calls.count((0, 4)) == calls.count((4, 6)) == 2
    assert counts == {"finished": 6, "failed": 0, "computed": 6}


def test_an_executor_that_loses_everything_blames_no_structure(tmp_path):
    with pytest.raises(TaskError, match="every process died"):
        screen(
            slow_model(), slabs(3), tmp_path / "run",
            executor=Breaking(0, deadly=range(3)), **SETTINGS,
        )  # fmt: skip
    assert status(tmp_path / "run")["finished"] == 0


def test_what_goes_wrong_beside_the_structures_ends_the_run_with_the_reason(tmp_path, pool):
    folder = tmp_path / "run"
    screen(slow_model(), slabs(6), folder, executor=pool, shard=(0, 2), **SETTINGS)
    (folder / "work" / "000000004-000000006").write_text("in the way")
    with pytest.raises(TaskError, match=r"Structures 4 to 5: DatasetError.*cannot be written"):
        screen(slow_model(), slabs(6), folder, executor=pool, **SETTINGS)
    assert status(folder)["finished"] == 4


@pytest.mark.parametrize("name", ["run.json", "results/000000000-000000004"])
def test_damage_is_our_error_and_never_another_result(tmp_path, pool, name):
    folder = tmp_path / "run"
    screen(slow_model(), slabs(4), folder, executor=pool, **{**SETTINGS, "steps": 2})
    merge(folder, tmp_path / "good.lmdb")
    expected = list(open_dataset(tmp_path / "good.lmdb"))
    path, rng = folder / name, np.random.default_rng(0)
    whole, refused = path.read_bytes(), 0
    for number in range(60):
        content = bytearray(whole)
        spot = int(rng.integers(len(content)))
        if number % 3 == 0:
            del content[spot:]
        else:
            content[spot] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            merge(folder, tmp_path / "out.lmdb", overwrite=True)
            screen(slow_model(), slabs(4), folder, executor=pool, **{**SETTINGS, "steps": 2})
        except (DatasetError, ConfigError):
            refused += 1
        else:
            merged = list(open_dataset(tmp_path / "out.lmdb"))
            assert [len(a) for a in merged] == [len(a) for a in expected]
            for one, two in zip(merged, expected, strict=True):
                assert one.get_potential_energy() == pytest.approx(two.get_potential_energy())
    assert refused > 50


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no screening run"):
        status(tmp_path)
    with pytest.raises(DatasetError, match="no screening run"):
        merge(tmp_path, tmp_path / "out.lmdb")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shard": (2, 2)}, "shards count from 0 to 1"),
        ({"chunk": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"task": "dance"}, "No task 'dance'"),
        ({"optimizer": "Magic"}, "No batched optimizer 'Magic'"),
        ({"fmaxx": 1}, "No option fmaxx"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_before_anything_is_made(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        screen(slow_model(), slabs(2), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_task_is_callable_and_raises_what_a_structure_has_wrong():
    task = ModelTask(slow_model(), fmax=1e-3, steps=60)
    one = slabs(1)
    assert task(one[0]).get_potential_energy() == pytest.approx(relaxed(one)[0].energy, abs=1e-10)
    with pytest.raises(TaskError, match="no atoms"):
        task(Atoms())
    with pytest.raises((StructureError, TaskError)):
        ModelTask(slow_model(), task="predict")(Atoms("Cu", positions=[[np.nan, 0, 0]]))
