"""Models in environments of their own: right numbers, only for us, and dead workers come back."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT

import ase_nnp
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError, StructureError, UnsupportedElementError, WorkerError
from ase_nnp.models.remote import worker as protocol
from ase_nnp.models.remote.client import worker_for
from ase_nnp.models.remote.environments import (
    create_environment,
    find_environment,
    list_environments,
    remove_environment,
)
from ase_nnp.registry.installed import Registry

HERE = str(Path(__file__).parents[1] / "helpers")


def model(factory, arguments=None, **options):
    return ase_nnp.remote(
        sys.executable, f"worker_models:{factory}", arguments, path=[HERE], **options
    )


@pytest.fixture(scope="module")
def emt():
    potential = model("emt")
    yield potential
    potential.close()


def structures():
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=1)
    return [slab, crystal, molecule("CO"), bulk("Ni")]


def test_the_numbers_are_those_of_the_calculator(emt):
    found = ase_nnp.predict(emt, structures(), ("energy", "forces", "stress"))
    for atoms, row in zip(structures(), found, strict=True):
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
    potential = model("Batched", reads=("charge",))
    charged = bulk("Cu")
    charged.info["charge"] = 2
    found = ase_nnp.predict(potential, [bulk("Cu"), charged, bulk("Ni")])
    assert [row["energy"] for row in found] == [3.0, 5.0, 3.0]
    potential.close()


def test_workers_make_a_pool_with_error_bars(emt):
    from ase_nnp.uncertainty import fit

    members = [emt, model("emt", {"scale": 1.01})]
    cells = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)] + [bulk("Ni", a=3.5)]
    pool = fit("pool", members, align_on=cells)
    found = ase_nnp.predict(pool, structures()[:2])
    assert all(row["forces_std"].shape == row["forces"].shape for row in found)
    forces = found[1]["forces"]
    # Two members, forces F and 1.01 F: the sample deviation is 0.01 |F| / sqrt(2), pooled over xyz.
    expected = 0.01 * np.linalg.norm(forces / 1.005, axis=1) / np.sqrt(2) / np.sqrt(3)
    np.testing.assert_allclose(found[1]["forces_std"][:, 0], expected, rtol=1e-6)


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


def address(potential):
    return str(potential.worker._running.folder / "socket")


def test_folder_and_socket_are_for_their_owner_alone(emt):
    ase_nnp.predict(emt, [bulk("Cu")])
    folder = Path(address(emt)).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(address(emt)).stat().st_mode) == 0o600
    said = Path(f"/proc/{emt.worker.pid}/cmdline").read_bytes()
    assert emt.worker._running.token.encode() not in said


def test_a_stranger_without_the_token_is_refused(emt):
    ase_nnp.predict(emt, [bulk("Cu")])
    for message in ({"token": "0" * 64}, {}, {"do": "predict"}):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(address(emt))
            protocol.send(stranger, message)
            reply, _ = protocol.receive(stranger)
            assert not reply["ok"]
            with pytest.raises((EOFError, OSError)):
                protocol.receive(stranger)
    assert ase_nnp.predict(emt, [bulk("Cu")])


KNOCK = """
import os, socket, sys
sys.path.insert(0, sys.argv[2])
import worker as protocol
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
try:
    s.connect(sys.argv[1])
except OSError as error:
    print(type(error).__name__)
    sys.exit()
try:  # the door may be shut before the token is out
    protocol.send(s, {"token": sys.argv[3]})
    print(protocol.receive(s)[0]["ok"])
except (OSError, EOFError):
    print("closed")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_with_the_token(emt, tmp_path):
    ase_nnp.predict(emt, [bulk("Cu")])
    place = Path(address(emt))
    copied = tmp_path / "worker.py"  # a place that the other user can read
    script = Path("/tmp") / f"knock-{os.getpid()}"
    script.mkdir(mode=0o755)
    try:
        copied = script / "worker.py"
        copied.write_text(Path(protocol.__file__).read_text())
        arguments = [sys.executable, "-c", KNOCK, str(place), str(script)]
        shut = subprocess.run([*arguments, "x"], capture_output=True, text=True)
        assert shut.stdout.strip() == "PermissionError", shut.stderr
        # Open both doors by hand: what is left is the check of the other side's user.
        place.parent.chmod(0o755)
        place.chmod(0o666)
        token = emt.worker._running.token
        knocked = subprocess.run([*arguments, token], capture_output=True, text=True)
        assert knocked.stdout.strip() in ("False", "closed"), knocked.stderr
    finally:
        place.parent.chmod(0o700)
        place.chmod(0o600)
        shutil.rmtree(script)  # with the byte code that the other user left
    assert ase_nnp.predict(emt, [bulk("Cu")])


def test_another_users_id_is_refused_by_the_check_itself(monkeypatch):
    ours, theirs = socket.socketpair()
    server = object.__new__(protocol.Server)
    server.token = "secret"
    protocol.send(theirs, {"token": "secret"})
    assert server.admits(ours)
    monkeypatch.setattr(protocol, "peer_uid", lambda sock: os.getuid() + 1)
    protocol.send(theirs, {"token": "secret"})
    assert not server.admits(ours)
    ours.close()
    theirs.close()


BAD_MESSAGES = {
    "a giant header": struct.pack("<I", 1 << 31),
    "no JSON": struct.pack("<I", 4) + b"\xff\xff\xff\xff",
    "a list": struct.pack("<I", 2) + b"[]",
    "objects": struct.pack("<I", 35) + b'{"arrays": [["a", "|O", [1]]]}     ',
    "a negative shape": struct.pack("<I", 35) + b'{"arrays": [["a", "<f8", [-1]]]}   ',
    "too much": struct.pack("<I", 45) + b'{"arrays": [["a", "<f8", [9999999999999]]]}  ',
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_what_is_no_message_is_refused(case):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(BAD_MESSAGES[case])
        with pytest.raises(protocol.ProtocolError):
            protocol.receive(ours)


def test_messages_carry_arrays_exactly():
    ours, theirs = socket.socketpair()
    arrays = {
        "a": np.random.default_rng(0).normal(size=(5, 3)),
        "b": np.arange(4),
        "c": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(2.5),
    }
    with ours, theirs:
        protocol.send(ours, {"do": "this"}, arrays)
        header, found = protocol.receive(theirs)
        assert header == {"do": "this"}
        for name, array in arrays.items():
            assert np.array_equal(found[name], array)
        with pytest.raises(protocol.ProtocolError, match="cannot be sent"):
            protocol.send(ours, {}, {"text": np.array(["x"])})


def test_the_worker_ends_with_the_program_that_started_it():
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


# Environments


@pytest.fixture
def environments(tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_ENVIRONMENTS", str(tmp_path / "environments"))
    return tmp_path / "environments"


def bare(name, **options):
    """An environment without pip: quick, and nothing from the network."""
    return create_environment(name, base=(), **options)


def lend(environment, *packages):
    """Give an environment packages of ours by links, as an installation would."""
    import importlib.util

    (site,) = environment.folder.glob("lib/python*/site-packages")
    for name in packages:
        origin = Path(importlib.util.find_spec(name).origin).parent
        (site / name).symlink_to(origin)
        for extra in origin.parent.glob(f"{name}.libs"):
            (site / extra.name).symlink_to(extra)


@pytest.mark.slow
def test_an_environment_with_nothing_but_ase_runs_every_command(
    environments, tmp_path, capsys, monkeypatch
):
    made = bare("emt", calculator="ase.calculators.emt:EMT")
    lend(made, "ase", "numpy", "scipy")
    without = subprocess.run(
        [made.python, "-I", "-c", "import ase_nnp"], capture_output=True, text=True
    )
    assert "ModuleNotFoundError" in without.stderr
    registry = Registry()
    import ase_nnp.models.remote.plugin as plugin

    registry.add_plugin("workers", lambda: plugin)
    assert registry.families["env:emt"].conservative
    monkeypatch.setattr("ase_nnp.models.files.installed", lambda: registry)
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=0)
    crystal.write(tmp_path / "cu.xyz")
    with pytest.raises(SystemExit) as stop:
        main(["predict", "env:emt", str(tmp_path / "cu.xyz"), "--json"])
    assert stop.value.code == 0
    crystal.calc = EMT()
    (row,) = json.loads(capsys.readouterr().out)
    assert row["energy"] == pytest.approx(crystal.get_potential_energy(), abs=1e-6)
    calc = ase_nnp.NNPCalculator("env:emt")
    assert calc.get_property("energy", crystal) == pytest.approx(crystal.get_potential_energy())
    remove_environment("emt")
    assert not environments.joinpath("emt").exists()


def test_an_environment_appears_whole_or_not_at_all(environments):
    with pytest.raises(WorkerError, match="nothing was kept"):
        bare("bad", python="/bin/false")
    assert list_environments() == []
    assert not (environments / "bad").exists()


def test_a_half_made_environment_is_not_there_and_is_made_anew(environments):
    (environments / "half" / "bin").mkdir(parents=True)
    (environments / "half" / "left").write_text("over")
    assert list_environments() == []
    bare("half")
    assert [e.name for e in list_environments()] == ["half"]
    assert not (environments / "half" / "left").exists()


def test_names_and_arguments_are_checked_first(environments):
    for name in ("", "a/b", "../x", "-x"):
        with pytest.raises(ConfigError, match="cannot name"):
            bare(name)
    with pytest.raises(ConfigError, match="JSON"):
        bare("x", arguments={"a": object()})
    with pytest.raises(ConfigError, match="ase-nnp env create"):
        find_environment("x")
    bare("x")
    with pytest.raises(ConfigError, match="already"):
        bare("x")


def test_the_command_line_lists_and_removes(environments, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return stop.value.code, capsys.readouterr()

    bare("one", calculator="a:b", arguments={"k": 1})
    code, out = run("env", "list", "--json")
    assert code == 0
    assert json.loads(out.out)[0]["arguments"] == {"k": 1}
    assert run("env", "create", "two", "--arguments", "[1]")[0] == 2
    assert run("env", "remove", "nobody")[0] == 2
    assert run("env", "remove", "one", "--json")[0] == 0
    assert list_environments() == []


def test_no_file_says_which_code_a_worker_runs(environments, tmp_path):
    import ase_nnp.models.remote.plugin as plugin

    bare("one", calculator="worker_models:emt")
    registry = Registry()
    registry.add_plugin("workers", lambda: plugin)
    evil = tmp_path / "environment.json"
    evil.write_text('{"calculator": "os:system", "arguments": {"command": "true"}}')
    with pytest.raises(ase_nnp.CheckpointError):
        registry.families["env:one"].load(evil)


def test_one_process_has_one_worker_for_one_job(emt):
    assert worker_for(emt.job) is emt.worker
