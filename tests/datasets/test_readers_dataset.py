"""AtomsDataset: a lazy sequence with views, metadata and energies, over files made here."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase.build import molecule

from ase_nnp.datasets import AtomsDataset, Shard, open_dataset, write_dataset
from ase_nnp.datasets.fast_atoms import classes
from ase_nnp.datasets.sample import _any_atoms, _known_atoms, from_atoms, to_atoms
from ase_nnp.errors import DatasetError

from .conftest import assert_same_atoms, energies, rich, slab

# ---------------------------------------------------------------- a sequence


def test_a_dataset_is_a_sequence_over_its_shards(dataset, structures):
    assert len(dataset) == len(structures)
    for ours, theirs in zip(dataset, structures, strict=True):
        assert_same_atoms(ours, theirs)
    assert_same_atoms(dataset[-1], structures[-1])
    assert_same_atoms(dataset[np.int64(4)], structures[4])
    for wrong in (10, -11):
        with pytest.raises(IndexError, match="10 structures"):
            dataset[wrong]
    with pytest.raises(TypeError):
        dataset["a"]
    assert dataset[2] in dataset
    assert dataset.index(dataset[2]) == 2
    assert next(reversed(dataset)) == dataset[-1]


@pytest.mark.parametrize(
    "item",
    [
        slice(None),
        slice(2, 8, 3),
        slice(None, None, -1),
        slice(-3, None),
        [3, 3, -1],
        np.array([9, 0]),
        [],
        np.arange(10) % 3 == 0,
        [True, False] * 5,
    ],
    ids=str,
)
def test_slices_arrays_and_masks_are_views(dataset, structures, item):
    view = dataset[item]
    wanted = np.array(energies(structures))[
        item if not isinstance(item, list) else np.array(item, int if not item else None)
    ]
    assert isinstance(view, AtomsDataset)
    assert energies(view) == list(wanted)
    assert energies(view[::-1]) == list(wanted)[::-1]  # a view of a view
    assert view.shards is dataset.shards


def test_masks_and_indices_that_do_not_fit_are_refused(dataset):
    with pytest.raises(IndexError):
        dataset[[True, False]]
    with pytest.raises(IndexError):
        dataset[[0, 10]]
    with pytest.raises(TypeError):
        dataset[[0.5]]


def test_concat_joins_views_and_files(dataset, structures):
    joined = dataset[7:] + dataset[:2] + dataset
    assert energies(joined) == energies(structures[7:] + structures[:2] + structures)
    assert energies(dataset[:1].concat(dataset[4:5], dataset[2:3])) == energies(dataset[[0, 4, 2]])
    assert AtomsDataset.concat([dataset]).natoms.tolist() == dataset.natoms.tolist()


def test_arrays_are_what_the_atoms_hold(dataset):
    for number in range(len(dataset)):
        sample, atoms = dataset.arrays(number), dataset[number]
        assert np.array_equal(sample["atomic_numbers"], atoms.numbers)
        assert np.array_equal(sample["positions"], atoms.positions)
        assert np.array_equal(np.flatnonzero(sample["fixed"]), atoms.constraints[0].index)
        assert sample["energy"] == atoms.get_potential_energy()
        assert sample["info"] == atoms.info


def test_structures_own_their_arrays(dataset):
    atoms = dataset[0]
    before = atoms.get_potential_energy()
    atoms.positions += 1
    atoms.numbers[0] = 1
    atoms.info["sid"] = "changed"
    again = dataset[0]
    assert again.get_potential_energy() == before
    assert again.numbers[0] != 1
    assert again.info["sid"] != "changed"
    with pytest.raises(Exception, match="not available"):
        atoms.get_potential_energy()  # the stored result is of other positions


def test_the_short_way_to_atoms_is_the_long_way():
    kinds = classes()
    assert kinds.known, "ASE's classes look different inside; the short way is off"
    for atoms in rich():
        sample = from_atoms(atoms)
        results = dict(
            sample.get("results", {}), **{k: sample[k] for k in ("energy", "forces") if k in sample}
        )
        short, long = (make(kinds, sample, results) for make in (_known_atoms, _any_atoms))
        for one, other in ((short, long), (to_atoms(sample), atoms)):
            assert one == other
            dtypes = {k: v.dtype for k, v in one.arrays.items()}
            assert all(dtypes[k] == v.dtype for k, v in other.arrays.items() if k != "tags")
        left, right = vars(short) | {"_calc": None}, vars(long) | {"_calc": None}
        assert left.keys() == right.keys()
        if results:
            assert set(vars(long.calc)) - set(vars(short.calc)) <= {"get_spin_polarized"}
            assert vars(short.calc).keys() <= vars(long.calc).keys()
            assert pickle.loads(pickle.dumps(short)).calc.results.keys() == results.keys()
        assert short.copy() == long.copy()


# ---------------------------------------------------------------- metadata


def test_metadata_columns(dataset, structures):
    table = dataset.metadata
    assert table.natoms.tolist() == [len(atoms) for atoms in structures]
    assert table.sid.tolist() == [atoms.info["sid"] for atoms in structures]
    assert table.fid.tolist() == [atoms.info["fid"] for atoms in structures]
    assert table.energy.tolist() == energies(structures)
    assert table.count("Cu").tolist() == [(atoms.numbers == 29).sum() for atoms in structures]
    for number, atoms in enumerate(structures):
        values, counts = np.unique(atoms.numbers, return_counts=True)
        assert table.composition(number) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert set(table.tags.tolist()) == {0b111}
    assert table["natoms"].tolist() == table.natoms.tolist()
    assert table["composition"][3] == table.composition(3)
    with pytest.raises(KeyError):
        table["take"]
    picked = dataset[[8, 2, 2]].metadata
    assert picked.sid.tolist() == [1008, 1002, 1002]
    assert picked.composition(0) == table.composition(8)


def test_metadata_are_indexed_once_and_anew_when_a_file_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for path in folder.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    before = sorted(path.name for path in data.iterdir())
    decoded = []
    original = Shard.arrays

    def counted(self, index):
        decoded.append(self.path.name)
        return original(self, index)

    monkeypatch.setattr(Shard, "arrays", counted)
    first = open_dataset(data).metadata
    assert len(decoded) == len(first)
    assert open_dataset(data).metadata.sid.tolist() == first.sid.tolist()
    assert len(decoded) == len(first), "decoded again in spite of the cache"
    (data / "data.0001.aselmdb").unlink()
    write_dataset(data / "data.0001.aselmdb", [slab(77)])
    assert 1077 in open_dataset(data).metadata.sid
    assert decoded[len(first) :] == ["data.0001.aselmdb"], "only the changed file is read again"
    assert sorted(path.name for path in data.iterdir()) == before
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(b"damaged")
    assert open_dataset(data).metadata.natoms.tolist() == open_dataset(data).natoms.tolist()


def test_the_cache_lies_beside_the_data_only_if_asked(dataset, folder):
    try:
        dataset.columns(cache="beside")
        assert len(list((folder / ".ase_nnp").iterdir())) == 3
    finally:
        for path in (folder / ".ase_nnp").iterdir():
            path.unlink()
        (folder / ".ase_nnp").rmdir()
    with pytest.raises(DatasetError, match="cache"):
        dataset.columns(cache="elsewhere")


def test_progress_is_told(dataset):
    calls = []
    dataset.columns(cache=None, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


# ---------------------------------------------------------------- select and split


def test_select_needs_no_decoding_and_combines_conditions(dataset, structures, monkeypatch):
    table = dataset.metadata
    monkeypatch.setattr(Shard, "arrays", None)  # any decoding would now fail

    def sids(**conditions):
        return dataset.select(**conditions).metadata.sid.tolist()

    assert sids(contains="Pt") == [1001, 1009]
    assert sids(contains=["Cu", "C"], natoms=(None, 8)) == [1002, 1006]
    assert sids(excludes="Cu") == [s.info["sid"] for s in structures if 29 not in s.numbers]
    assert sids(elements=["Pd", "C", "O"]) == [1004]
    assert sids(tags=[0, 2], contains=46) == [1004]
    assert sids(tags=3) == []
    low = np.median(table.energy)
    assert len(dataset.select(energy=(low, None))) == 5
    assert len(dataset.select(energy=(None, -1e9))) == 0
    assert sids(sid=1004) == [1004]
    assert sids(fid=[2], sid=["1002", 1004]) == [1002]
    assert sids(natoms=14, contains="Ni") == [1006]


def test_select_by_a_function_asks_only_what_is_left(dataset):
    asked = []

    def where(atoms):
        asked.append(atoms.info["sid"])
        return atoms.info["fid"] > 1

    chosen = dataset.select(contains="Pt", where=where)
    assert asked == [1001, 1009]
    assert chosen.metadata.sid.tolist() == [1009]


def test_split_by_fraction_is_a_partition_and_repeats_under_a_seed(dataset):
    parts = dataset.split({"train": 0.7, "val": 0.2, "test": 0.1}, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 7, "val": 2, "test": 1}
    together = [energy for part in parts.values() for energy in energies(part)]
    assert sorted(together) == sorted(energies(dataset))
    again = dataset.split([0.7, 0.2, 0.1], seed=1)
    assert [energies(part) for part in again] == [energies(part) for part in parts.values()]
    other = dataset.split([0.7, 0.2, 0.1], seed=2)
    assert [energies(part) for part in other] != [energies(part) for part in again]
    assert len(dataset.split([0.5])[0]) == 5
    assert [len(part) for part in dataset.split(0.8)] == [8, 2]
    assert [len(part) for part in dataset.split(0.5, 0.3, 0.2)] == [5, 3, 2]
    assert energies(dataset.split([0.3, 0.7], shuffle=False)[0]) == energies(dataset)[:3]


def test_split_keeps_groups_together(dataset):
    first, second = dataset.split([0.5, 0.5], group="sid", seed=0)
    assert not set(first.metadata.sid.tolist()) & set(second.metadata.sid.tolist())
    assert len(first) + len(second) == len(dataset)
    labels = ["a", "b"] * 5
    first, second = dataset.split([0.5, 0.5], group=labels)
    assert len(first) == len(second) == 5
    compositions = dataset.split([0.5, 0.5], group="composition")
    formulas = [{atoms.get_chemical_formula() for atoms in part} for part in compositions]
    assert not formulas[0] & formulas[1]


def test_split_by_stored_ids(dataset):
    parts = dataset.split({"train": [1000, "random1001"], "val": ["1002"]})
    assert parts["train"].metadata.sid.tolist() == [1000, 1001]
    assert parts["val"].metadata.sid.tolist() == [1002, 1002]  # both frames of that system
    for wrong, message in (({"a": [5]}, "not in"), ({"a": [1000], "b": [1000]}, "two parts")):
        with pytest.raises(DatasetError, match=message):
            dataset.split(wrong)
    for wrong in ([0.9, 0.2], [-0.1], []):
        with pytest.raises(DatasetError):
            dataset.split(wrong)


# ---------------------------------------------------------------- energies


def test_energies_convert_by_their_reference_and_say_so(dataset, structures, tmp_path):
    path = tmp_path / "x.aselmdb"
    for atoms in (made := [slab(1), slab(2)]):
        atoms.info["energy_kind"] = "total"
    write_dataset(path, made)
    total = open_dataset(path)
    converted = open_dataset(path, energy_kind="adsorption")
    for before, after in zip(total, converted, strict=True):
        difference = before.get_potential_energy() - after.get_potential_energy()
        assert difference == pytest.approx(before.info["reference_energy"], abs=1e-12)
        assert after.info["energy_kind"] == "adsorption"
    assert converted.energy_kind == "adsorption"
    for wrong in (
        lambda: total.with_energy("adsorbtion"),
        lambda: open_dataset(path, energy_kind="adsorbtion"),
        lambda: open_dataset(path, stored_energy_kind="adsorbtion"),
    ):
        with pytest.raises(DatasetError, match="adsorbtion"):
            wrong()


def test_a_conversion_without_reference_is_refused(tmp_path):
    from ase.calculators.singlepoint import SinglePointCalculator

    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-14.0)
    write_dataset(tmp_path / "w.aselmdb", [water])
    dataset = open_dataset(tmp_path / "w.aselmdb", energy_kind="adsorption")
    with pytest.raises(DatasetError, match="no reference energy"):
        dataset[0]
