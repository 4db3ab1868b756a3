"""MD17 in .npz, DeePMD's folders, QM9, LAMMPS dumps, n2p2 and MLIP, against values known apart."""

from __future__ import annotations

import gzip
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from foreign_texts import CFG

from ase_nnp.datasets import open_dataset
from ase_nnp.errors import DatasetError, UnsafeFileError

RNG = np.random.default_rng(5)
POSITIONS, FORCES = RNG.normal(size=(2, 3, 3, 3))
WATER = np.array([8, 1, 1])


def rmd17(path, save=np.savez, **changes):
    arrays = {
        "nuclear_charges": WATER.astype(np.uint8),
        "coords": POSITIONS,
        "energies": np.array([-100.0, -101.0, -102.0]),
        "forces": FORCES,
        "old_indices": np.array([7, 8, 9]),
    }
    save(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rmd17_is_read_from_kcal_mol(tmp_path, save):
    dataset = open_dataset(rmd17(tmp_path / "rmd17_water.npz", save))
    frames = list(pickle.loads(pickle.dumps(dataset)))
    assert len(frames) == 3
    # 1 kcal/mol is 0.0433641 eV
    assert frames[0].get_potential_energy() == pytest.approx(-4.33641042418, abs=1e-9)
    np.testing.assert_allclose(frames[2].get_forces(), FORCES[2] * 0.0433641042418, rtol=1e-9)
    np.testing.assert_array_equal(frames[1].positions, POSITIONS[1])
    assert frames[1].numbers.tolist() == [8, 1, 1]
    assert frames[1].info["old_index"] == 8
    assert dataset.natoms.tolist() == [3, 3, 3]


def test_sgdml_files_say_their_units(tmp_path):
    arrays = {"z": WATER, "R": POSITIONS, "E": np.array([[-1.0], [-2.0], [-3.0]]), "F": FORCES}
    np.savez(tmp_path / "md17.npz", **arrays)
    atoms = open_dataset(tmp_path / "md17.npz")[1]
    assert atoms.get_potential_energy() == pytest.approx(-0.0867282085, abs=1e-9)
    np.savez(tmp_path / "ev.npz", **arrays, e_unit="eV", r_unit="Bohr")
    atoms = open_dataset(tmp_path / "ev.npz")[1]
    assert atoms.get_potential_energy() == -2.0
    np.testing.assert_allclose(atoms.positions, POSITIONS[1] * 0.529177210903)
    np.testing.assert_allclose(atoms.get_forces(), FORCES[1] / 0.529177210903)
    atoms = open_dataset(tmp_path / "ev.npz", energy_unit="Hartree", length_unit="Angstrom")[0]
    assert atoms.get_potential_energy() == pytest.approx(-27.211386245988)
    with pytest.raises(DatasetError, match="unit 'furlong'"):
        open_dataset(tmp_path / "ev.npz", energy_unit="furlong")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forces": FORCES[:2]}, r"forces has shape \(2, 3, 3\)"),
        ({"nuclear_charges": np.array([8, 1])}, "nuclear_charges has shape"),
        ({"energies": np.array([1.0, np.nan, 2.0])}, "energy"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message) as error:
        list(open_dataset(rmd17(tmp_path / "bad.npz", **changes)))
    assert "bad.npz" in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_pickles_in_an_npz_are_refused(tmp_path):
    path = rmd17(tmp_path / "x.npz", energies=np.array([print, 1, 2], dtype=object))
    with pytest.raises(UnsafeFileError, match="energies"):
        open_dataset(path)


def test_sizes_that_an_npz_claims_are_not_believed(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape, size in (("nuclear_charges", (3,), 24), ("coords", (10**9, 3, 3), 10**7)):
            header = str({"descr": "<f8", "fortran_order": False, "shape": shape})
            head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            archive.writestr(f"{name}.npy", head + bytes(size))
    with pytest.raises(DatasetError, match="claims"):
        open_dataset(path)

    good = rmd17(tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
    with pytest.raises(DatasetError):
        list(open_dataset(tmp_path / "cut.npz", format="md17"))


def deepmd(system, mixed=False, **changes):
    (system / "set.000").mkdir(parents=True)
    (system / "type.raw").write_text("0 1 1" if not mixed else "0 0 0")
    (system / "type_map.raw").write_text("O\nH\n")
    arrays = {
        "coord": POSITIONS.reshape(3, 9),
        "box": np.tile(np.diag([2.0, 3, 4]).ravel(), (3, 1)),
        "energy": np.array([-1.0, -2.0, -3.0]),
        "force": FORCES.reshape(3, 9).astype(np.float32),
        "virial": np.tile(np.arange(9.0), (3, 1)),
    }
    if mixed:
        arrays["real_atom_types"] = np.array([[0, 1, 1], [1, 1, -1], [0, 0, 1]])
    for name, array in (arrays | changes).items():
        if array is not None:
            np.save(system / "set.000" / f"{name}.npy", array)
    return system


def test_a_deepmd_folder_is_a_dataset(tmp_path):
    dataset = open_dataset(deepmd(tmp_path / "water"))
    atoms = pickle.loads(pickle.dumps(dataset))[1]
    assert len(dataset) == 3
    assert atoms.get_chemical_symbols() == ["O", "H", "H"]
    assert atoms.get_potential_energy() == -2.0
    np.testing.assert_array_equal(atoms.positions, POSITIONS[1])
    np.testing.assert_allclose(atoms.get_forces(), FORCES[1], rtol=1e-6)
    virial = np.arange(9.0).reshape(3, 3)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), -(virial + virial.T) / 2 / 24)
    assert atoms.pbc.all()


def test_a_folder_of_deepmd_systems_is_one_dataset(tmp_path):
    deepmd(tmp_path / "data" / "a")
    deepmd(tmp_path / "data" / "b", mixed=True)
    dataset = open_dataset(tmp_path / "data")
    formulas = [atoms.get_chemical_formula(mode="reduce") for atoms in dataset]
    assert formulas == ["OH2", "OH2", "OH2", "OH2", "H2", "O2H"]
    assert dataset.locate(4)[0].parent.name == "b"
    assert len(open_dataset(str(tmp_path / "data" / "*"))) == 6


def test_no_deepmd_system_is_left_out_of_a_large_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("ase_nnp.datasets.formats.deepmd._MANY", 2)
    for name in "abcd":
        deepmd(tmp_path / "data" / name)
    assert len(open_dataset(tmp_path / "data")) == 12


def test_a_deepmd_set_without_coordinates_is_no_set_to_be_left_out(tmp_path):
    system = deepmd(tmp_path / "water")
    shutil.copytree(system / "set.000", system / "set.001")
    assert len(open_dataset(system)) == 6
    (system / "set.001" / "coord.npy").unlink()
    with pytest.raises(DatasetError, match=r"set.001: coord.npy has shape None"):
        open_dataset(system)


def test_a_deepmd_system_without_a_box_is_no_crystal(tmp_path):
    system = deepmd(tmp_path / "w", box=None)
    with pytest.raises(DatasetError, match="nopbc"):
        open_dataset(system)
    (system / "nopbc").touch()
    assert not open_dataset(system)[0].pbc.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"force": np.zeros((3, 6))}, r"force.npy has shape \(3, 6\), wanted \(3, 9\)"),
        ({"energy": np.zeros(2)}, "energy.npy has shape"),
        ({"coord": np.array([print])}, "objects"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_deepmd_folder_is_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset(deepmd(tmp_path / "w", **changes))


def test_types_without_names_need_elements(tmp_path):
    system = deepmd(tmp_path / "w")
    (system / "type_map.raw").unlink()
    with pytest.raises(DatasetError, match="elements="):
        open_dataset(system)
    assert open_dataset(system, elements=["S", "H"])[0].get_chemical_formula() == "H2S"
    with pytest.raises(DatasetError, match="type 1 of 1 elements"):
        open_dataset(system, elements=["S"])


# the first molecule of QM9, as it is published
METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\
\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 9.0639729*^-1\t 0.133923
1341.307\t1341.3284\t1341.365
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


def test_qm9_gives_u0_in_ev(tmp_path):
    for number in (1, 2):
        (tmp_path / f"dsgdb9nsd_00000{number}.xyz").write_text(METHANE)
    dataset = open_dataset(tmp_path)
    atoms = dataset[1]
    assert len(dataset) == 2
    assert atoms.get_chemical_formula() == "CH4"
    # -40.47893 Hartree; the gap, 0.5048 Hartree, is 13.736 eV
    assert atoms.get_potential_energy() == pytest.approx(-1101.4878, abs=1e-4)
    assert atoms.info["gap"] == pytest.approx(13.7363, abs=1e-4)
    assert atoms.info["mu"] == 0.0
    assert atoms.info["sid"] == 1
    assert atoms.info["smiles"] == "C"
    assert atoms.get_charges()[0] == -0.535689
    assert atoms.positions[4, 2] == 0.90639729


@pytest.mark.parametrize(
    ("old", "new"),
    [("\t6.469", ""), ("0.133921", "x"), ("1341.307", "C 0 0 0 0"), ("C\t-", "Q\t-")],
)
def test_a_damaged_qm9_file_is_named_or_read_for_what_it_is(tmp_path, old, new):
    (tmp_path / "a.xyz").write_text(METHANE.replace(old, new))
    if old == "1341.307":
        assert len(open_dataset(tmp_path / "a.xyz")[0]) == 5
        return
    with pytest.raises(DatasetError, match=r"a\.xyz"):
        open_dataset(tmp_path / "a.xyz", format="qm9")[0]


DUMP = """ITEM: TIMESTEP
{step}
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS xy xz yz pp pp ff
0.0 5.0 1.0
0.0 4.0 0.0
0.0 6.0 0.0
ITEM: ATOMS id type element xs ys zs fx fy fz
2 1 O 0.5 0.5 0.5 1 2 3
1 2 Cu 0 0 0 0 0 0
"""


def test_a_lammps_dump_has_forces_and_no_energy(tmp_path):
    text = DUMP.format(step=0) + DUMP.format(step=100)
    with gzip.open(tmp_path / "dump.lammpstrj.gz", "wt") as stream:
        stream.write(text)
    dataset = open_dataset(tmp_path / "dump.lammpstrj.gz")
    atoms = pickle.loads(pickle.dumps(dataset))[1]
    assert [a.info["step"] for a in dataset] == [0, 100]
    assert atoms.get_chemical_symbols() == ["Cu", "O"]
    assert atoms.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(atoms.cell[:], [[4, 0, 0], [1, 4, 0], [0, 0, 6]])
    np.testing.assert_allclose(atoms.positions[1], [2.5, 2, 3])
    np.testing.assert_allclose(atoms.get_forces()[1], [1, 2, 3])
    assert "energy" not in atoms.calc.results
    assert dataset.energy_kind is None


def test_lammps_units_come_from_the_file_or_the_caller(tmp_path):
    (tmp_path / "a.dump").write_text(DUMP.format(step=0))
    (tmp_path / "b.dump").write_text("ITEM: UNITS\nreal\n" + DUMP.format(step=0))
    for name, options in (("a.dump", {"units": "real"}), ("b.dump", {})):
        atoms = open_dataset(tmp_path / name, **options)[0]
        np.testing.assert_allclose(
            atoms.get_forces()[1], np.array([1, 2, 3]) * 0.0433641, rtol=1e-6
        )
    with pytest.raises(DatasetError, match="units 'lj'"):
        open_dataset(tmp_path / "a.dump", units="lj")


def test_types_of_a_dump_are_no_elements(tmp_path):
    bare = DUMP.format(step=0).replace("element ", "").replace(" O ", " ").replace(" Cu ", " ")
    (tmp_path / "a.dump").write_text(bare)
    with pytest.raises(DatasetError, match="elements="):
        open_dataset(tmp_path / "a.dump")[0]
    atoms = open_dataset(tmp_path / "a.dump", elements=["O", "Cu"])[0]
    assert atoms.get_chemical_symbols() == ["Cu", "O"]


@pytest.mark.parametrize("count", ["3", "99999999999"])
def test_a_dump_that_claims_more_atoms_than_lines_is_named(tmp_path, count):
    (tmp_path / "a.dump").write_text(DUMP.format(step=0).replace("ATOMS\n2", f"ATOMS\n{count}"))
    with pytest.raises(DatasetError, match="fewer lines"):
        open_dataset(tmp_path / "a.dump")[0]


INPUT = """begin
comment a frame
lattice 10 0 0
lattice 0 10 0
lattice 0 0 10
atom 0 0 0 O 0.1 0.0 0.01 0.02 0.03
atom 0 0 1.8 H -0.1 0.0 0 0 0
energy -76.0
charge 1.0
end
"""


def test_n2p2_is_read_from_hartree_and_bohr(tmp_path):
    molecule = "".join(line + "\n" for line in INPUT.split("\n")[:-1] if "lattice" not in line)
    (tmp_path / "input.data").write_text(INPUT + molecule)
    dataset = open_dataset(tmp_path / "input.data")
    crystal, free = dataset
    assert crystal.get_potential_energy() == pytest.approx(-2068.065354695, abs=1e-8)
    assert crystal.cell[0, 0] == pytest.approx(5.29177210903)
    assert crystal.positions[1, 2] == pytest.approx(0.9525189796)
    # 1 Hartree/Bohr is 51.4220675 eV/Angstrom
    np.testing.assert_allclose(crystal.get_forces()[0], [0.514220675, 1.02844135, 1.542662025])
    assert crystal.get_charges().tolist() == [0.1, -0.1]
    assert crystal.info["charge"] == 1
    assert crystal.info["comment"] == "a frame"
    assert crystal.pbc.all()
    assert not free.pbc.any()
    options = {"energy_unit": "eV", "length_unit": "Angstrom"}
    assert open_dataset(tmp_path / "input.data", **options)[0].get_forces()[0, 2] == 0.03


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("end\n", "", "cut off"),
        (" O ", " Xx ", "no chemical symbol"),
        ("0.03", "", "atom: rows of other"),
        ("lattice 0 0 10\n", "", "2 lattice vectors"),
        ("-76.0", "low", "could not convert"),
        ("begin\n", "begin position(3) element\n", "runnerdata"),
    ],
)
def test_a_damaged_structure_of_n2p2_is_named(tmp_path, old, new, message):
    (tmp_path / "input.data").write_text(INPUT + INPUT.replace(old, new))
    dataset = open_dataset(tmp_path / "input.data")
    dataset[0]
    with pytest.raises(DatasetError, match=rf"record 1.*{message}"):
        dataset[1]


def test_a_cfg_of_mlip_has_energy_forces_and_stress(tmp_path):
    (tmp_path / "train.cfg").write_text(CFG + CFG.replace("-7.5", "-8.5"))
    dataset = open_dataset(tmp_path / "train.cfg", elements=["Na", "Cl"])
    first, second = dataset
    assert first.get_chemical_symbols() == ["Na", "Cl"]
    assert second.get_potential_energy() == -8.5
    assert first.get_forces()[:, 2].tolist() == [0.5, -0.5]
    # the virial over a volume of 24 Angstrom^3, in ASE's sign and order
    np.testing.assert_allclose(first.get_stress(), [-1, -2, -3, -0.1, -0.2, -0.3])
    assert first.info["EFS_by"] == "VASP"
    with pytest.raises(DatasetError, match="elements="):
        open_dataset(tmp_path / "train.cfg")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("END_CFG", "", "cut off"),
        ("    2\n Super", "    3\n Super", "Size"),
        ("2  1  ", "2  7  ", "does not name"),
        ("cartes_x", "carte_x", "no cartes_x"),
        ("-7.5", "-7.5 1", "Energy"),
        ("0.0 0.0 -0.5", "0.0 0.0 nan", "forces"),
    ],
)
def test_a_damaged_cfg_is_named(tmp_path, old, new, message):
    (tmp_path / "a.cfg").write_text(CFG + CFG.replace(old, new))
    dataset = open_dataset(tmp_path / "a.cfg", elements=["Na", "Cl"])
    dataset[0]
    with pytest.raises(DatasetError, match=rf"record 1.*{message}"):
        dataset[1]
