"""Files that ASE reads: VASP's under any name, crystals, any format that is named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixScaled
from ase.io import write
from foreign_texts import OUTCAR

from ase_nnp.datasets import open_dataset
from ase_nnp.errors import DatasetError, UnknownModelError, UnsafeFileError

CIF = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""

POSCAR = """a comment
2.0
2 0 0
0 2 0
1 0 3
Cu O
1 2
Selective dynamics
Direct
0 0 0 F F F
.5 .5 .5 T F T
.25 .5 .75 T T T
"""

XDATCAR = """cell of two steps
1.0
4 0 0
0 4 0
0 0 4
Cu
1
Direct configuration=     1
0 0 0
Direct configuration=     2
.1 0 0
"""


def cif(tmp_path, *sites):
    path = tmp_path / "x.cif"
    path.write_text(CIF + "\n".join(sites) + "\n")
    return path


@pytest.mark.parametrize(
    "sites",
    [
        ("Cu1 Cu 0 0 0 0.5", "Ni1 Ni 0 0 0 0.5", "O1 O 0.5 0.5 0.5 1.0"),
        ("Cu1 Cu 0 0 0 0.5", "O1 O 0.5 0.5 0.5 1.0"),
        ("Cu1 Cu 0 0 0 1.0", "O1 O 0.5 0.5 0.5 0.97(1)"),
    ],
)
def test_a_crystal_with_sites_shared_or_empty_in_part_is_refused(tmp_path, sites):
    with pytest.raises(DatasetError, match=r"disordered site .*; whole atoms are wanted"):
        open_dataset(cif(tmp_path, *sites))[0]


def test_a_crystal_with_full_occupancies_is_read(tmp_path):
    (atoms,) = open_dataset(cif(tmp_path, "Cu1 Cu 0 0 0 1", "O1 O 0.5 0.5 0.5 1.0"))
    assert atoms.get_chemical_formula() == "CuO"


def test_a_partial_occupancy_is_refused_from_other_formats_too(tmp_path):
    write(tmp_path / "a.traj", Atoms("Cu", info={"occupancy": {"0": {"Cu": 0.5}}}))
    with pytest.raises(DatasetError, match="disordered"):
        open_dataset(tmp_path / "a.traj")[0]

    protein = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])
    protein.set_array("occupancy", np.array([1.0, 0.4]))
    write(tmp_path / "a.pdb", protein)
    with pytest.raises(DatasetError, match="in part"):
        open_dataset(tmp_path / "a.pdb", format="proteindatabank")[0]


@pytest.mark.parametrize(
    "name", ["POSCAR", "POSCAR-001", "POSCAR_solid", "CONTCAR.relaxed", "step7.txt", "POSCAR.gz"]
)
def test_a_poscar_is_read_under_any_name_with_its_constraints(tmp_path, name):
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt") as stream:
        stream.write(POSCAR)
    dataset = open_dataset(tmp_path / name)
    (atoms,) = pickle.loads(pickle.dumps(dataset))
    assert atoms.get_chemical_symbols() == ["Cu", "O", "O"]
    np.testing.assert_allclose(atoms.cell[:], [[4, 0, 0], [0, 4, 0], [2, 0, 6]])
    np.testing.assert_allclose(atoms.positions[2], [2.5, 2, 4.5])
    fixed, scaled = atoms.constraints
    assert isinstance(fixed, FixAtoms)
    assert fixed.index.tolist() == [0]
    assert isinstance(scaled, FixScaled)
    assert scaled.index.tolist() == [1]
    assert scaled.mask.tolist() == [False, True, False]
    assert dataset.energy_kind is None


def test_an_xdatcar_is_a_dataset_of_its_steps(tmp_path):
    (tmp_path / "XDATCAR_run1").write_text(XDATCAR)
    for format in (None, "vasp-xdatcar", "ase"):
        dataset = open_dataset(tmp_path / "XDATCAR_run1", format=format)
        assert [round(atoms.positions[0, 0], 12) for atoms in dataset] == [0.0, 0.4]


@pytest.mark.parametrize("name", ["OUTCAR", "OUTCAR.gz", "OUTCAR.bz2", "run.out.xz", "log.txt"])
def test_an_outcar_gives_e0_as_energy_and_keeps_the_free_energy(tmp_path, name):
    packed = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    opened = packed.get(Path(name).suffix, open)
    with opened(tmp_path / name, "wt") as stream:
        stream.write(OUTCAR)
    (atoms,) = open_dataset(tmp_path / name)
    assert atoms.get_potential_energy() == -6.5
    assert atoms.calc.results["free_energy"] == -6.51
    np.testing.assert_allclose(atoms.get_forces()[:, 2], [0.1, -0.1])
    # VASP prints xx yy zz xy yz zx in kB under pressure; 1 kB = 1e8 Pa.
    kilobar = 1e8 * units.Pascal
    wanted = -kilobar * np.array([10, 20, 30, 5, 6, 4])
    np.testing.assert_allclose(atoms.get_stress(), wanted, rtol=1e-6)


def test_an_outcar_takes_constraints_from_the_structure_beside_it(tmp_path):
    (tmp_path / "OUTCAR").write_text(OUTCAR)
    beside = POSCAR.replace("Cu O\n1 2", "Na Cl\n1 1").replace(".25 .5 .75 T T T\n", "")
    (tmp_path / "CONTCAR").write_text(beside)
    atoms = open_dataset(tmp_path / "OUTCAR")[0]
    assert sorted(type(c).__name__ for c in atoms.constraints) == ["FixAtoms", "FixScaled"]


def test_a_vasprun_is_read_with_e0_free_energy_and_stress(shared):
    dataset = open_dataset(shared / "faults/data/fail_14/vasprun.xml")
    assert [atoms.get_potential_energy() for atoms in dataset] == pytest.approx([-6.5, -6.6])
    assert dataset[1].calc.results["free_energy"] == -6.61
    kilobar = 1e8 * units.Pascal
    wanted = -kilobar * np.array([10, 20, 30, 0, 0, 0])
    np.testing.assert_allclose(dataset[0].get_stress(), wanted, rtol=1e-6, atol=1e-12)


def test_a_folder_of_one_calculation_is_not_read_twice(tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR)
    (tmp_path / "OUTCAR").write_text(OUTCAR)
    with pytest.raises(DatasetError, match=r"several kinds .*format="):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, format="vasp-out")[0].get_chemical_formula() == "ClNa"


def test_a_whole_grid_of_charges_is_no_structure(tmp_path):
    (tmp_path / "CHGCAR").write_text(POSCAR)
    with pytest.raises(DatasetError, match="no dataset in this folder"):
        open_dataset(tmp_path)


def test_whatever_ase_reads_opens_when_it_is_named_or_known_by_its_ending(tmp_path):
    copper = bulk("Cu", cubic=True)
    write(tmp_path / "structure", copper, format="gromacs")
    assert len(open_dataset(tmp_path / "structure", format="gromacs")[0]) == 4
    write(tmp_path / "structure.gro", copper)
    assert len(open_dataset(tmp_path / "structure.gro")[0]) == 4
    write(tmp_path / "a.traj", copper)
    assert len(open_dataset(tmp_path / "a.traj", format="traj")) == 1


def test_ases_own_message_says_why_a_file_cannot_be_read(tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR.replace(".25 .5 .75", "a b c"))
    with pytest.raises(DatasetError, match="could not convert string to float: 'a'"):
        open_dataset(tmp_path / "POSCAR")
    with pytest.raises(DatasetError, match="Incomplete OUTCAR"):
        open_dataset(tmp_path / "POSCAR", format="vasp-out")


@pytest.mark.parametrize("name", ["gpw", "bundletrajectory", "mysql", "nnp-lmdb"])
def test_formats_that_may_run_what_they_read_are_refused(tmp_path, name):
    (tmp_path / "x").write_text(POSCAR)
    with pytest.raises(UnsafeFileError, match=name):
        open_dataset(tmp_path / "x", format=name)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UnknownModelError, match=r"'furlong'.*vasp-xml.*whatever ASE reads"):
        open_dataset(tmp_path, format="furlong")


@pytest.mark.parametrize("counts", ["999999999999 1", "1 99999999"])
def test_a_claimed_number_of_atoms_is_not_believed(tmp_path, counts):
    (tmp_path / "POSCAR").write_text(POSCAR.replace("1 2\n", counts + "\n"))
    with pytest.raises(DatasetError, match="claims"):
        open_dataset(tmp_path / "POSCAR")
    (tmp_path / "OUTCAR").write_text(OUTCAR.replace("=               1   1", f"= {counts}"))
    with pytest.raises(DatasetError, match="claims"):
        open_dataset(tmp_path / "OUTCAR")


def test_compressed_data_that_swell_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ase_nnp.datasets.formats.ase_structures.MOST_INFLATED", 1 << 26)
    with gzip.open(tmp_path / "POSCAR.gz", "wb", compresslevel=1) as stream:
        stream.write(POSCAR.encode())
        for _ in range(65):
            stream.write(bytes(1 << 20))
    with pytest.raises(DatasetError, match="inflates to more than"):
        open_dataset(tmp_path / "POSCAR.gz")


def test_a_pipe_is_no_dataset(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for format in (None, "vasp", "extxyz"):
        with pytest.raises(DatasetError, match="neither a file nor a folder"):
            open_dataset(tmp_path / "pipe", format=format)


def test_labels_of_an_ase_format_are_kept(tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.6)
    forces = np.array([[0, 0, 0.5], [0, 0, -0.5]])
    atoms.calc = SinglePointCalculator(atoms, energy=-7.0, forces=forces)
    write(tmp_path / "a.xsf", [atoms])
    (read,) = open_dataset(tmp_path / "a.xsf")
    np.testing.assert_allclose(read.get_forces(), forces, atol=1e-6)
    assert "energy" not in read.calc.results


def test_every_format_stands_in_the_table_of_formats():
    from ase_nnp.registry.installed import installed

    page = Path(__file__).parents[2] / "docs" / "datasets.md"
    missing = [name for name in installed().datasets if f"`{name}`" not in page.read_text()]
    assert not missing
