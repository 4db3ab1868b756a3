"""Legacy OC20 records in both pickle layouts, without reference material."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from ase_nnp.datasets import (
    open_dataset,
)
from ase_nnp.errors import DatasetError

from .conftest import fields_of, lmdb_of, slab


@pytest.mark.parametrize("layout", ["flat", "_store"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_both_layouts_in_every_protocol(pyg, tmp_path, layout, protocol):
    made = [slab(1), slab(2, "Pt")]
    values = {
        k: pyg(fields_of(a, y=float(a.get_potential_energy())), layout, protocol)
        for k, a in enumerate(made)
    }
    dataset = open_dataset(lmdb_of(tmp_path / "a.lmdb", values | {"length": pickle.dumps(2)}))
    assert dataset.energy_kind == "adsorption"
    for ours, theirs in zip(dataset, made, strict=True):
        assert np.array_equal(ours.numbers, theirs.numbers)
        assert ours.positions == pytest.approx(theirs.positions, abs=1e-5)
        assert ours.get_tags().tolist() == theirs.get_tags().tolist()
        assert ours.constraints[0].index.tolist() == theirs.constraints[0].index.tolist()
        assert ours.get_potential_energy() == theirs.get_potential_energy()
        forces = ours.get_forces(apply_constraint=False)
        assert forces == pytest.approx(theirs.calc.results["forces"], abs=1e-6)
        assert (ours.info["sid"], ours.info["fid"]) == (theirs.info["sid"], theirs.info["fid"])
        assert ours.pbc.all()


def test_types_that_old_writers_mixed_up(pyg, tmp_path):
    fields = fields_of(slab(1), y=torch.tensor([1.5]), tags=torch.ones(14), pbc=torch.ones(1, 3))
    fields |= {"sid": torch.tensor([7]), "fid": torch.tensor(3), "note": "kept"}
    fields["atomic_numbers"] = fields["atomic_numbers"].to(torch.uint8)
    fields["fixed"] = fields["fixed"].int()
    (atoms,) = open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: pyg(fields, "flat")}))
    assert atoms.get_potential_energy() == 1.5
    assert atoms.info["sid"] == 7
    assert atoms.info["fid"] == 3
    assert atoms.info["note"] == "kept"
    assert atoms.get_tags().tolist() == [1] * 14


def test_energies_of_oc22_are_totals_and_the_caller_may_know_better(pyg, tmp_path):
    record = pyg(fields_of(slab(1), y=-200.0, oc22=1, nads=1), "flat")
    assert open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: record})).energy_kind == "total"
    record = pyg(fields_of(slab(1), y=-200.0), "flat")
    path = lmdb_of(tmp_path / "b.lmdb", {0: record})
    assert open_dataset(path).energy_kind == "adsorption"
    assert open_dataset(path, stored_energy_kind="total").energy_kind == "total"
    assert open_dataset(path, stored_energy_kind="total")[0].info["energy_kind"] == "total"


def test_reference_energies_by_system_id(pyg, tmp_path):
    record = pyg(fields_of(slab(1), y=-1.0), "flat")
    path = lmdb_of(tmp_path / "b.lmdb", {0: record})
    (tmp_path / "oc20_ref.pkl").write_bytes(pickle.dumps({"random1001": -50.0}))
    for references in ({"random1001": -50.0}, {1001: -50.0}, tmp_path / "oc20_ref.pkl"):
        dataset = open_dataset(path, references=references, energy_kind="total")
        assert dataset[0].get_potential_energy() == -51.0


def test_a_folder_may_mix_layouts_and_files_with_and_without_edges(pyg, tmp_path):
    edges = torch.tensor([[0, 1], [1, 0]])
    more = {"edge_index": edges, "cell_offsets": torch.tensor([[0, 0, 1], [0, 0, -1]])}
    lmdb_of(tmp_path / "1.lmdb", {0: pyg(fields_of(slab(1), **more), "flat")})
    lmdb_of(tmp_path / "2.lmdb", {0: pyg(fields_of(slab(2)), "_store")})
    dataset = open_dataset(tmp_path)
    assert dataset.arrays(0)["edge_shift"].tolist() == [[0, 0, 1], [0, 0, -1]]
    assert "edge_index" not in dataset.arrays(1)
    assert dataset.metadata.num_edges.tolist() == [2, -1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atomic_numbers": None}, "no atomic_numbers"),
        ({"natoms": 13}, "natoms is 13"),
        ({"force": torch.full((14, 3), torch.nan)}, "forces"),
        ({"y": float("nan")}, "an energy of nan"),
        ({"y": "high"}, "energy is str"),
        ({"cell": torch.zeros(1, 3, 3)}, "lattice vector"),
        ({"cell": torch.ones(1, 3, 3)}, "singular"),
        ({"cell": torch.ones(2, 3)}, "cell of shape"),
        ({"pos_relaxed": torch.zeros(3, 3)}, "pos_relaxed"),
        ({"edge_index": torch.tensor([[0], [14]])}, "edge_index"),
        ({"edge_index": torch.zeros(2, 3).long(), "cell_offsets": torch.zeros(2, 3)}, "edge_shift"),
        ({"tags": "none"}, "cannot be decoded"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_records_that_cannot_be_meant_are_named(pyg, tmp_path, change, message):
    fields = fields_of(slab(1), y=0.5) | change
    dataset = open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: pyg(fields, "flat")}))
    with pytest.raises(DatasetError, match=rf"a\.lmdb: record '0': .*{message}"):
        dataset[0]


def test_an_energy_beside_y_is_the_label_of_one_source(pyg, tmp_path):
    atoms = slab(1)
    fields = fields_of(atoms, y=-1.0, energy=-200.0, forces=2 * torch.ones(14, 3))
    dataset = open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: pyg(fields, "flat")}))
    assert dataset.energy_kind == "total"
    read = dataset[0]
    assert read.get_potential_energy() == -200.0
    assert (read.get_forces(apply_constraint=False) == 2).all()
    assert read.info["y"] == -1.0
    assert read.info["force"] == pytest.approx(atoms.calc.results["forces"], abs=1e-6)


def test_numbers_too_large_to_be_whole_stay_as_they_are(pyg, tmp_path):
    fields = fields_of(slab(1), y=-1.0, large=1e300, sid=7.0)
    info = open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: pyg(fields, "flat")}))[0].info
    assert (type(info["large"]), info["large"]) == (float, 1e300)
    assert (type(info["sid"]), info["sid"]) == (int, 7)
