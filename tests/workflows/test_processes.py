"""Several processes on the same files."""

from __future__ import annotations

import multiprocessing as mp
from pathlib import Path

import numpy as np
import pytest
from process_workers import energy_of, read_through

DATA = Path(__file__).resolve().parents[2] / "data" / "oc20_toy"


@pytest.mark.slow
def test_two_processes_use_one_weights_file(tmp_path):
    from ase_nnp import build_model, save_model

    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    save_model(build_model("cgcnn_oc20", config, seed=0, device="cpu"), tmp_path / "m.nnp")
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=energy_of, args=(tmp_path / "m.nnp", queue)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    energies = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)
    assert np.isfinite(energies[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_read_the_same_lmdb(method):
    from ase_nnp import open_dataset

    dataset = open_dataset(DATA)
    wanted = [float(np.abs(atoms.positions).sum()) for atoms in dataset]  # open here already
    context = mp.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=read_through, args=(dataset, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    np.testing.assert_allclose(answers, [wanted, wanted], rtol=1e-12)
    assert [float(np.abs(atoms.positions).sum()) for atoms in dataset] == wanted
