"""Structures made here, with everything a dataset has to keep."""

from __future__ import annotations

import pickle
import sys
import types

import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength

from ase_nnp.datasets import open_dataset, write_dataset


def slab(seed=0, metal="Cu", size=(2, 2, 3)):
    rng = np.random.default_rng(seed)
    atoms = fcc111(metal, size, a=3.6 + 0.01 * (seed % 7), vacuum=7.0)
    tags = np.where(atoms.get_tags() == 1, 1, 0)
    add_adsorbate(atoms, Atoms("CO", [[0, 0, 0], [0, 0, 1.15]]), 1.8, "ontop")
    atoms.set_tags([*tags, 2, 2])
    atoms.pbc = True
    atoms.rattle(0.05, seed=seed)
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.get_tags() == 0)))
    atoms.info = {
        "sid": 1000 + seed,
        "fid": seed % 5,
        "energy_kind": "adsorption",
        "reference_energy": -30.0 - seed,
    }
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(rng.normal()), forces=rng.normal(size=(len(atoms), 3))
    )
    return atoms


def rich():
    """One of each kind of thing that can hang on an Atoms."""
    rng = np.random.default_rng(7)
    first = slab(3, "Pt")
    first.set_constraint([*first.constraints, FixBondLength(12, 13)])
    first.info |= {
        "charge": 1,
        "spin": 3,
        "source": "relax/interface_0/a b=c",
        "word": "00012",
        "quoted": 'it"s \\ {odd}',
        "flag": True,
        "number": 0.1,
        "vector": np.arange(4.0),
        "one": np.array([2.5]),
        "nested": {"k": [1, {"deep": None}], "a": np.arange(3)},
        "y_init": -1.5,
        "y_relaxed": -2.5,
        "pos_relaxed": first.positions + 0.1,
        "energy_kind": "total",
    }
    first.set_array("site", rng.normal(size=(len(first), 2)))
    first.set_momenta(rng.normal(size=(len(first), 3)), apply_constraint=False)
    first.calc.results["stress"] = rng.normal(size=6)
    first.calc.results["dipole"] = rng.normal(size=3)
    water = molecule("H2O")
    water.info = {"charge": 0, "energy_kind": "total"}
    water.calc = SinglePointCalculator(
        water, energy=-14.0, forces=rng.normal(size=(3, 3)), charges=rng.normal(size=3)
    )
    unlabeled = fcc111("Al", (1, 1, 2), vacuum=5.0)
    unlabeled.info = {"sid": "unlabeled"}
    return [first, water, unlabeled]


def same(value, other):
    if isinstance(value, dict):
        return set(value) == set(other) and all(same(value[k], other[k]) for k in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    return np.array_equal(value, other)


def assert_same_atoms(ours, theirs):
    assert set(ours.arrays) - {"tags"} == set(theirs.arrays) - {"tags"}
    np.testing.assert_array_equal(ours.get_tags(), theirs.get_tags())
    for name in set(theirs.arrays) - {"tags"}:
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name], err_msg=name)
    np.testing.assert_array_equal(ours.cell[:], theirs.cell[:])
    np.testing.assert_array_equal(ours.pbc, theirs.pbc)
    ours_c, theirs_c = ([c.todict() for c in atoms.constraints] for atoms in (ours, theirs))
    assert same(ours_c, theirs_c)
    results = [dict(a.calc.results) if a.calc else {} for a in (ours, theirs)]
    assert same(*results), results
    assert same(ours.info, theirs.info), (ours.info, theirs.info)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Metadata of these tests stay out of the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ASE_NNP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def slabs():
    return [slab(seed, metal) for seed, metal in enumerate(["Cu", "Pt", "Ag", "Cu", "Pd", "Cu"])]


# ---------------------------------------------------------------- legacy LMDB


@pytest.fixture
def pyg(monkeypatch):
    """Classes under PyG's names, so that pickles name them; gone again when the files are read."""
    modules = {}
    for name in ("torch_geometric", "torch_geometric.data", "torch_geometric.data.data"):
        modules[name] = types.ModuleType(name)
    modules["torch_geometric.data.storage"] = types.ModuleType("torch_geometric.data.storage")
    for module, name in (("data.data", "Data"), ("data.storage", "GlobalStorage")):
        full = f"torch_geometric.{module}"
        setattr(modules[full], name, type(name, (), {"__module__": full}))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def dump(fields, layout, protocol=5):
        data = modules["torch_geometric.data.data"].Data()
        if layout == "flat":
            data.__dict__.update(dict.fromkeys(("x", "face", "normal")) | fields)
        else:
            store = modules["torch_geometric.data.storage"].GlobalStorage()
            store.__dict__.update(_mapping=fields, _parent=None)
            data.__dict__["_store"] = store
        return pickle.dumps(data, protocol)

    return dump


def fields_of(atoms, **more):
    """What the OC20 writers of 2020 stored of a structure."""
    n = len(atoms)
    fixed = torch.zeros(n)
    fixed[atoms.constraints[0].index] = 1
    return {
        "pos": torch.tensor(atoms.positions, dtype=torch.float32),
        "cell": torch.tensor(atoms.cell.array, dtype=torch.float32).view(1, 3, 3),
        "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.float32),
        "natoms": n,
        "tags": torch.tensor(atoms.get_tags(), dtype=torch.long),
        "fixed": fixed,
        "force": torch.tensor(atoms.calc.results["forces"], dtype=torch.float32),
        "sid": atoms.info["sid"],
        "fid": atoms.info["fid"],
        **more,
    }


def lmdb_of(path, values):
    env = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(str(key).encode(), value)
    env.close()
    return path


# ---------------------------------------------------------------- a folder of shards

METALS = ["Cu", "Pt", "Ag", "Cu", "Pd", "Cu", "Ni", "Cu", "Au", "Pt"]


@pytest.fixture(scope="module")
def structures():
    made = [slab(seed, metal) for seed, metal in enumerate(METALS)]
    for number in (3, 7):
        made[number] = slab(number, "Cu", (1, 1, 3))
        made[number].info["sid"] = made[number - 1].info["sid"]
    return made


@pytest.fixture(scope="module")
def folder(structures, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    for shard, part in enumerate((structures[:4], structures[4:5], structures[5:])):
        write_dataset(path / f"data.{shard:04}.aselmdb", part)
    return path


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder)


def energies(dataset):
    return [atoms.get_potential_energy() for atoms in dataset]
