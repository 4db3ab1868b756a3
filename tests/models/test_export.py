"""Exported files give the model's numbers where this package is not."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.io import write
from traceable_models import SMALL

import ase_nnp
from ase_nnp.errors import ConfigError, PredictionError
from ase_nnp.models.export import export_model
from ase_nnp.models.export_check import compare_numbers, sample_structures

#: A host: torch, ASE's own neighbor list and nothing of ours.
HOST = """
import json, sys, warnings
for name in list(sys.modules):
    assert not name.startswith("ase_nnp"), name
sys.modules["ase_nnp"] = None  # importing it is an error from here on
import numpy as np, torch
from ase.io import read
from ase.neighborlist import neighbor_list
warnings.simplefilter("ignore")

path, structures, out = sys.argv[1:]
if "compiled" in path:
    model = torch._inductor.aoti_load_package(path)
    about = json.loads(model.loader.get_metadata()["ase_nnp.json"])
else:
    extra = {"ase_nnp.json": ""}
    model = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra["ase_nnp.json"])
found = {}
for k, atoms in enumerate(read(structures, ":")):
    i, j, shift, d = neighbor_list("ijSd", atoms, about["cutoff"])
    if about["max_neighbors"]:
        order = np.lexsort((d, i))
        rank = np.arange(len(i)) - np.searchsorted(i[order], i[order])
        i, j, shift = (x[order][rank < about["max_neighbors"]] for x in (i, j, shift))
    values = model(
        torch.tensor(atoms.positions), torch.tensor(atoms.numbers), torch.tensor(atoms.cell[None]),
        torch.zeros(len(atoms), dtype=torch.int64), torch.tensor(np.array([j, i])),
        torch.tensor(shift),
    )
    for name, value in zip(about["outputs"], values):
        found[f"{name}{k}"] = value.numpy()
np.savez(out, **found)
"""


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


def in_a_process_of_its_own(file, folder):
    write(folder / "s.extxyz", structures())
    command = [sys.executable, "-I", "-c", HOST, file, folder / "s.extxyz", folder / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out.npz")


def compare(family, format, dtype, folder):
    model = ase_nnp.build_model(family, SMALL[family], seed=1, device="cpu", dtype=dtype)
    file = folder / f"{format}.pt2"
    said = export_model(model, file, format=format)
    assert said["dtype"] == dtype

    found = in_a_process_of_its_own(file, folder)
    bound = {"float32": 1e-6, "float64": 1e-10}[dtype]
    # A host reads positions with the digits of its file, eight here.
    for k, atoms in enumerate(ase_nnp.open_dataset(folder / "s.extxyz")):
        atoms.calc = ase_nnp.NNPCalculator(model)
        exact = ase_nnp.NNPCalculator(copy.deepcopy(model), dtype="float64")
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        size = max(np.abs(forces).max(), 1.0)
        assert found[f"energy{k}"][0] == pytest.approx(energy, rel=bound, abs=bound)
        np.testing.assert_allclose(found[f"forces{k}"], forces, rtol=0, atol=4 * bound * size)
        if atoms.cell.rank == 3:
            stress = atoms.get_stress(voigt=False)
            # A virial is a sum of large terms that cancel: in single precision the bound is that
            # of the export's own check, which knows what the model's own last bits are worth.
            size = max(np.abs(stress).max(), 1e-2)
            part = {"float32": 2e-5, "float64": 4e-10}[dtype]
            atoms.calc = exact
            own = np.abs(stress - atoms.get_stress(voigt=False)).max()
            bound_here = max(part * size, 4 * own if dtype == "float32" else 0.0)
            np.testing.assert_allclose(found[f"stress{k}"][0], stress, rtol=0, atol=bound_here)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_program_gives_the_calculators_numbers_without_this_package(dtype, tmp_path):
    compare("lj", "program", dtype, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("family", ["facet", "cgcnn_oc20"])
def test_networks_give_the_calculators_numbers_without_this_package(family, dtype, tmp_path):
    compare(family, "program", dtype, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("facet", "float32"), ("cgcnn_oc20", "float64")])
def test_compiled_networks_give_the_calculators_numbers(family, dtype, tmp_path):
    compare(family, "compiled", dtype, tmp_path)


def test_operations_that_depend_on_a_graph_are_refused_and_nothing_is_written(tmp_path):
    class Nearest(ase_nnp.Conservative):
        cutoff = 4.0

        def energies(self, graph):
            distance = graph.edge_vectors().norm(dim=1)
            return distance[: int((distance < 3.0).sum())].sum()[None].expand(graph.num_structures)

    with pytest.raises(ConfigError, match="not the same for every structure"):
        export_model(Nearest(), tmp_path / "m.pt2", format="program")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_with_a_graph_of_its_own_is_refused_by_its_numbers(tmp_path):
    class Halved(ase_nnp.Conservative):
        cutoff = 4.0

        def make_graph(self, atoms, device=None):
            graph = super().make_graph(atoms, device)
            kept = graph.edge_index[0] < graph.edge_index[1]
            return graph.replace(
                edge_index=graph.edge_index[:, kept], edge_shift=graph.edge_shift[kept]
            )

        def energies(self, graph):
            pair = (1 - graph.edge_vectors().norm(dim=1) / self.cutoff) ** 2
            energy = pair.new_zeros(graph.num_structures)
            return energy.index_add(0, graph.batch[graph.edge_index[1]], pair)

    model = Halved()
    model.family, model.config = "halved", {}
    with pytest.raises(PredictionError, match="'halved' does not give its numbers"):
        export_model(model, tmp_path / "m.pt2", format="program")
    assert not list(tmp_path.iterdir())


def test_a_model_with_a_correction_is_refused_and_not_written_without_it(run, tmp_path):
    model = ase_nnp.load_model("lj", corrections=["zbl"])
    with pytest.raises(ConfigError, match="corrections: zbl"):
        export_model(model, tmp_path / "m.pt2", format="program")
    words = ("export", "lj", tmp_path / "m.pt2", "--format", "program", "--correction", "zbl")
    code, _, err = run(*words)
    assert code == 2
    assert "sum of potentials" in err
    assert not list(tmp_path.iterdir())


def test_an_ensemble_whose_mean_is_not_its_first_member_is_refused(tmp_path):
    class Member(ase_nnp.Conservative):
        cutoff = 4.0

        def energies(self, graph):
            return graph.positions.sum() * 0 + graph.cell.new_ones(graph.num_structures)

    class Mean(Member):
        @property
        def unwrapped(self):
            return Member()

        def energies(self, graph):
            return 2 * super().energies(graph)

    with pytest.raises(ConfigError, match="mean of members"):
        export_model(Mean(), tmp_path / "m.pt2", format="program")


def test_without_a_compiler_the_error_names_the_way_that_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(ConfigError, match="format='program' needs none"):
        export_model("lj", tmp_path / "m.pt2")


@pytest.mark.slow
def test_the_command_writes_the_file_and_says_as_json_what_it_holds(run, tmp_path):
    file = tmp_path / "m.pt2"
    code, out, _ = run("export", "lj", file, "--format", "program", "--json")
    assert code == 0
    said = json.loads(out)
    assert list(said["inputs"])[:2] == ["positions", "atomic_numbers"]
    assert list(said["outputs"]) == ["energy", "forces", "stress"]
    assert (said["dtype"], said["device"]) == ("float32", "cpu")


def test_a_file_that_exists_and_another_ending_are_refused(run, tmp_path):
    file = tmp_path / "m.pt2"
    file.touch()
    code, _, err = run("export", "lj", file, "--format", "program")
    assert code == 2
    assert "--overwrite" in err
    code, _, err = run("export", "lj", tmp_path / "m.onnx")
    assert code == 2
    assert ".pt2" in err


def test_numbers_that_are_none_are_no_agreement():
    model = ase_nnp.build_model("lj", device="cpu")

    def nothing(batch):
        wanted = model.compute(model.make_graph(batch), model.outputs)
        return [torch.full_like(wanted[name], torch.nan) for name in model.outputs]

    with pytest.raises(PredictionError, match="does not give its numbers"):
        compare_numbers(nothing, model, model.outputs, sample_structures(model)[5:])


class Lost(ase_nnp.Conservative):
    """Distances beside a large number, which single precision keeps few digits of."""

    cutoff = 3.5

    def __init__(self):
        super().__init__()
        self.register_buffer("large", torch.tensor(3e4))

    def energies(self, graph):
        """Half a distance an edge."""
        lengths = graph.edge_vectors().to(self.large).norm(dim=1)
        distances = (lengths + self.large) - self.large
        energy = distances.new_zeros(graph.num_structures)
        return energy.index_add(0, graph.batch[graph.edge_index[1]], 0.5 * distances)


@pytest.mark.parametrize(("off", "agrees"), [(0.0, True), (1.0, False)])
def test_what_precision_costs_the_model_is_no_difference(off, agrees):
    model, exact = Lost().float(), Lost().double()
    graphs = sample_structures(model)[5:]

    def found(batch):
        return [exact.compute(exact.make_graph(batch), ("energy",))["energy"] + off]

    if agrees:
        worst = compare_numbers(found, model, ("energy",), graphs)
        assert worst["energy"] > 2e-5  # more than usual rounding
        return
    with pytest.raises(PredictionError, match="energy by"):
        compare_numbers(found, model, ("energy",), graphs)
