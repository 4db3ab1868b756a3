"""Batched runs that are interrupted, damaged, or called with what is not as it was."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from lj_model import LennardJones

from ase_nnp import NNPCalculator, save_model
from ase_nnp.errors import AseNnpError, ConfigError, DatasetError
from ase_nnp.workflows.batched import iter_relax, relax_many, run_dynamics


class Counting(LennardJones):
    """Lennard-Jones that counts its calls and does something at one of them."""

    def __init__(self, at: int = -1, action=None) -> None:
        super().__init__(0.4, 2.3, 6.0)
        self.calls, self.at, self.action = 0, at, action

    def energies(self, graph):
        self.calls += 1
        if self.calls == self.at:
            self.action()
        return super().energies(graph)


def model(at: int = -1, action=None) -> Counting:
    return Counting(at, action).to(torch.float64).eval()


def structures() -> list[Atoms]:
    made = []
    for seed in range(4):
        atoms = fcc111("Cu", (2, 2, 1 + seed % 2), a=3.3, vacuum=6.0)
        atoms.rattle(0.1, seed=seed)
        made.append(atoms)
    return made


OPTIONS = {"fmax": 1e-4, "steps": 25, "batch": 10**6}


def same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.index, a.status, a.steps, a.reason) == (b.index, b.status, b.steps, b.reason)
        assert a.energy == (None if b.energy is None else pytest.approx(b.energy, rel=1e-12))
        np.testing.assert_allclose(a.atoms.positions, b.atoms.positions, atol=1e-12)
        np.testing.assert_allclose(a.atoms.cell.array, b.atoms.cell.array, atol=1e-12)


@pytest.fixture
def interruptible():
    """The usual answer to SIGINT, which a shell switches off for what it runs behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def raise_interrupt():
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to itself")
@pytest.mark.parametrize("how", ["raised", "signal", "signal in another thread's time"])
def test_an_interrupt_loses_no_step(tmp_path, how, interruptible):
    whole = model()
    expected = relax_many(whole, structures(), folder=tmp_path / "whole", **OPTIONS)

    def interrupt():
        if how == "signal in another thread's time":
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        elif how == "signal":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raise KeyboardInterrupt

    total = 0
    for at in (1, 2, 5, 9, 3):
        broken = model(at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            relax_many(broken, structures(), folder=tmp_path / "run", **OPTIONS)
        total += broken.calls
    last = model()
    same(relax_many(last, structures(), folder=tmp_path / "run", **OPTIONS), expected)
    total += last.calls
    assert whole.calls <= total <= whole.calls + 5  # the call that was interrupted, no other
    for k in range(4):
        name = f"{k:06d}.traj"
        from ase.io import read

        ours, theirs = (read(tmp_path / f / name, ":") for f in ("run", "whole"))
        assert [a.info["step"] for a in ours] == [a.info["step"] for a in theirs]


def test_an_interrupt_from_the_progress_of_a_dynamics_loses_no_step(tmp_path):
    options = {"steps": 20, "temperature_K": 200, "batch": 10**6, "seed": 3}
    expected = run_dynamics(model(), structures(), "langevin", **options)
    seen = []

    def progress(now):
        seen.append(now)
        if len(seen) == 7:
            raise KeyboardInterrupt

    first = model()
    options["folder"] = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_dynamics(first, structures(), "langevin", progress=progress, **options)
    second = model()
    same(run_dynamics(second, structures(), "langevin", **options), expected)
    assert first.calls + second.calls == 21


def test_a_caller_who_has_seen_enough_can_go_on_later(tmp_path):
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    going = iter_relax(model(), short, folder=tmp_path / "run", **OPTIONS)
    assert next(going).index == 0
    going.close()
    last = model()
    relax_many(last, short, folder=tmp_path / "run", **OPTIONS)
    whole = model()
    relax_many(whole, short, **OPTIONS)
    assert last.calls < whole.calls


class Shelf:
    """A dataset with a record that cannot be read, and one that is no structure."""

    def __init__(self, error: Exception) -> None:
        self.items, self.error = [*structures(), None], error

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        if index == 1:
            raise self.error
        return self.items[index]


@pytest.mark.parametrize("error", [DatasetError("torn"), OSError(5, "torn"), KeyError("torn")])
def test_an_unreadable_record_is_one_failed_record(tmp_path, error):
    expected = relax_many(model(), structures(), **OPTIONS)
    for _ in range(2):  # the second time from the folder
        outcomes = relax_many(model(), Shelf(error), folder=tmp_path / "run", **OPTIONS)
        assert [o.status for o in outcomes].count("failed") == 2
        assert "torn" in outcomes[1].reason
        assert "NoneType" in outcomes[4].reason
        same([outcomes[k] for k in (0, 2, 3)], [expected[k] for k in (0, 2, 3)])
        assert len(outcomes[1].atoms) == 0
    last = run_dynamics(model(), Shelf(error), "nve", steps=2)
    assert [o.status for o in last] == ["finished", "failed", "finished", "finished", "failed"]


def test_one_structure_a_generator_and_a_tuple_are_lists_of_structures():
    expected = relax_many(model(), structures(), **OPTIONS)
    same(relax_many(model(), (a for a in structures()), **OPTIONS), expected)
    same(relax_many(model(), tuple(structures()), **OPTIONS), expected)
    one = relax_many(model(), structures()[0], **OPTIONS)
    assert len(one) == 1
    assert one[0].energy == pytest.approx(expected[0].energy, abs=1e-10)
    assert relax_many(model(), [], **OPTIONS) == []


@pytest.mark.parametrize("given", [None, 3, "slabs.extxyz", Path("slabs.extxyz"), {"a": 1}])
def test_what_is_no_structure_is_refused_by_name(given):
    with pytest.raises(ConfigError, match=type(given).__name__):
        relax_many(model(), given)


def test_a_model_may_be_named_as_everywhere(tmp_path):
    import ase_nnp

    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    potential = ase_nnp.build_model("cgcnn_oc20", config, seed=0, device="cpu", dtype="float64")
    save_model(potential, tmp_path / "m.nnp")
    given = [bulk("Cu", cubic=True)]
    expected = relax_many(potential, given, steps=2)
    same(relax_many(NNPCalculator(potential), given, steps=2), expected)
    named = relax_many(str(tmp_path / "m.nnp"), given, steps=2)
    assert named[0].energy == pytest.approx(expected[0].energy, abs=1e-5)
    with pytest.raises(ConfigError, match="A model was expected"):
        relax_many(3, given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"maxatoms": 3}, "No option maxatoms"),
        ({"interval": 0}, "interval"),
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"max_atoms": 0}, "max_atoms"),
        ({"trajectory": "xyz"}, "trajectory"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        relax_many(model(), structures(), **options)


def interrupted(folder: Path) -> None:
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    with pytest.raises(KeyboardInterrupt):
        relax_many(model(9, raise_interrupt), short, folder=folder, **OPTIONS)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"fmax": 0.1}, "fmax"),
        ({"steps": 26}, "steps"),
        ({"optimizer": "BFGS"}, "method"),
        ({"interval": 2}, "interval"),
        ({"cell": True}, "cell"),
    ],
)
def test_other_settings_do_not_go_on(tmp_path, other, said):
    interrupted(tmp_path / "run")
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    with pytest.raises(ConfigError, match=f"holds another run.*{said}"):
        relax_many(model(), short, folder=tmp_path / "run", **{**OPTIONS, **other})


def test_another_model_does_not_go_on(tmp_path):
    interrupted(tmp_path / "run")
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    other = model().to(torch.float32)
    other.register_buffer("weight", torch.ones(1))
    with pytest.raises(ConfigError, match=r"holds another run .model"):
        relax_many(other, short, folder=tmp_path / "run", **OPTIONS)


def test_a_finished_run_is_not_returned_for_other_structures(tmp_path):
    cu = [bulk("Cu", a=3.5, cubic=True)]
    relax_many(model(), cu, folder=tmp_path / "run", **OPTIONS)
    ni = [bulk("Ni", a=3.5, cubic=True)]
    with pytest.raises(ConfigError, match="structures: number 0 of 1 differ"):
        relax_many(model(), ni, folder=tmp_path / "run", **OPTIONS)


def test_damage_is_our_error_and_never_another_result(tmp_path):
    rng = np.random.default_rng(0)
    interrupted(tmp_path / "run")
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    expected = relax_many(model(), short, **OPTIONS)
    files = ["checkpoint", "results.jsonl", "run.json"]
    files += [f"frames/{p.name}" for p in sorted((tmp_path / "run" / "frames").iterdir())]
    refused = 0
    for number in range(60):
        folder = tmp_path / f"copy{number}"
        copy_folder(tmp_path / "run", folder)
        path = folder / files[number % len(files)]
        content = bytearray(path.read_bytes())
        spot = int(rng.integers(len(content)))
        if number % 3 == 0:
            del content[spot:]
        else:
            content[spot] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            outcomes = relax_many(model(), short, folder=folder, **OPTIONS)
        except AseNnpError:
            refused += 1
        else:
            same(outcomes, expected)
    assert refused > 50


def copy_folder(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


def test_unfinished_files_of_a_dead_process_are_removed(tmp_path):
    interrupted(tmp_path / "run")
    for name in (".checkpoint.0a-1-00.part", ".000001.traj.0a-1-00.part.traj"):
        (tmp_path / "run" / name).write_bytes(b"half")
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    relax_many(model(), short, folder=tmp_path / "run", **OPTIONS)
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_folder_that_cannot_be_written_is_our_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        relax_many(model(), structures(), folder=tmp_path / "file" / "run", **OPTIONS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
@pytest.mark.parametrize("name", ["run.json", "checkpoint", "results.jsonl", "frames"])
@pytest.mark.parametrize("what", ["pipe", "folder", "file", "nothing in it"])
def test_what_lies_in_the_way_is_our_error(tmp_path, name, what):
    folder = tmp_path / "run"
    short = [bulk("Cu", a=3.3, cubic=True), *structures()]
    interrupted(folder)
    path = folder / name
    path.rename(tmp_path / "aside")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        (path / "000003.bin").mkdir(parents=True)
    else:
        path.write_text("{}" if what == "file" else "")
    with pytest.raises(AseNnpError):
        relax_many(model(), short, folder=folder, **OPTIONS)
