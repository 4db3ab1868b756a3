"""The index: what it holds, that it belongs to its files, and that nothing breaks it."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import lmdb
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp import open_dataset, write_dataset
from ase_nnp.datasets import convert
from ase_nnp.datasets.catalog import store
from ase_nnp.datasets.catalog.groups import group_statistics
from ase_nnp.datasets.catalog.index import DatasetIndex
from ase_nnp.datasets.catalog.picture import plot_groups
from ase_nnp.errors import DatasetError, QueryError, UnsafeFileError

from .conftest import slab_of


def copied(source, folder):
    target = folder / source.name
    shutil.copyfile(source, target)
    return target


def test_a_view_reads_converts_and_continues_as_any_dataset(indexed, tmp_path):
    view = indexed.where("adsorbate = '*CO' and energy < 0")
    assert 0 < len(view) < len(indexed)
    assert [a.info["sid"] for a in view] == [indexed[int(k)].info["sid"] for k in view.positions]
    assert all(a.get_potential_energy() < 0 for a in view)

    assert convert(view, tmp_path / "out.aselmdb").written == len(view)
    again = open_dataset(tmp_path / "out.aselmdb")
    assert again.where("adsorbate = '*CO' and energy < 0").positions.tolist() == list(
        range(len(view))
    )
    assert len(pickle.loads(pickle.dumps(view)).where("Cu")) == len(view.where("Cu"))


def test_a_question_to_a_view_is_answered_within_it(indexed):
    some = indexed[[5, 3, 3, 40, 80]]
    everything = indexed.where("natoms > 0")
    assert some.where("natoms > 0").positions.tolist() == [5, 3, 3, 40, 80]
    assert len(everything.where("Cu").where("O")) == len(indexed.where("Cu and O"))


def test_energies_of_a_question_are_those_of_the_view(indexed):
    total = indexed.where("energy < 0 and reference_energy is not null").positions
    adsorption = indexed.with_energy("adsorption").where("energy < 0").positions
    expected = [
        k
        for k, atoms in enumerate(indexed)
        if atoms.calc
        and "reference_energy" in atoms.info
        and atoms.get_potential_energy() - atoms.info["reference_energy"] < 0
    ]
    assert adsorption.tolist() == expected
    assert total.tolist() != expected


def test_atoms_are_looked_for_as_in_any_sequence(indexed):
    assert indexed.index(indexed[7]) == 7


def test_an_index_is_refused_when_a_file_has_another_content(adsorption_file, tmp_path):
    path = copied(adsorption_file, tmp_path)
    before = open_dataset(path)
    before.index(tmp_path / "i.sqlite")
    state = path.stat()

    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DatasetError, match=r"other content.*rebuild=True"):
        open_dataset(path).index(tmp_path / "i.sqlite")
    open_dataset(path).index(tmp_path / "i.sqlite", rebuild=True)


def test_an_index_stays_when_a_file_is_only_moved_or_touched(adsorption_file, tmp_path):
    path = copied(adsorption_file, tmp_path)
    open_dataset(path).index(tmp_path / "i.sqlite")
    os.utime(path, (1, 1))
    open_dataset(path).index(tmp_path / "i.sqlite")
    (tmp_path / "elsewhere").mkdir()
    moved = copied(path, tmp_path / "elsewhere")
    assert len(open_dataset(moved).index(tmp_path / "i.sqlite")) == 120


def test_an_index_of_other_files_other_keys_or_mappings_is_refused(adsorption_file, tmp_path):
    dataset = open_dataset(adsorption_file)
    dataset.index(tmp_path / "i.sqlite")
    twice = dataset + dataset
    with pytest.raises(DatasetError, match="files were indexed"):
        twice.index(tmp_path / "i.sqlite")
    with pytest.raises(DatasetError, match="other mappings"):
        dataset.index(tmp_path / "i.sqlite", mapping={"random1000": {"split": "x"}})
    named = open_dataset(adsorption_file, keys={"energy": "reference_energy"})
    with pytest.raises(DatasetError, match="reading"):
        named.index(tmp_path / "i.sqlite")


def test_a_file_that_is_no_index_is_never_replaced(adsorption_file, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE a (b)")
    for path in (notes, tmp_path / "other.sqlite"):
        for rebuild in (False, True):
            with pytest.raises(DatasetError, match="no index"):
                open_dataset(adsorption_file).index(path, rebuild=rebuild)
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_index_is_an_error_and_can_be_rebuilt(adsorption_file, tmp_path, damage):
    path = tmp_path / "i.sqlite"
    open_dataset(adsorption_file).index(path).close()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 3]
    else:
        content[4096:] = random.Random(0).randbytes(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="damaged"):
        open_dataset(adsorption_file).index(path).rows(range(120))
    assert len(open_dataset(adsorption_file).index(path, rebuild=True)) == 120


def test_damaged_records_are_rows_with_a_reason(adsorption_file, tmp_path):
    path = copied(adsorption_file, tmp_path)
    with lmdb.open(str(path), subdir=False) as store, store.begin(write=True) as change:
        change.put(b"8", b"no record")
        change.delete(b"20")
    dataset = open_dataset(path)
    index = dataset.index()
    assert [number for number, _ in index.damaged()] == [7, 19]
    assert all(str(path) in reason for _, reason in index.damaged())
    assert len(dataset.where()) == 118
    assert dataset.where("error is not null").positions.tolist() == [7, 19]
    assert len(dataset.where("not (natoms > 0)")) == 0


BUILD = """
import sys, time
from ase_nnp.datasets import open_dataset
import ase_nnp.datasets.catalog.store as store
store.BATCH = 5
describe = store.describe
def slow(*given):
    time.sleep(0.004)
    return describe(*given)
store.describe = slow
open_dataset(sys.argv[1]).index(sys.argv[2])
"""


@pytest.mark.slow
def test_ten_kills_lose_and_double_nothing(adsorption_file, indexed, tmp_path):
    path, rng = tmp_path / "i.sqlite", random.Random(3)
    command = [sys.executable, "-c", BUILD, str(adsorption_file), str(path)]
    seen = []
    for _ in range(10):
        process = subprocess.Popen(command)
        # The kill falls somewhere into the writing, whatever the speed of the machine.
        more = rng.randint(1, 3)
        start = rows_of(path)
        while process.poll() is None and rows_of(path) < start + 5 * more and start < 100:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(rows_of(path))

    assert seen == sorted(seen)
    assert seen[2] > 0
    dataset = open_dataset(adsorption_file)
    dataset.index(path)
    assert contents(path) == contents(indexed._catalog.path)


def test_a_kill_between_the_tables_and_what_they_belong_to_is_no_damage(
    adsorption_file, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    dataset = open_dataset(adsorption_file)
    monkeypatch.setattr(store, "_set", killed)
    with pytest.raises(KeyboardInterrupt):
        dataset.index(tmp_path / "i.sqlite")
    monkeypatch.undo()
    dataset.index(tmp_path / "i.sqlite")
    assert len(dataset.where("natoms > 0"))


HALF_WRITTEN = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 2")
rows = [(number, "x" * 200) for number in range(10_000, 12_000)]
connection.executemany("INSERT INTO records (id, formula) VALUES (?, ?)", rows)
os._exit(9)
"""


def test_what_a_killed_process_had_half_written_is_taken_back(adsorption_file, indexed, tmp_path):
    path = tmp_path / "i.sqlite"
    open_dataset(adsorption_file).index(path)
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(path)])
    assert path.with_name("i.sqlite-journal").exists()
    open_dataset(adsorption_file).index(path)
    assert contents(path) == contents(indexed._catalog.path)


def rows_of(path):
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT COUNT(*) FROM records").fetchone()[0]
    except sqlite3.Error:
        return 0


def contents(path):
    with sqlite3.connect(path) as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
            for table, order in (("records", "id"), ("composition", "z, id"))
        ]


def test_an_unfinished_index_is_continued_only_on_the_same_content(adsorption_file, tmp_path):
    path = copied(adsorption_file, tmp_path)
    index = tmp_path / "i.sqlite"
    open_dataset(path).index(index).close()
    with sqlite3.connect(index) as connection:
        connection.execute("DELETE FROM records WHERE id >= 50")
        connection.execute("DELETE FROM composition WHERE id >= 50")
        connection.execute("UPDATE meta SET value = 'false' WHERE name = 'finished'")
    rng = np.random.default_rng(2)
    write_dataset(path, [slab_of(rng, k) for k in range(120)], overwrite=True)
    with pytest.raises(DatasetError, match="other content"):
        open_dataset(path).index(index)


def test_mappings_fill_columns_and_pair_slabs(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for sid in (11, 12):
        for fid in (0, 1):
            atoms = slab_of(rng, 1)
            atoms.info = {"sid": sid, "fid": fid}
            frames.append(atoms)
    clean = slab_of(rng, 5)
    clean.info = {"sid": 91, "fid": 4}
    write_dataset(tmp_path / "d.aselmdb", [*frames, clean])

    table = {
        "random11": {
            "bulk_mpid": "mp-30",
            "bulk_symbols": "Cu4",
            "ads_symbols": "*CO",
            "miller_index": (1, 1, 1),
            "shift": 0.25,
            "top": False,
            "class": 0,
            "anomaly": 3,
            "split": "val_oos_ads_bulk",
        }
    }
    with open(tmp_path / "slabs.pkl", "wb") as file:
        pickle.dump({"random11": "random91"}, file)
    dataset = open_dataset(tmp_path / "d.aselmdb")
    index = dataset.index(mapping=[table, tmp_path / "slabs.pkl", {"random12": -3.5}])
    row = index.rows([0])[0]
    expected = {
        "bulk_id": "mp-30",
        "bulk": "Cu4",
        "adsorbate": "*CO",
        "miller": "(1, 1, 1)",
        "shift": 0.25,
        "top": 0,
        "material_class": "intermetallic",
        "anomaly": "reconstruction",
        "split": "val_ood_both",
        "slab_sid": "91",
    }
    assert {name: row[name] for name in expected} == expected
    assert index.rows([2], "reference_energy") == [{"reference_energy": -3.5}]

    pairs = dataset.pairs()
    assert [(p.adslab, p.slab, p.by) for p in pairs] == [(1, 4, "slab_sid"), (3, None, "")]


def test_a_mapping_that_would_run_code_is_refused(adsorption_file, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"random1": Evil()}))
    with pytest.raises(UnsafeFileError):
        open_dataset(adsorption_file).index(mapping=tmp_path / "m.pkl")
    assert not (tmp_path / "ran").exists()


def test_statistics_by_group_are_those_of_the_values(indexed, tmp_path):
    index = indexed._catalog
    rows = {r["group"]: r for r in group_statistics(index, "adsorbate", column="energy")}
    for name in ("*CO", "*H"):
        frames = [a for a in indexed if a.info.get("adsorbate") == name]
        energies = [a.get_potential_energy() for a in frames if a.calc]
        assert rows[name]["records"] == len(frames)
        assert rows[name]["count"] == len(energies)
        assert rows[name]["mean"] == pytest.approx(np.mean(energies))
        assert rows[name]["std"] == pytest.approx(np.std(energies, ddof=1))
    elements = {r["group"]: r["records"] for r in group_statistics(index, "element")}
    assert elements["O"] == sum(8 in a.numbers for a in indexed)

    plot_groups(index, tmp_path / "groups.png", column="energy")
    assert (tmp_path / "groups.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(QueryError):
        group_statistics(index, "adsorbate", column="formula")
    with pytest.raises(QueryError):
        group_statistics(index, "name; DROP TABLE records")
    with pytest.raises(DatasetError):
        plot_groups(index, tmp_path / "groups.docx")


def test_forces_that_do_not_sum_to_zero_and_the_largest_free_one_are_columns(tmp_path):
    atoms = slab_of(np.random.default_rng(0), 1)
    forces = np.zeros((len(atoms), 3))
    forces[0], forces[-1] = (9, 0, 0), (0, 3, 4)
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=forces)
    write_dataset(tmp_path / "one.extxyz", [atoms])
    row = open_dataset(tmp_path / "one.extxyz").index().rows([0])[0]
    assert row["fmax"] == pytest.approx(5.0)
    assert row["force_sum"] == pytest.approx(np.sqrt(81 + 9 + 16))


@pytest.mark.parametrize(
    "folder",
    [
        "oc20_is2re_old/data.lmdb",
        "oc20_s2ef_old",
        "oc20_s2ef_new",
        "oc20_s2ef_raw",
        "oc20_s2ef_test",
        "oc20_is2res_trajectories",
        "oc20_aselmdb/data",
        "oc25_aselmdb/data",
        "oc25_solvation/solvation.aselmdb",
        "aselmdb_misc/misc.aselmdb",
        "ase_formats/set.db",
    ],
)
def test_all_kinds_of_sample_sets_answer(shared, folder):
    dataset = open_dataset(shared / "datasets" / folder)
    tables = [shared / "datasets/oc20_mapping" / f"{n}.pkl" for n in TABLES]
    index = dataset.index(mapping=tables)
    assert len(index) == len(dataset)
    assert index.damaged() == []
    for number in (0, len(dataset) - 1):
        row, atoms = index.rows([number])[0], dataset[number]
        assert row["natoms"] == len(atoms)
        assert row["formula"] == atoms.get_chemical_formula("hill", empirical=False)
    assert len(dataset.where("natoms > 0")) == len(dataset)


TABLES = ("oc20_data_mapping", "mapping_adslab_slab")


def test_the_mapping_of_oc20_describes_its_systems(shared):
    dataset = open_dataset(shared / "datasets/oc20_is2re_old/data.lmdb")
    index = dataset.index(mapping=shared / "datasets/oc20_mapping/oc20_data_mapping.pkl")
    row = index.rows([0])[0]
    assert row["adsorbate"] == "*H"
    assert row["bulk"] == "Cu"
    assert row["miller"] == "(1, 1, 1)"
    assert row["shift"] == pytest.approx(0.167)
    assert row["adsorption_energy"] == pytest.approx(dataset[0].info["y_relaxed"])


def test_solvent_and_ions_of_oc25_are_columns(shared):
    dataset = open_dataset(shared / "datasets/oc25_aselmdb/data")
    row = dataset.index().rows([0])[0]
    assert (row["solvent"], row["ions"], row["adsorbate"]) == ("water", "lithium", "*OH")
    assert row["role"] == "interface"
    assert dataset.where("solvent.O > 0 and adsorbate.H = 1").positions.tolist()[0] == 0


def test_an_index_of_no_files_is_refused():
    with pytest.raises(DatasetError, match="no files"):
        DatasetIndex([])
