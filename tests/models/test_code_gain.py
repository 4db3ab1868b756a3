"""Compiled code is used up to the size at which it is the faster one, which is measured once."""

from __future__ import annotations

import json
import math

import pytest
import torch
from ase.build import bulk

import ase_nnp
from ase_nnp import Predictor
from ase_nnp.models import code_gain, compiled
from ase_nnp.models.code_gain import kept_gain, most_edges


@pytest.fixture
def model():
    return ase_nnp.build_model("lj", {}, device="cpu")


def crossing_at(edges, monkeypatch):
    """Let the code seem faster up to so many edges; return the sizes that were looked at."""
    sizes = []

    def seconds(run, own):
        sizes.append(run())
        own()
        return [1.0 if sizes[-1] <= edges else 3.0, 2.0]

    monkeypatch.setattr(code_gain, "_seconds", seconds)
    monkeypatch.setattr(code_gain, "LONG", math.inf)
    return sizes


def test_the_largest_size_that_gained_is_found(model, monkeypatch):
    sizes = crossing_at(5000, monkeypatch)
    found = most_edges(lambda graph: graph.num_edges, model)
    assert sizes == sorted(sizes)
    assert len(sizes) >= 2
    assert found == sizes[-2] <= 5000 < sizes[-1]  # the first that lost is the last looked at


@pytest.mark.parametrize(("edges", "expected"), [(0, 0.0), (math.inf, math.inf)])
def test_never_and_always_are_numbers_too(model, edges, expected, monkeypatch):
    crossing_at(edges, monkeypatch)
    assert most_edges(lambda graph: graph.num_edges, model) == expected


def test_the_model_is_timed_as_it_is_mostly_asked(model, monkeypatch):
    asked = []
    monkeypatch.setattr(model, "compute", lambda graph, outputs: asked.append(set(outputs)))
    crossing_at(math.inf, monkeypatch)
    most_edges(lambda graph: graph.num_edges, model)
    assert "stress" in model.outputs
    assert asked
    assert all(outputs == set(model.outputs) - {"stress"} for outputs in asked)


@pytest.mark.parametrize("found", [1200.0, math.inf])
@pytest.mark.parametrize("before", [None, "{", "[]", '{"most_edges": "many"}'])
def test_it_is_measured_once_and_again_where_the_file_is_damaged(tmp_path, before, found):
    code = tmp_path / "key.pt2"
    if before:
        (tmp_path / "key.json").write_text(before)
    assert kept_gain(code, lambda: found) == found
    assert kept_gain(code, lambda: pytest.fail("measured twice")) == found
    assert json.loads((tmp_path / "key.json").read_text())["most_edges"] in (found, None)


def test_larger_graphs_are_the_models_own(model, tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_loaded", {})

    # The code is told from the model by its energy, which is off by one.
    def code(model, path):
        own = compiled.graph_function(model)
        energy = model.outputs.index("energy")
        return lambda *fields: [v + (k == energy) for k, v in enumerate(own(*fields))]

    small, large = bulk("Ar"), bulk("Ar", cubic=True) * 2
    between = model.make_graph([small]).num_edges
    assert between < model.make_graph([large]).num_edges
    monkeypatch.setattr(compiled, "_made", code)
    monkeypatch.setattr(compiled, "most_edges", lambda run, model: float(between))

    fast, plain = Predictor(model, compile=True), Predictor(model)
    for atoms, off in ((small, 1.0), (large, 0.0)):
        gap = fast([atoms])[0]["energy"] - plain([atoms])[0]["energy"]
        assert float(torch.as_tensor(gap)) == pytest.approx(off, abs=1e-6)
