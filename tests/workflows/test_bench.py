"""``ase-nnp bench``: figures that can be, and the ways they come out."""

from __future__ import annotations

import json

import pytest

from ase_nnp import AtomGraph, build_model
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError
from ase_nnp.workflows.bench import bench, slab


@pytest.fixture(scope="module")
def measured():
    model = build_model("lj", device="cpu").freeze()
    return bench("lj", model, sizes=(8, 64), batches=(1, 4), seconds=0.02)


def test_each_point_counts_atoms_edges_time_and_memory(measured):
    model = build_model("lj", device="cpu")
    for point in (*measured.sizes, *measured.batches):
        made = [slab(model, point.atoms // point.structures)] * point.structures
        graph = AtomGraph.from_atoms(made, model.cutoff)
        assert (point.atoms, point.edges) == (graph.num_atoms, graph.num_edges)
        assert point.graph_ms > 0
        assert point.ms > 0
        assert point.transfer_ms == 0.0  # on a CPU nothing is copied
        assert 50 < point.memory_mb < 50_000
    assert [p.structures for p in measured.batches] == [1, 4]


def test_the_parts_of_a_call_are_smaller_than_the_call(measured):
    large = measured.sizes[-1]
    assert large.graph_ms < 1.5 * large.ms


def test_a_slab_is_of_an_element_that_the_model_knows():
    model = build_model("lj", device="cpu")
    assert set(slab(model, 64).symbols) == {"Cu"}
    model.elements = frozenset({1, 6, 8})
    oxygen = slab(model, 32)
    assert set(oxygen.symbols) == {"O"}
    assert AtomGraph.from_atoms(oxygen, 6.0).num_edges > 32


def test_sizes_below_one_are_refused():
    with pytest.raises(ConfigError, match="above 0"):
        bench("lj", build_model("lj", device="cpu"), sizes=(0,))


def test_the_command_prints_draws_and_names_who_was_left_out(capsys, tmp_path):
    arguments = [
        "bench",
        "lj",
        "--compare-with",
        "no-such-family",
        "--sizes",
        "8",
        "--batches",
        "2",
    ]
    arguments += ["--seconds", "0.02", "--precision", "bf16", "--plot", str(tmp_path / "b.png")]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--device", "cpu", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0
    assert report["models"][0]["sizes"][0]["atoms"] == 8
    assert "no-such-family" in report["refused"]
    assert set(report["precision_errors"]["lj"]) == {"energy_per_atom", "forces"}
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_a_bad_list_of_sizes_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "lj", "--sizes", "few"])
    assert stop.value.code == 2
    assert "--sizes few: whole numbers" in capsys.readouterr().err
