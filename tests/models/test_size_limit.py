"""A configuration is a few words, and one of them may ask for a model of any size."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import ase_nnp
from ase_nnp import CheckpointError, ModelFamily
from ase_nnp.models.size_limit import SPARE, no_larger_than
from ase_nnp.models.tensors import read_sealed, write_sealed
from ase_nnp.registry.installed import installed
from ase_nnp.uncertainty import load_uncertainty, save_uncertainty, wrap


class Layers(ase_nnp.Conservative):
    def __init__(self, width, layers, table):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(layers))
        self.register_buffer("table", torch.linspace(0, 1, table), persistent=False)

    def energies(self, graph):
        return graph.positions.new_zeros(graph.num_structures)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A sealed file of a small model, written again with another configuration."""
    defaults = {"width": 4, "layers": 2, "table": 8}
    family = ModelFamily(
        name="layers", summary="", build=lambda config: Layers(**config), defaults=defaults
    )
    monkeypatch.setitem(installed().families, "layers", family)
    path = tmp_path / "m.nnp"
    ase_nnp.save_model(ase_nnp.build_model("layers", seed=0, device="cpu"), path)

    def changed(**config):
        header, tensors = read_sealed(path, "ase_nnp")
        header["config"] |= config
        write_sealed(path, "ase_nnp", header, tensors)
        return path

    return changed


@pytest.mark.parametrize("config", [{"width": 2**15}, {"layers": 2**40}, {"table": 2**28}], ids=str)
def test_a_small_file_makes_no_large_model(file, config):
    with pytest.raises(CheckpointError, match="many more numbers than the file holds"):
        ase_nnp.load_model(file(**config), device="cpu")
    # The limit is of the loading alone: whoever writes a configuration means it.
    torch.nn.Embedding(2 * SPARE, 1, device="meta")


@pytest.mark.slow
def test_a_file_is_loaded_without_the_compiler(tmp_path):
    model = ase_nnp.build_model("mpnn", seed=0, device="cpu")
    ase_nnp.save_model(model, tmp_path / "m.nnp")
    # Tables of a few numbers, made as facet's and others' are.
    code = (
        "import sys, torch, ase_nnp\n"
        "from ase_nnp.models.size_limit import no_larger_than\n"
        "ase_nnp.load_model(sys.argv[1], device='cpu')\n"
        "with no_larger_than(__import__('pathlib').Path(sys.argv[1])):\n"
        "    torch.eye(3), torch.arange(1.0, 9.0), torch.linspace(0, 1, 8)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.nnp")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "make", [lambda: torch.eye(2**14), lambda: torch.arange(0, 1, 1e-9), lambda: torch.ones(2**25)]
)
def test_one_tensor_is_refused_before_it_is_made(make, tmp_path):
    (tmp_path / "m.nnp").write_bytes(b"")
    with (
        no_larger_than(tmp_path / "m.nnp"),
        pytest.raises(CheckpointError, match="a tensor of shape"),
    ):
        make()


def test_tables_that_a_family_computes_are_no_weights(file):
    model = ase_nnp.load_model(file(table=2**20), device="cpu")
    assert len(model.table) == 2**20


def test_the_members_in_a_file_of_error_bars_are_held_to_it_too(file, tmp_path):
    members = [ase_nnp.load_model(file(), device="cpu") for _ in range(2)]
    save_uncertainty(wrap("ensemble", members), tmp_path / "u.uq")
    header, tensors = read_sealed(tmp_path / "u.uq", "ase_nnp_uncertainty")
    header["layers"][0]["values"]["others"][0]["config"]["width"] = 2**15
    write_sealed(tmp_path / "u.uq", "ase_nnp_uncertainty", header, tensors)
    with pytest.raises(CheckpointError, match="many more numbers"):
        load_uncertainty(tmp_path / "u.uq", members[0])


def test_a_file_of_error_bars_names_no_other_file(file, tmp_path):
    members = [ase_nnp.load_model(file(), device="cpu") for _ in range(2)]
    save_uncertainty(wrap("ensemble", members), tmp_path / "u.uq")
    header, tensors = read_sealed(tmp_path / "u.uq", "ase_nnp_uncertainty")
    (tmp_path / "config.json").write_text('{"epsilon": 1.0}')
    member = header["layers"][0]["values"]["others"][0]
    member |= {"family": "lj", "config": str(tmp_path / "config.json")}
    write_sealed(tmp_path / "u.uq", "ase_nnp_uncertainty", header, tensors)
    with pytest.raises(CheckpointError, match="header is damaged"):
        load_uncertainty(tmp_path / "u.uq", members[0])


def test_modules_of_other_threads_do_not_count(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "empty"
    path.touch()
    with ThreadPoolExecutor(1) as pool, no_larger_than(path):
        pool.submit(lambda: [torch.nn.Linear(2**12, 2**12) for _ in range(2)]).result()
