"""Labels under every name and unit that files have: one source, right units, right sign."""

from __future__ import annotations

import datetime
import gzip
import json
import lzma
import warnings

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read
from ase.units import Debye, Hartree, kcal, mol

from ase_nnp.datasets import DatasetWarning, convert, open_dataset, write_dataset
from ase_nnp.errors import DatasetError

from .conftest import fields_of, lmdb_of, slab

LATTICE = 'Lattice="4 0 0 0 5 0 0 0 6"'
COLUMNS = "Properties=species:S:1:pos:R:3"


def frame(comment, rows=("Cu 0 0 0", "O 0 0 1.5")):
    return "\n".join([str(len(rows)), comment, *rows]) + "\n"


def opened(tmp_path, text, name="a.extxyz", **options):
    (tmp_path / name).write_text(text)
    return open_dataset(tmp_path / name, **options)


# ---------------------------------------------------------------- one source

FORCES = ("Cu 0 0 0 1 2 3 7 7 7", "O 0 0 1.5 0 0 0 7 7 7")


def test_labels_of_mace_are_not_mixed_with_those_of_a_model(tmp_path):
    properties = f"{COLUMNS}:REF_forces:R:3:forces:R:3"
    comment = f'{LATTICE} {properties} energy=-9 REF_energy=-1 REF_virials="1 0 0 0 2 0 0 0 3"'
    (atoms,) = opened(tmp_path, frame(comment, FORCES))
    assert atoms.get_potential_energy() == -1
    assert atoms.get_forces()[0].tolist() == [1, 2, 3]
    # sigma = -W / V, V = 120
    assert atoms.get_stress() == pytest.approx([-1 / 120, -2 / 120, -3 / 120, 0, 0, 0])
    assert atoms.info["energy"] == -9
    assert atoms.arrays["forces"][0].tolist() == [7, 7, 7]


def test_a_model_s_energy_beside_forces_of_dft_is_no_label(tmp_path):
    comment = f"{LATTICE} {COLUMNS}:REF_forces:R:3:forces:R:3 energy=-9"
    (atoms,) = opened(tmp_path, frame(comment, FORCES))
    assert set(atoms.calc.results) == {"forces"}


@pytest.mark.parametrize("name", ["virial", "virials"])
def test_virials_are_minus_the_stress_times_the_volume(tmp_path, name):
    (atoms,) = opened(tmp_path, frame(f'{LATTICE} {COLUMNS} {name}="120 0 0 0 0 0 0 0 0"'))
    assert atoms.get_stress() == pytest.approx([-1, 0, 0, 0, 0, 0])


# ---------------------------------------------------------------- keys=


def test_a_misspelt_label_in_keys_is_refused_by_name(tmp_path):
    text = frame(f"{LATTICE} {COLUMNS} REF_energy=-1")
    with pytest.raises(DatasetError, match=r"'enrgy': 'REF_energy'; did you mean 'energy'"):
        opened(tmp_path, text, keys={"enrgy": "REF_energy"})
    with pytest.raises(DatasetError, match="no 'absent', which keys= names for energy"):
        opened(tmp_path, text, keys={"energy": "absent"})[0]


@pytest.mark.parametrize("ending", ["aselmdb", "lmdb", "extxyz", "h5", "db", "json"])
def test_keys_name_labels_in_every_format(tmp_path, ending):
    comment = f'{LATTICE} {COLUMNS}:dft_f:R:3 energy=-9 dft_e=-1 w="120 0 0 0 0 0 0 0 0"'
    source = opened(tmp_path, frame(comment, ("Cu 0 0 0 1 2 3", "O 0 0 1.5 0 0 0")), "a.extxyz")
    path = tmp_path / f"b.{ending}"
    if ending in ("db", "json"):
        with connect(path) as database:
            atoms = source[0]
            data = {**atoms.info, "dft_f": atoms.arrays["dft_f"]}
            database.write(atoms, data=data)
    else:
        convert(source, path)
    (atoms,) = open_dataset(path, keys={"energy": "dft_e", "forces": "dft_f", "virials": "w"})
    assert atoms.get_potential_energy() == -1
    assert atoms.get_forces()[0].tolist() == [1, 2, 3]
    assert atoms.get_stress()[0] == pytest.approx(-1)


def test_info_lists_what_looks_like_a_label_and_how_to_use_it(tmp_path, capsys):
    from ase_nnp.cli import main

    comment = f"{LATTICE} {COLUMNS}:dft_forces:R:3 dft_energy=-1 Energy=-7"
    opened(tmp_path, frame(comment, ("Cu 0 0 0 1 2 3", "O 0 0 1.5 0 0 0")))
    with pytest.raises(SystemExit) as stop:
        main(["data", "info", str(tmp_path / "a.extxyz")])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert "--key energy=dft_energy --key forces=dft_forces" in printed.replace("\n", " ")
    assert "--key energy=Energy" in printed
    with pytest.raises(SystemExit):
        main(["data", "info", str(tmp_path / "a.extxyz"), "--key", "energy=Energy", "--json"])
    assert json.loads(capsys.readouterr().out)["energy"]["mean"] == -7


def test_units_are_given_on_the_command_line_where_a_database_does_not_say_them(tmp_path, capsys):
    from ase_nnp.cli import main

    with connect(tmp_path / "a.db") as database:
        data = {"energy": np.array([-1.0]), "forces": np.full((3, 3), 0.5)}
        database.write(molecule("H2O"), data=data)
    units = ["--units", "energy=kcal/mol", "--units", "forces=kcal/mol/Ang"]
    with pytest.raises(SystemExit):
        main(["data", "stats", str(tmp_path / "a.db"), *units, "--json"])
    # 1 kcal/mol is 4184 J over N_A, in eV of 1.602176634e-19 J.
    kcal = 4184 / 6.02214076e23 / 1.602176634e-19
    assert json.loads(capsys.readouterr().out)["energy"]["mean"] == pytest.approx(-kcal, rel=1e-6)

    with pytest.raises(SystemExit) as stop:
        main(["data", "convert", str(tmp_path / "a.db"), str(tmp_path / "a.extxyz"), *units])
    assert not stop.value.code
    converted = open_dataset(tmp_path / "a.extxyz")[0]
    assert converted.get_potential_energy() == pytest.approx(-kcal, rel=1e-6)
    np.testing.assert_allclose(converted.get_forces(), 0.5 * kcal, rtol=1e-6)


@pytest.mark.parametrize("given", ["energy", "energy=", "=eV", "energy=Hartre"])
def test_units_that_cannot_be_meant_are_refused_in_one_line(tmp_path, capsys, given):
    from ase_nnp.cli import main

    with connect(tmp_path / "a.db") as database:
        database.write(molecule("H2O"), data={"energy": -1.0})
    with pytest.raises(SystemExit) as stop:
        main(["data", "info", str(tmp_path / "a.db"), "--units", given])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 1


# ---------------------------------------------------------------- ASE's databases


def rows_of(tmp_path, atoms, metadata=None, **written):
    for ending in ("db", "json"):
        with connect(tmp_path / f"a.{ending}") as database:
            database.write(atoms, **written)
            if metadata:
                database.metadata = metadata
        yield open_dataset(tmp_path / f"a.{ending}")


def test_labels_of_a_row_are_those_of_its_calculator(tmp_path):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0)
    for dataset in rows_of(tmp_path, water, data={"energy": [-3.0], "forces": np.ones((3, 3))}):
        assert dataset[0].calc.results == {"energy": -1.0}


def test_units_and_atomrefs_of_schnetpack(tmp_path):
    water = molecule("H2O")
    metadata = {
        "_property_unit_dict": {"energy": "kcal/mol", "forces": "kcal/mol/Ang", "mu": "Debye"},
        "_distance_unit": "Ang",
        "atomrefs": {"energy": [0.0, -10.0, *[0.0] * 6, -50.0]},
    }
    data = {"energy": np.array([-3.0]), "forces": np.full((3, 3), 0.2), "mu": np.array([1.85])}
    for dataset in rows_of(tmp_path, water, metadata, data=data):
        (atoms,) = dataset
        assert dataset.energy_kind == "formation"
        assert atoms.get_potential_energy() == pytest.approx(-3 * kcal / mol, rel=1e-7)
        assert atoms.get_forces()[0, 0] == pytest.approx(0.2 * kcal / mol, rel=1e-7)
        assert atoms.info["mu"][0] == pytest.approx(1.85 * Debye, rel=1e-6)
        total = dataset.with_energy("total")[0].get_potential_energy()
        assert total == pytest.approx(-73 * kcal / mol, rel=1e-7)


def test_totals_of_schnetpack_beside_their_atomrefs_are_totals(tmp_path):
    metadata = {
        "_property_unit_dict": {"energy": "Hartree"},
        "atomrefs": {"energy": [0.0, -0.5, *[0.0] * 6, -75.0]},
    }
    for dataset in rows_of(tmp_path, molecule("H2O"), metadata, data={"energy": [-76.4]}):
        assert dataset.energy_kind == "total"
        assert dataset[0].get_potential_energy() == pytest.approx(-76.4 * Hartree, rel=1e-7)


def test_a_database_without_units_has_no_labels_unless_they_are_given(tmp_path):
    for dataset in rows_of(tmp_path, molecule("H2O"), data={"energy": [-1.0]}):
        assert dataset[0].calc is None
        (shard,) = dataset.shards
        again = open_dataset(shard.path, units={"energy": "Ha"})
        assert again[0].get_potential_energy() == pytest.approx(-Hartree, rel=1e-7)


def test_nabla2dft_reads_in_electronvolts(shared):
    folder = shared / "data_real" / "nabla2dft"
    dataset = open_dataset(folder / "energy.db")
    # -6.5379259092101165 Hartree in the file
    assert dataset[0].get_potential_energy() == pytest.approx(-6.5379259092101165 * Hartree)
    assert dataset.energy_kind == "formation"
    assert open_dataset(folder / "optimization.db")[0].calc is None


# ---------------------------------------------------------------- text that ASE reads


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_the_last_line_needs_no_newline(tmp_path, ending, newline):
    text = "".join(frame(f"{LATTICE} {COLUMNS} energy={e}") for e in (-1.5, -2.5)).rstrip("\n")
    data = text.replace("\n", newline).encode()
    packed = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending](data)
    (tmp_path / f"0.extxyz{ending}").write_bytes(packed)
    (tmp_path / "0.txt").write_text("random1,frame3,-180.0\nrandom2,frame4,-180.5")
    energies = [atoms.get_potential_energy() for atoms in open_dataset(tmp_path)]
    assert energies == [-1.5, -2.5]


@pytest.mark.parametrize(
    "pbc",
    [
        'pbc="[ True  True False]"',
        'pbc="[True, True, False]"',
        'pbc="t t f"',
        'pbc="TTF"',
        'PBC="1 1 0"',
        "pbc=[T,T,F]",
        'pbc="true true false"',
        'pbc="1.0 1.0 0.0"',
    ],
)
def test_pbc_in_every_spelling(tmp_path, pbc):
    (atoms,) = opened(tmp_path, frame(f"{LATTICE} {COLUMNS} {pbc}"))
    assert atoms.pbc.tolist() == [True, True, False]


def test_pbc_that_cannot_be_understood_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="neither T nor F"):
        opened(tmp_path, frame(f'{LATTICE} {COLUMNS} pbc="slab"'))[0]


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, str.swapcase])
def test_box_and_columns_are_known_in_any_letters(tmp_path, spell):
    names = [spell(name) for name in ("Lattice", "Properties", "pBc")]
    comment = '{}="4 1 0 0 5 0 0 0 6" {}=species:S:1:pos:R:3:force:R:3 {}="T T F" energy=-1'
    text = frame(comment.format(*names), ("Cu 0 0 0 1 2 3", "O 0 0 1.5 0 0 0"))
    (atoms,) = opened(tmp_path, text)
    assert atoms.cell.array.tolist() == [[4, 1, 0], [0, 5, 0], [0, 0, 6]]
    assert atoms.pbc.tolist() == [True, True, False]
    assert atoms.get_forces()[0].tolist() == [1, 2, 3]
    assert not {*names} & {*atoms.info}


NASTY = {
    **{"LATTICE": np.arange(1.0, 10.0), "pBc": "T T F", "PROPERTIES": "species:S:1", "STRESS": 1.0},
    **{"__class__": "x", "__ndarray__": [1], ("a", 1): "no text", "Virial": np.ones(9)},
}


@pytest.mark.parametrize("ending", ["aselmdb", "lmdb", "extxyz", "h5"])
@pytest.mark.parametrize("make", [lambda: molecule("H2O"), slab])
def test_names_of_other_places_come_back_as_they_were(tmp_path, ending, make):
    for number, (name, value) in enumerate([*NASTY.items(), ("energy", -3.0)]):
        atoms = make()
        atoms.calc, atoms.info = None, {name: value, "other": [1, "a"], "__second": 2}
        write_dataset(tmp_path / f"{number}.{ending}", [atoms])
        back = open_dataset(tmp_path / f"{number}.{ending}")[0]
        assert back.calc is None
        np.testing.assert_array_equal(back.info[name], value)
        assert (back.info["other"], back.info["__second"]) == ([1, "a"], 2)
        np.testing.assert_array_equal(back.cell.array, atoms.cell.array)
        np.testing.assert_array_equal(back.pbc, atoms.pbc)


def test_names_in_lower_case_are_those_of_gpumd(tmp_path):
    comment = 'lattice="4 0 0 0 5 0 0 0 6" properties=species:S:1:pos:R:3:force:R:3 energy=-1'
    (atoms,) = opened(tmp_path, frame(comment, ("Cu 0 0 0 1 2 3", "O 0 0 1.5 0 0 0")))
    assert atoms.cell.lengths().tolist() == [4, 5, 6]
    assert atoms.pbc.all()
    assert atoms.get_forces()[0].tolist() == [1, 2, 3]


def test_values_are_those_of_ase(tmp_path):
    comment = f'{LATTICE} {COLUMNS}:charge:R:1 energy=-1.5, nine="1 2 3 4 5 6 7 8 9" s="a, b" n=3,'
    text = frame(comment, ("CU 0 0 0 0.5 9", "CL 0 0 1.5 -0.5 9"))
    (ours,) = opened(tmp_path, text)
    theirs = read(tmp_path / "a.extxyz")
    assert ours.get_chemical_symbols() == theirs.get_chemical_symbols()
    assert ours.calc.results["charges"].tolist() == theirs.calc.results["charges"].tolist()
    assert ours.get_potential_energy() == theirs.get_potential_energy()
    for name, value in theirs.info.items():
        np.testing.assert_array_equal(ours.info[name], value, err_msg=name)


def test_nested_arrays_of_a_comment_are_arrays(tmp_path):
    (atoms,) = opened(tmp_path, frame(f"{LATTICE} {COLUMNS} foo=[[1.0, 2.0], [3.0, 4.0]] bar=7"))
    assert atoms.info["foo"].tolist() == [[1, 2], [3, 4]]
    assert atoms.info["bar"] == 7
    assert "3.0, 4.0]" not in atoms.info


# ---------------------------------------------------------------- legacy records, raw OC20


def test_free_energy_is_shifted_with_the_energy(tmp_path):
    comment = f"{LATTICE} {COLUMNS} energy=-181.5 free_energy=-181.6"
    (tmp_path / "0.extxyz").write_text(frame(comment))
    (tmp_path / "0.txt").write_text("random1,frame3,-180.0\n")
    (atoms,) = open_dataset(tmp_path, energy_kind="adsorption")
    assert atoms.get_potential_energy() == pytest.approx(-1.5)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(-1.6)


def test_a_complex_array_is_read_and_an_unknown_one_is_left_out_with_one_warning(tmp_path):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0)
    with connect(tmp_path / "a.json") as database:
        database.write(water, data={"psi": np.array([1 + 2j])})
        database.write(water, data={"psi": np.array([1 + 2j])})
    text = (tmp_path / "a.json").read_text()
    assert open_dataset(tmp_path / "a.json")[0].info["psi"].tolist() == [1 + 2j]

    (tmp_path / "b.json").write_text(text.replace("complex128", "object"))
    with pytest.warns(DatasetWarning, match="psi") as caught:
        energies = [atoms.get_potential_energy() for atoms in open_dataset(tmp_path / "b.json")]
    assert energies == [-1.0, -1.0]
    assert len(caught) == 1


def test_an_odd_field_of_a_legacy_record_is_left_out(tmp_path, pyg):
    odd = {"made": datetime.datetime(2020, 1, 1), "note": np.array(["a", None], object)}
    for number, (name, value) in enumerate(odd.items()):
        stress = torch.full((1, 3, 3), 0.1)
        fields = fields_of(slab(), y=-1.0, stress=stress, **{name: value})
        path = lmdb_of(tmp_path / f"{number}.lmdb", {0: pyg(fields, "_store")})
        with pytest.warns(DatasetWarning, match=name):
            atoms = open_dataset(path)[0]
        assert atoms.get_potential_energy() == -1.0
        assert atoms.get_stress() == pytest.approx([0.1] * 6)
        assert name not in atoms.info


def test_the_warnings_of_a_clean_file_are_none(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(opened(tmp_path, frame(f"{LATTICE} {COLUMNS} energy=-1"))) == 1
