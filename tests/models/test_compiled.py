"""Compiled models give the model's numbers, and only their own code is ever loaded."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from traceable_models import SMALL

import ase_nnp
from ase_nnp import BatchingCalculator, NNPCalculator, Predictor
from ase_nnp.errors import ConfigError
from ase_nnp.models.code_cache import cached_code, code_key, private_folder
from ase_nnp.models.compiled import CompiledModel, graph_function
from ase_nnp.models.tracing import _write_loops
from ase_nnp.uncertainty import DeepEnsemble


class Pairs(ase_nnp.Conservative):
    """A formula without a family."""

    cutoff = 3.0
    strength = 1.0

    def energies(self, graph):
        """Half a spring an edge."""
        pair = self.strength * (1 - graph.edge_vectors().norm(dim=1) / self.cutoff) ** 2
        energy = pair.new_zeros(graph.num_structures)
        return energy.index_add(0, graph.batch[graph.edge_index[1]], pair)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("ASE_NNP_CACHE", str(folder))
    monkeypatch.setattr("ase_nnp.models.compiled._loaded", {})
    return folder


def structures() -> list[Atoms]:
    """None has as many atoms as those that a trace is made with: 4, 8 or 24 together."""
    made = [fcc111("Cu", (2, 2, 3), vacuum=6.0), molecule("CH3OH"), bulk("Cu"), Atoms("O")]
    # Where a model keeps the nearest neighbors only, whole shells would tie for the last places.
    shear = np.array([[1.02, 0.03, 0.0], [0.0, 0.97, 0.05], [0.01, 0.0, 1.0]])
    made[2].set_cell(made[2].cell @ shear, scale_atoms=True)
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
        atoms.info.clear()
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dtype"), [("lj", "float64"), ("facet", "float32"), ("cgcnn_oc20", "float64")]
)
def test_a_compiled_model_gives_the_models_numbers(family, dtype, own_cache):
    model = ase_nnp.build_model(family, SMALL[family], seed=1, device="cpu", dtype=dtype)
    plain, compiled = NNPCalculator(model), NNPCalculator(model, compile=True)
    exact = NNPCalculator(copy.deepcopy(model), dtype="float64")
    part = {"float32": 2e-5, "float64": 1e-10}[dtype]
    for atoms in structures():
        wanted = ["energy", "forces", *(["stress"] if atoms.cell.rank == 3 else [])]
        for name in wanted:
            expected = np.asarray(plain.get_property(name, atoms))
            size = max(np.abs(expected).max(), 1.0 if name != "stress" else 0.01)
            found = compiled.get_property(name, atoms)

            # A stress is a small difference of large numbers: the model's own last bits count.
            own = np.abs(expected - exact.get_property(name, atoms)).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=max(part * size, 4 * own))

    # As one batch too, on which it was not traced.
    one, two = (Predictor(model, max_edges=10**9, compile=c)(structures()) for c in (True, False))
    for found, expected in zip(one, two, strict=True):
        size = max(np.abs(expected["forces"]).max(), 1.0)
        np.testing.assert_allclose(found["forces"], expected["forces"], atol=part * size)
        assert found.keys() == expected.keys()


USER = """
import sys
from ase.build import bulk
from ase_nnp import NNPCalculator
atoms = bulk("Cu", a=2.4)
atoms.calc = NNPCalculator("zbl", compile=True)
print(repr(atoms.get_potential_energy()))
"""


@pytest.mark.slow
def test_another_process_reads_the_code_and_a_damaged_file_is_made_again(own_cache, monkeypatch):
    def energy(**changes):
        command = [sys.executable, "-W", "ignore", "-c", USER]
        env = {**os.environ, **changes}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    first = energy()
    assert first.returncode == 0, first.stderr
    (file,) = (own_cache / "compiled").glob("*.pt2")
    assert file.stat().st_mode & 0o077 == 0

    # Where there is no compiler, nothing can be made.
    second = energy(CXX="/no/compiler")
    assert second.stdout == first.stdout, second.stderr
    other_threads = energy(CXX="/no/compiler", OMP_NUM_THREADS="2")
    assert "compiler" in other_threads.stderr

    file.write_bytes(file.read_bytes()[:1000])
    assert "compiler" in energy(CXX="/no/compiler").stderr
    third = energy()
    assert third.stdout == first.stdout, third.stderr


@pytest.mark.slow
def test_clones_copies_and_pickles_are_compiled_too(own_cache):
    model = ase_nnp.build_model("lj", {}, device="cpu")
    calc = BatchingCalculator(model, compile=True)
    atoms = bulk("Cu")
    expected = calc.get_potential_energy(atoms)
    for twin in (calc.clone(), copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        twin.reset()
        assert twin.get_potential_energy(atoms) == pytest.approx(expected, rel=1e-6)
    assert len(list((own_cache / "compiled").glob("*.pt2"))) == 1


@pytest.mark.parametrize("family", ["lj", "cgcnn_oc20"])
def test_a_model_that_has_changed_is_refused(family, own_cache, monkeypatch):
    # What is compiled does not matter here, and takes a minute.
    monkeypatch.setattr("ase_nnp.models.compiled._made", lambda model, _: graph_function(model))
    model = ase_nnp.build_model(family, SMALL[family], seed=1, device="cpu").eval()
    graph = model.make_graph(bulk("Cu"))
    compiled = CompiledModel(model)
    expected = model.compute(graph, ("energy",))["energy"]
    assert compiled.compute(graph)["energy"].item() == pytest.approx(expected.item())

    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(0.1)
    if family == "lj":
        model.to(torch.float64)
    with pytest.raises(ConfigError, match="has changed since it was compiled"):
        compiled.check_weights()


def test_what_cannot_be_compiled_is_refused_with_the_reason(own_cache):
    with pytest.raises(ConfigError, match=r"corrections: zbl"):
        NNPCalculator("lj", corrections=["zbl"], compile=True)
    model = ase_nnp.build_model("lj", {}, device="cpu")
    with pytest.raises(ConfigError, match="uncertainty=False"):
        NNPCalculator(DeepEnsemble([model, copy.deepcopy(model)]), compile=True)
    with pytest.raises(ConfigError, match="leave one out"):
        NNPCalculator("lj", precision="bf16", compile=True)

    charged = Pairs()
    charged.required_inputs = ("charge",)
    with pytest.raises(ConfigError, match="reads charge beside geometry"):
        Predictor(charged, compile=True)
    assert not list(own_cache.iterdir())


def test_without_a_compiler_nothing_is_made_and_the_error_says_so(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", str(own_cache / "no-compiler"))
    with pytest.raises(ConfigError, match=r"no g\+\+ or clang\+\+"):
        CompiledModel(Pairs())
    assert not list(own_cache.rglob("*.pt2"))


def test_a_key_says_weights_attributes_precision_and_threads():
    model = ase_nnp.build_model("cgcnn_oc20", SMALL["cgcnn_oc20"], seed=1, device="cpu")
    key = code_key(model)
    assert code_key(copy.deepcopy(model)) == key
    other = ase_nnp.build_model("cgcnn_oc20", SMALL["cgcnn_oc20"], seed=2, device="cpu")
    stronger = Pairs()
    stronger.strength = 2.0
    keys = {key, code_key(other), code_key(copy.deepcopy(model).double()), code_key(Pairs())}
    assert len(keys | {code_key(stronger)}) == 5

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert code_key(model) != key
    finally:
        torch.set_num_threads(threads)


def test_a_class_without_a_source_file_has_no_key():
    names = {"ase_nnp": ase_nnp, "__name__": "nowhere"}
    exec("class Zero(ase_nnp.Conservative):\n    cutoff = 3.0", names)
    assert code_key(names["Zero"]()) is None


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_to_is_refused(own_cache, mode):
    private_folder().chmod(mode)
    with pytest.raises(ConfigError, match="others can write"):
        private_folder()


def test_a_folder_below_one_that_everybody_can_write_to_is_refused(own_cache):
    own_cache.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody can write"):
        private_folder()
    own_cache.chmod(0o1777)  # nobody can replace what is in a folder such as /tmp
    assert private_folder().stat().st_mode & 0o077 == 0


def test_a_file_that_others_can_write_or_a_link_is_not_taken(own_cache):
    folder = private_folder()
    file = folder / "key.pt2"
    file.touch(mode=0o600)
    assert cached_code(folder, "key") == file
    file.chmod(0o606)
    assert cached_code(folder, "key") is None
    file.rename(folder / "other.pt2").chmod(0o600)
    file.symlink_to(folder / "other.pt2")
    assert cached_code(folder, "key") is None


@pytest.mark.slow
def test_products_of_small_matrices_become_sums_with_the_same_numbers():
    from torch.fx.experimental.proxy_tensor import make_fx

    small, large = (torch.rand(12, 3), torch.rand(3, 64)), (torch.rand(9, 12), torch.rand(12, 9))

    def products(scale):
        made = []
        for one, other in (small, large):
            stack = scale[:, None, None] * other
            made.append(torch.bmm(scale[:, None, None] * one, stack))
        return made

    scale = torch.rand(7)
    traced = make_fx(products, tracing_mode="symbolic", _allow_non_fake_inputs=True)(scale)
    _write_loops(traced.graph)
    traced.recompile()
    left = [node for node in traced.graph.nodes if node.target is torch.ops.aten.bmm.default]
    assert len(left) == 1
    for found, expected in zip(traced(scale), products(scale), strict=True):
        torch.testing.assert_close(found, expected)
