"""Extended XYZ: comments as people write them, raw pairs of OC20, large and damaged files."""

from __future__ import annotations

import bz2
import gzip
import lzma

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixCartesian
from ase.io import read, write

from ase_nnp.datasets import (
    DatasetWarning,
    open_dataset,
    write_dataset,
)
from ase_nnp.errors import DatasetError

from .conftest import slab


def frames():
    first, second = slab(1), molecule("H2O")
    second.info = {"name": "water molecule", "flag": True, "v": np.array([1.0, 2.0, 3.0])}
    third = bulk("NaCl", "rocksalt", 5.6)
    third.pbc = (True, True, False)
    third.set_constraint(FixCartesian([1], mask=(True, False, False)))
    first.info = {"count": 3, "text": "a b", "number": 1.5}
    return [first, second, third]


@pytest.mark.parametrize("ending", ["", ".xz", ".gz", ".bz2"])
def test_extended_xyz_reads_as_ase_reads_it(tmp_path, ending):
    plain, path = tmp_path / "a.extxyz", tmp_path / f"b.extxyz{ending}"
    write(plain, frames(), write_results=True)
    pack = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress}[ending]
    path.write_bytes(pack(plain.read_bytes()))
    dataset, theirs = open_dataset(path), read(plain, ":")
    assert len(dataset) == len(theirs) == 3
    for number in (2, 0, 1):
        ours, other = dataset[number], theirs[number]
        assert ours == other
        held = [[c.todict() for c in atoms.constraints] for atoms in (ours, other)]
        held = [[c for c in part if any(c["kwargs"].get("mask", [1]))] for part in held]
        assert held[0] == held[1]
        if other.calc is not None:
            assert ours.get_potential_energy() == other.get_potential_energy()
            assert np.array_equal(
                ours.get_forces(apply_constraint=False), other.get_forces(apply_constraint=False)
            )
        for key, value in other.info.items():
            assert np.array_equal(ours.info[key], value), key


XYZ = """2
{comment}
H 0 0 0 {row}
O 0 0 1 {row}
"""


def xyz(tmp_path, comment, rows="", name="a.extxyz"):
    path = tmp_path / name
    path.write_text(XYZ.format(comment=comment, row=rows))
    return open_dataset(path)


def test_comments_in_the_ways_people_write_them(tmp_path):
    comment = (
        "Properties=species:S:1:pos:R:3 Lattice=\"4 0 0 0 5 0 0 0 6\" alone quoted='a b' "
        'escaped="say \\"x\\"" old={1 2 3} new=[1, 2] nested="_JSON [[1, 2], [3, 4]]" '
        "yes=T no=F i=-3 f=1e-3 word=Txt energy=-1.5"
    )
    (atoms,) = xyz(tmp_path, comment)
    info = atoms.info
    assert atoms.cell.lengths().tolist() == [4, 5, 6]
    assert atoms.pbc.all()
    assert info["alone"] is True
    assert info["quoted"] == "a b"
    assert info["escaped"] == 'say "x"'
    assert info["old"].tolist() == [1, 2, 3]
    assert info["new"].tolist() == [1, 2]
    assert info["nested"] == [[1, 2], [3, 4]]
    assert (info["yes"], info["no"], info["i"], info["f"]) == (True, False, -3, 1e-3)
    assert info["word"] == "Txt"
    assert atoms.get_potential_energy() == -1.5


def test_a_cell_that_is_not_orthogonal_keeps_its_rows(tmp_path):
    (atoms,) = xyz(tmp_path, 'Properties=species:S:1:pos:R:3 Lattice="1 2 3 4 5 6 7 8 10"')
    assert atoms.cell.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 10]]


ROWS = [[4, 0, 0], [0, 5, 0], [1, 0, 6]]


@pytest.mark.parametrize(
    ("words", "cell"),
    [
        ('cell="4 0 0 0 5 0 1 0 6"', ROWS),
        ('CELL="4, 0, 0, 0, 5, 0, 1, 0, 6"', ROWS),
        ("cell=[[4, 0, 0], [0, 5, 0], [1, 0, 6]]", ROWS),
        ('cell="[[4, 0, 0], [0, 5, 0], [1, 0, 6]]"', ROWS),
        ('cell="4 5 6"', np.diag([4, 5, 6])),
        ('cell="4 5 6 90 90 90"', np.diag([4, 5, 6])),
    ],
)
def test_a_box_under_the_name_cell_is_read_and_named(tmp_path, words, cell):
    path = tmp_path / "a.xyz"
    path.write_text(XYZ.format(comment=f"{words} energy=-1", row="").replace("  ", " "))
    with pytest.warns(DatasetWarning, match="read as the box"):
        atoms = open_dataset(path)[0]
    np.testing.assert_allclose(atoms.cell[:], cell, atol=1e-12)
    assert atoms.pbc.all()
    assert "cell" not in {key.lower() for key in atoms.info}


def test_a_cell_that_is_no_box_is_named_and_lattice_goes_first(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(XYZ.format(comment='cell="large" energy=-1', row=""))
    with pytest.warns(DatasetWarning, match="no box that is understood"):
        atoms = open_dataset(path)[0]
    assert not atoms.pbc.any()
    assert atoms.info["cell"] == "large"
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9" cell="4 5 6"'
    path.write_text(XYZ.format(comment=lattice, row=""))
    assert open_dataset(path)[0].cell.lengths().tolist() == [9, 9, 9]


def test_a_virial_becomes_the_stress(tmp_path):
    comment = (
        'Properties=species:S:1:pos:R:3 Lattice="2 0 0 0 2 0 0 0 2" virial="8 0 0 0 16 0 0 0 24"'
    )
    (atoms,) = xyz(tmp_path, comment)
    assert atoms.calc.results["stress"] == pytest.approx([-1, -2, -3, 0, 0, 0])


@pytest.mark.parametrize(
    ("comment", "rows", "message"),
    [
        ("Properties=species:S:1:pos:R:3:x:R:2", "7", "5 words for atom 0 with 6 columns"),
        ("Properties=species:S:1:pos:R", "", "damaged"),
        ("Properties=species:S:1:pos:R:3:x:L:1", "maybe", "neither T nor F"),
        ("Properties=species:S:1:pos:R:3:x:I:1", "1.5", "column x"),
        ("Properties=species:S:1:pos:R:3:forces:R:3", "1 2 nan", "forces"),
        ("Properties=species:S:1:vel:R:3", "", "positions"),
        ('Properties=species:S:1:pos:R:3 Lattice="1 2 3"', "", "nine numbers"),
        ("Properties=species:S:1:pos:R:3 energy=low", "", "energy"),
        ('Properties=species:S:1:pos:R:3 broken="never closed', "", "comment line"),
        ('Properties=species:S:1:pos:R:3 pbc="T F"', "", "pbc"),
        ("Properties=pos:R:3:species:S:1", "", "cannot|could|symbol"),
    ],
)
def test_frames_that_cannot_be_meant_are_named(tmp_path, comment, rows, message):
    dataset = xyz(tmp_path, comment, rows)
    with pytest.raises(DatasetError, match=rf"a\.extxyz: record 0: .*({message})"):
        dataset[0]


def test_plain_xyz_and_unknown_symbols(tmp_path):
    (atoms,) = xyz(tmp_path, "water without anything", name="a.xyz")
    assert atoms.get_chemical_symbols() == ["H", "O"]
    assert not atoms.pbc.any()
    (tmp_path / "b.xyz").write_text("1\n\nXx 0 0 0\n")
    with pytest.raises(DatasetError, match="'Xx' is no chemical symbol"):
        open_dataset(tmp_path / "b.xyz")[0]


def test_raw_pairs_in_number_order_with_references(tmp_path):
    for number in (0, 2, 10):
        made = [slab(number), slab(number + 1)]
        for atoms in made:
            atoms.info = {}
        write(tmp_path / f"{number}.extxyz", made)
        lines = f"random{number},frame5,-2.5\nrandom99,frame-1,1e1\n"
        with lzma.open(tmp_path / f"{number}.txt.xz", "wt") as stream:
            stream.write(lines)
    dataset = open_dataset(tmp_path)
    assert [atoms.info["sid"] for atoms in dataset] == [0, 99, 2, 99, 10, 99]
    assert dataset[1].info["fid"] == -1
    assert dataset[0].info["reference_energy"] == -2.5
    difference = (
        dataset[1].get_potential_energy()
        - dataset.with_energy("adsorption")[1].get_potential_energy()
    )
    assert difference == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["a.extxyz", "a.aselmdb", "a.traj"])
def test_a_file_that_says_what_its_energies_are_is_believed(tmp_path, name):
    atoms = slab(1)
    assert atoms.info["energy_kind"] == "adsorption"
    if name == "a.traj":
        write(tmp_path / name, atoms)
    else:
        write_dataset(tmp_path / name, [atoms])
    dataset = open_dataset(tmp_path / name)
    assert dataset.energy_kind == "adsorption"
    energy = dataset.with_energy("total")[0].get_potential_energy()
    assert energy == pytest.approx(atoms.get_potential_energy() + atoms.info["reference_energy"])


def test_somebodys_notes_beside_a_file_are_no_list_of_frames(tmp_path):
    write(tmp_path / "a.extxyz", [slab(1)])
    (tmp_path / "a.txt").write_text("measured on a Tuesday\n")
    assert len(open_dataset(tmp_path / "a.extxyz")) == 1


def test_a_large_file_is_scanned_in_pieces(tmp_path, monkeypatch):
    write(tmp_path / "a.extxyz", [slab(k) for k in range(12)])
    whole = open_dataset(tmp_path / "a.extxyz").metadata.energy
    monkeypatch.setattr("ase_nnp.datasets.formats.framefile._CHUNK", 700)
    monkeypatch.setattr("ase_nnp.datasets.formats.framefile._HELD", 100)
    with lzma.open(tmp_path / "b.extxyz.xz", "wb") as stream:
        stream.write((tmp_path / "a.extxyz").read_bytes())
    for name in ("a.extxyz", "b.extxyz.xz"):
        dataset = open_dataset(tmp_path / name)
        energies = [dataset[k].get_potential_energy() for k in (3, 4, 0, 11, 5)]
        assert energies == whole[[3, 4, 0, 11, 5]].tolist()


def test_few_inflated_files_are_held_at_a_time(tmp_path):
    for number in range(6):
        with lzma.open(tmp_path / f"{number}.extxyz.xz", "wb") as stream:
            write(tmp_path / "one.tmp", slab(number), format="extxyz")
            stream.write((tmp_path / "one.tmp").read_bytes())
        (tmp_path / f"{number}.txt").write_text(f"random{number},frame0,1.0\n")
    dataset = open_dataset(tmp_path)
    for _ in range(2):
        assert [atoms.info["sid"] for atoms in dataset] == list(range(6))
    assert sum(shard._file._held is not None for shard in dataset.shards) == 2
    assert sum(shard._lines._lines is not None for shard in dataset.shards) == 4


def test_a_file_that_ends_in_the_middle(tmp_path):
    path = tmp_path / "a.extxyz"
    write(path, [slab(1), slab(2)])
    path.write_bytes(path.read_bytes()[:-200])
    dataset = open_dataset(path)
    assert len(dataset[0]) == 14
    with pytest.raises(DatasetError, match="cut off"):
        dataset[1]
    with pytest.warns(DatasetWarning, match="cut off"):
        assert len(open_dataset(path, strict=False)) == 1


def test_a_column_of_words_in_any_script(tmp_path):
    text = "2\nProperties=species:S:1:pos:R:3:site:S:1 energy=-1.0\nCu 0 0 0 α\nCu 0 0 2 Å\n"
    path = tmp_path / "a.xyz"
    path.write_text(text, encoding="utf-8")
    assert open_dataset(path)[0].arrays["site"].tolist() == ["α", "Å"]
    path.write_bytes(text.encode("utf-16-le").replace(b"\0", b""))
    with pytest.raises(DatasetError, match="column site: 'utf-8' codec"):
        open_dataset(path)[0]
