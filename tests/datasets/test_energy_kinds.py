"""What the energy of a record is: said by the record, and by a file of its records."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from ase_nnp.datasets import convert, open_dataset, write_dataset
from ase_nnp.errors import DatasetError

OURS = ("aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5")
KINDS = [("adsorption", "total"), (None, "adsorption"), ("adsorption", None), ("formation", None)]


def frame(kind=None, **results):
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, **(results or {"energy": -1.0}))
    if kind is not None:
        atoms.info = {"energy_kind": kind, "reference_energy": -30.0}
    return atoms


def by_database(path, frames):
    with connect(path) as rows:
        for atoms in frames:
            rows.write(atoms, key_value_pairs=atoms.info)


WRITERS = dict.fromkeys(OURS, write_dataset) | {"traj": write}
WRITERS |= {"db": by_database, "json": by_database}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_every_record_counts_and_what_says_nothing_is_total(tmp_path, ending, kinds):
    path = tmp_path / f"a.{ending}"
    WRITERS[ending](path, [frame(kind) for kind in kinds])

    dataset = open_dataset(path)
    assert dataset.energy_kind == "mixed"
    assert [atoms.info["energy_kind"] for atoms in dataset] == [kind or "total" for kind in kinds]
    assert dataset[1:].energy_kind == (kinds[1] or "total")


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_of_one_kind_says_so_and_records_without_energy_do_not_count(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    WRITERS[ending](path, [frame("adsorption"), bulk("Cu"), frame("adsorption")])
    assert open_dataset(path).energy_kind == "adsorption"


@pytest.mark.parametrize("ending", ["extxyz", "extxyz.xz", "db", "json"])
def test_one_odd_record_among_many_is_found(tmp_path, ending):
    frames = [frame("total") for _ in range(60)]
    frames[41] = frame("adsorption")
    WRITERS[ending](tmp_path / f"a.{ending}", frames)
    assert open_dataset(tmp_path / f"a.{ending}").energy_kind == "mixed"


@pytest.mark.parametrize("ending", OURS)
def test_a_converted_list_and_a_conversion_of_files_agree(tmp_path, ending):
    frames = [frame("adsorption"), frame()]
    convert(frames, tmp_path / f"a.{ending}")
    convert(tmp_path / f"a.{ending}", tmp_path / f"b.{ending}")
    for name in "ab":
        dataset = open_dataset(tmp_path / f"{name}.{ending}")
        assert dataset.energy_kind == "mixed"
        assert [atoms.info["energy_kind"] for atoms in dataset] == ["adsorption", "total"]


def test_a_word_in_a_text_of_a_frame_is_no_kind(tmp_path):
    atoms = frame("total")
    atoms.info["note"] = "here energy_kind=adsorption would be wrong"
    write_dataset(tmp_path / "a.extxyz", [atoms])
    assert open_dataset(tmp_path / "a.extxyz").energy_kind == "total"


@pytest.mark.parametrize("ending", OURS)
def test_a_free_energy_alone_has_a_kind_and_is_converted(tmp_path, ending):
    write_dataset(tmp_path / f"a.{ending}", [frame("adsorption", free_energy=-2.0)])
    dataset = open_dataset(tmp_path / f"a.{ending}")
    assert dataset.energy_kind == "adsorption"

    (atoms,) = dataset.with_energy("total")
    assert atoms.calc.results == {"free_energy": -32.0}
    assert atoms.info["energy_kind"] == "total"


@pytest.mark.parametrize("reference", [np.nan, np.inf, "-30", [1.0, 2.0]], ids=str)
def test_a_reference_that_is_no_number_converts_nothing(tmp_path, reference):
    atoms = frame("adsorption")
    atoms.info["reference_energy"] = reference
    write_dataset(tmp_path / "a.aselmdb", [atoms])
    with pytest.raises(DatasetError, match="a reference energy of"):
        open_dataset(tmp_path / "a.aselmdb", energy_kind="total")[0]
