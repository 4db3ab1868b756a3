"""Reactions as JSON, reaction paths by file name, and metadata of other datasets."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import ase.io
import pytest
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp import open_dataset, write_dataset
from ase_nnp.datasets.catalog.describe import facts_of_file
from ase_nnp.datasets.catalog.mapping import columns_from
from ase_nnp.datasets.verify import verify_dataset
from ase_nnp.errors import DatasetError


def as_json(atoms):
    buffer = io.StringIO()
    ase.io.write(buffer, atoms, format="json")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def parts():
    """Slab, slab with CO, and CO, with energies of EMT."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=7.0)
    adslab = slab.copy()
    add_adsorbate(adslab, molecule("CO"), 1.9, "ontop")
    structures = {"star": slab, "COstar": adslab, "COgas": molecule("CO")}
    energies = {}
    for name, atoms in structures.items():
        atoms.pbc = name != "COgas"
        atoms.calc = EMT()
        energies[name] = atoms.get_potential_energy()
        atoms.calc = None
    return structures, energies


def catbench(parts, shared_structures):
    structures, energies = parts
    signs = {"star": -1, "COstar": 1, "COgas": -1}
    raw = {n: {"stoi": signs[n], "energy_ref": energies[n]} for n in structures}
    content = {
        "Cu_CO": {
            "raw": raw,
            "ref_ads_eng": sum(signs[n] * energies[n] for n in signs),
            "adsorbate_indices": [12, 13],
        }
    }
    for name, atoms in structures.items():
        raw[name]["ref" if shared_structures else "atoms_json"] = (
            name if shared_structures else as_json(atoms)
        )
    if shared_structures:
        content["_structures"] = {name: as_json(atoms) for name, atoms in structures.items()}
    return content


@pytest.mark.parametrize("shared_structures", [False, True])
@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_catbench_files_open_with_energies_roles_and_tags(
    tmp_path, parts, shared_structures, ending
):
    path = tmp_path / f"set_adsorption{ending}"
    text = json.dumps(catbench(parts, shared_structures), indent=2)
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())

    dataset = open_dataset(path)
    structures, energies = parts
    assert [a.info["part"] for a in dataset] == list(structures)
    for atoms, name in zip(dataset, structures, strict=True):
        assert atoms.get_potential_energy() == energies[name]
        assert atoms.get_chemical_symbols() == structures[name].get_chemical_symbols()
    adslab = dataset[1]
    assert adslab.get_tags().tolist() == [1] * 12 + [2, 2]
    expected = energies["COstar"] - energies["star"] - energies["COgas"]
    assert adslab.info["adsorption_energy"] == pytest.approx(expected)

    matches = dataset.where("adsorbate = '*CO' and slab.Cu = 12 and role = 'adslab'")
    assert matches.positions.tolist() == [1]
    pair = dataset.pairs()[0]
    assert (pair.adslab, pair.slab, pair.gas) == (1, 0, (2,))


@pytest.mark.parametrize("wrapped", [True, False])
def test_answers_of_catalysis_hub_open_with_stoichiometry(tmp_path, parts, wrapped):
    structures, energies = parts
    names = {"star": "star", "COstar": "COstar", "COgas": "COgas"}
    node = {
        "id": "UmVhY3Rpb246MQ==",
        "Equation": "CO(g) + * -> CO*",
        "reactionEnergy": -0.5,
        "facet": "1x1x1",
        "surfaceComposition": "Cu",
        "reactants": json.dumps({"COgas": 1, "star": 1}),
        "products": json.dumps({"COstar": 1}),
        "pubId": "Somebody2020",
        "reactionSystems": [
            {"name": n, "systems": {"energy": energies[n], "InputFile": as_json(structures[n])}}
            for n in names
        ],
    }
    content = {"data": {"reactions": {"edges": [{"node": node}]}}} if wrapped else [node]
    path = tmp_path / "cathub.json"
    path.write_text(json.dumps(content))
    dataset = open_dataset(path)
    assert [a.info["stoichiometry"] for a in dataset] == [-1.0, 1.0, -1.0]
    assert [a.get_potential_energy() for a in dataset] == [energies[n] for n in names]
    rows = dataset.index().rows(range(3), "adsorption_energy", "adsorbate", "role", "bulk")
    assert rows[1] == {
        "adsorption_energy": -0.5,
        "adsorbate": "*CO",
        "role": "adslab",
        "bulk": "Cu",
    }
    assert rows[0]["adsorption_energy"] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["Cu_CO"]["raw"]["star"].update(atoms_json="{}"),
        lambda c: c["Cu_CO"]["raw"]["star"].update(atoms_json="[1, 2]"),
        lambda c: c["Cu_CO"]["raw"]["star"].update(atoms_json=None, ref="gone"),
        lambda c: c["Cu_CO"]["raw"]["star"].update(energy_ref="low"),
        lambda c: c["Cu_CO"].update(adsorbate_indices=[1000]),
    ],
)
def test_a_damaged_structure_is_named_and_the_others_are_read(tmp_path, parts, change):
    content = catbench(parts, False)
    change(content)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    report = verify_dataset(path)
    assert len(report.problems) == 1
    assert "Cu_CO/" in report.problems[0].key
    assert len(open_dataset(path).where()) == 2


def test_a_cut_file_is_an_error_of_ours(tmp_path, parts):
    path = tmp_path / "set.json"
    text = json.dumps(catbench(parts, False))
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DatasetError, match="not JSON"):
        open_dataset(path)


def test_the_name_of_a_reaction_path_says_reaction_surface_and_split(tmp_path):
    path = tmp_path / "desorption_ood_83_2409_9_11-1-4_neb1.0.traj"
    frames = [fcc111("Cu", (1, 1, 3), vacuum=5.0) for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=float(k))
    ase.io.write(path, frames)
    dataset = open_dataset(path)
    matches = dataset.where("reaction = 'desorption' and split = 'val_ood' and miller = '1 1 -1'")
    assert len(matches) == 3
    row = dataset.index().rows([0])[0]
    assert (row["bulk_id"], row["shift"], row["role"]) == ("2409", 4.0, "path")


def test_the_split_of_a_file_is_that_of_its_folder():
    assert facts_of_file(Path("/d/oc20/val_ood_both/data.0000.lmdb")) == {"split": "val_ood_both"}
    assert facts_of_file(Path("/d/oc25/train/data0001.aselmdb")) == {"split": "train"}
    assert facts_of_file(Path("/home/training/mine.db")) == {}


def test_metadata_of_the_newer_datasets_fill_the_same_columns():
    # OC22's metadata, as its documentation shows an entry.
    oc22 = {
        "bulk_id": "mp-559112",
        "miller_index": (1, 0, 0),
        "nads": 1,
        "traj_id": "K2Zn6O7_mp-559112_x",
        "bulk_symbols": "K4Zn12O14",
        "slab_sid": 30859,
        "ads_symbols": "O2",
    }
    columns = columns_from(oc22, pickled=True)
    assert columns["slab_sid"] == "30859"
    assert columns["bulk_id"] == "mp-559112"
    assert columns["miller"] == "(1, 0, 0)"
    assert columns["adsorbate"] == "O2"

    mads = {"millers": [2, 1, 0], "adsorbates": ["*OH", "*CO"], "top": True, "fmax": 0.1}
    columns = columns_from(mads)
    assert (columns["miller"], columns["adsorbate"], columns["nads"]) == ("(2, 1, 0)", "*CO+*OH", 2)

    oc25 = {"adsorbate": "Adsorbate: (HO, *OH)", "ions": ["lithium", "fluoride"]}
    oc25 |= {"total_drift": [0.0, 3.0, 4.0], "solvent": "water"}
    columns = columns_from(oc25)
    assert columns == {
        "adsorbate": "*OH",
        "ions": "fluoride+lithium",
        "drift": 5.0,
        "solvent": "water",
    }
    assert columns_from({"is_spin_off": False})["spin_polarized"] == 1
    assert columns_from({"is_spin_off": True})["spin_polarized"] == 0


@pytest.mark.parametrize("value", [{"x": 1}, [object()], float("nan"), b"x", 2**80])
def test_odd_metadata_are_left_out(value):
    assert set(columns_from(dict.fromkeys(("top", "shift", "miller", "charge"), value))) <= {
        "top",
        "charge",
        "shift",
    }


def test_spin_of_a_record_is_kept_in_info_and_in_the_index(tmp_path):
    atoms = fcc111("Ni", (1, 1, 3), vacuum=5.0)
    atoms.info = {"spin": 3, "is_spin_off": False, "mag": 1.9}
    write_dataset(tmp_path / "d.aselmdb", [atoms])
    dataset = open_dataset(tmp_path / "d.aselmdb")
    assert dataset[0].info["spin"] == 3
    assert len(dataset.where("spin = 3 and spin_polarized = 1 and magmom > 1.8")) == 1
