"""A label is written and learned with the structure that it belongs to, and with no other."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp.datasets import convert, open_dataset, write_dataset
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.training import evaluation
from ase_nnp.training.graph_dataset import AtomGraphDataset

ENDINGS = ("aselmdb", "lmdb", "extxyz", "h5")


def labeled(energy=-1.0, **results):
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **results)
    return atoms


def sharing_a_calculator():
    images = [bulk("Cu", a=size) for size in (3.5, 3.6, 3.7)]
    calculator = EMT()
    for atoms in images:
        atoms.calc = calculator
        atoms.get_potential_energy()
    return images


def moved():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.rattle(0.1)
    return [labeled(), atoms]


def wrapped():
    atoms = bulk("Cu", cubic=True)
    atoms.positions -= (0.3, 7.0, 0.2)
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.wrap()
    return atoms


def shifted():
    atoms = fcc111("Cu", (1, 1, 3), vacuum=4)
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.positions[:, 2] += 1.5
    return atoms


def in_another_box():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.center(vacuum=5)
    return atoms


def in_another_crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.set_cell(atoms.cell * 1.01)
    return atoms


def turned():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.rotate(30, "x")
    return atoms


def rounded():
    atoms = bulk("Cu") * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.positions = atoms.positions.round(5)
    return atoms


@pytest.mark.parametrize("make", [wrapped, shifted, in_another_box, rounded])
def test_a_structure_that_was_wrapped_or_moved_as_a_whole_keeps_its_labels(tmp_path, make):
    write_dataset(tmp_path / "a.aselmdb", [make()])
    assert open_dataset(tmp_path / "a.aselmdb")[0].get_potential_energy() == -2.0


@pytest.mark.parametrize(("make", "what"), [(in_another_crystal, "cell"), (turned, "positions")])
def test_a_strained_or_turned_structure_does_not(tmp_path, make, what):
    with pytest.raises(DatasetError, match=f"other {what}"):
        write_dataset(tmp_path / "a.aselmdb", [make()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sharing_a_calculator, "structure 0: its calculator .* other (positions|cell)"),
        (moved, "structure 1: its calculator holds results of a structure with other positions"),
    ],
)
@pytest.mark.parametrize("write", [write_dataset, lambda path, frames: convert(frames, path)])
def test_results_of_another_structure_are_no_labels(tmp_path, make, message, write):
    with pytest.raises(DatasetError, match=message):
        write(tmp_path / "a.extxyz", make())
    assert list(tmp_path.iterdir()) in ([], [tmp_path / ".a.extxyz.part"])


@pytest.mark.parametrize("make", [sharing_a_calculator, moved])
def test_nothing_is_learned_from_results_of_another_structure(make):
    graphs = AtomGraphDataset(make(), cutoff=3.0)
    with pytest.raises(DatasetError, match=r"other (positions|cell)"):
        list(map(graphs.__getitem__, range(len(graphs))))


def test_the_last_structure_of_a_shared_calculator_keeps_its_own_results(tmp_path):
    last = sharing_a_calculator()[-1]
    write_dataset(tmp_path / "a.extxyz", [last])
    back = open_dataset(tmp_path / "a.extxyz")[0]
    assert back.get_potential_energy() == last.get_potential_energy()


def flat():
    return Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 0], pbc=True)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: labeled(energy=np.nan), "structure 1: the label energy holds nan"),
        (
            lambda: labeled(forces=np.full((1, 3), np.inf)),
            "structure 1: the label forces holds inf",
        ),
        (Atoms, "structure 1: no atoms"),
        (flat, "structure 1: a periodic direction without a lattice vector"),
    ],
)
def test_what_no_reader_would_take_is_refused_when_it_is_written(tmp_path, ending, broken, message):
    frames = [labeled(), broken(), labeled(-3.0)]
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / f"a.{ending}", frames)
    assert list(tmp_path.iterdir()) == []

    result = convert(frames, tmp_path / f"b.{ending}", skip_broken=True)
    assert [entry["index"] for entry in result.skipped] == [1]
    energies = [a.get_potential_energy() for a in open_dataset(tmp_path / f"b.{ending}")]
    assert energies == [-1.0, -3.0]


def test_information_with_the_name_of_a_label_is_nothing_to_learn_from():
    atoms = bulk("Cu")
    # MPtrj has a stress in kB with VASP's sign.
    atoms.info = {"energy": -3.0, "forces": np.ones((1, 3)), "stress": 10 * np.eye(3), "gap": 1.5}
    labels = ("energy", "forces", "stress", "gap")
    targets = AtomGraphDataset([atoms], cutoff=3.0, labels=labels)[0].targets
    assert [bool(targets[name].isnan().all()) for name in labels] == [True, True, True, False]
    assert list(evaluation._labels([atoms])) == ["gap"]


def test_a_result_goes_before_information_of_its_name():
    atoms = labeled(magmom=2.0)
    atoms.info["magmom"] = 3.0
    targets = AtomGraphDataset([atoms], cutoff=3.0, labels=("magmom",))[0].targets
    assert targets["magmom"].tolist() == [2.0]


@pytest.mark.parametrize("ending", ["aselmdb", "lmdb"])
def test_a_list_of_mixed_energies_is_converted_as_mixed(tmp_path, ending):
    frames = [labeled(), labeled()]
    for atoms, kind in zip(frames, ("total", "adsorption"), strict=True):
        atoms.info["energy_kind"] = kind
    convert(frames, tmp_path / f"a.{ending}")
    assert open_dataset(tmp_path / f"a.{ending}").energy_kind == "mixed"


def test_a_model_is_not_judged_by_two_kinds_of_energy_at_once(tmp_path):
    frames = [labeled(), labeled()]
    for atoms, kind in zip(frames, ("total", "adsorption"), strict=True):
        atoms.info["energy_kind"] = kind
    write_dataset(tmp_path / "a.extxyz", frames)
    with pytest.raises(ConfigError, match="the labels are adsorption and total energies"):
        evaluation.evaluate(["any"], tmp_path / "a.extxyz")


@pytest.mark.parametrize("ending", ENDINGS)
def test_results_that_are_not_one_row_an_atom_keep_their_shape(tmp_path, ending):
    # ASE's SQLite gives magnetic moments of three components as one long row.
    atoms = labeled(magmoms=np.arange(3.0), charges=np.zeros(0))
    convert([atoms], tmp_path / f"a.{ending}")
    results = open_dataset(tmp_path / f"a.{ending}")[0].calc.results
    assert results["magmoms"].tolist() == [0.0, 1.0, 2.0]
    assert results["charges"].shape == (0,)


@pytest.mark.parametrize("one", [bulk("Cu"), [1, 2], [None]])
@pytest.mark.parametrize("write", [write_dataset, lambda path, frames: convert(frames, path)])
def test_what_is_no_structure_is_named(tmp_path, one, write):
    with pytest.raises(DatasetError, match=r"(Atom|int|NoneType) is no Atoms|as \[atoms\]"):
        write(tmp_path / "a.extxyz", one)
