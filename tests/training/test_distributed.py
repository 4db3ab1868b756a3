"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ase_nnp.training.run_callbacks import read_checkpoint

SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r}); sys.path.insert(0, {here!r})
import importlib, torch
torch.set_num_threads(1)
import ase_nnp
from ase_nnp.registry.installed import installed
installed().add_plugin("pairs", lambda: importlib.import_module("pair_plugin"))
from conftest import labeled
from ase_nnp.training import Settings, fit

folder, devices, batch = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model = ase_nnp.build_model("pairs", seed=0, device="cpu", dtype="float64")
settings = Settings(epochs=3, batch=batch, optimizer={{"lr": 1e-2}}, devices=devices,
                    accelerator="cpu", progress=False)
frames = labeled(13)
for atoms in frames[:3]:
    del atoms.calc.results["forces"]  # means must be over what is there
result = fit(model, frames, labeled(5, seed=1), settings, folder=folder)
"""


def start(folder, script, world, batch):
    """Run the script as torchrun would, with the environment that it sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(world):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if world > 1:
            env |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "GROUP_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "test",
            }
        command = [sys.executable, str(script), str(folder), str(world), json.dumps(batch)]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said
    state = read_checkpoint(folder / "last.ckpt")
    return state["position"], state["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [{"structures": 4}, {"atoms": 17}], ids=str)
def test_two_processes_give_the_losses_and_weights_of_one(tmp_path, batch):
    here = Path(__file__).parent
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(here.parent / "helpers"), here=str(here)))
    one, rows = start(tmp_path / "one", script, 1, batch)
    two, others = start(tmp_path / "two", script, 2, batch)
    for row, other in zip(rows, others, strict=True):
        for name in set(row) - {"seconds"}:
            assert other[name] == pytest.approx(row[name], rel=1e-9), name
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-7, atol=1e-10)
