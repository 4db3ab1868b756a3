"""Wrong labels that were put in are the ones that are listed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ase_nnp import from_ase, write_dataset
from ase_nnp.cli import main
from ase_nnp.uncertainty.suspicion_page import write_suspicion_page
from ase_nnp.uncertainty.suspicious import suspicious_labels


def crystals():
    """Rattled alloys with EMT's labels on another scale, noise of 1 meV an atom."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(40):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.numbers[: k % 4] = 79
        atoms.rattle(0.08, seed=k)
        copy = atoms.copy()
        copy.calc = EMT()
        shift = -3.0 * (atoms.numbers == 29).sum() - 5.0 * (atoms.numbers == 79).sum()
        energy = copy.get_potential_energy() + shift + 0.001 * len(atoms) * rng.normal()
        noise = rng.normal(scale=0.01, size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(
            atoms, energy=energy, forces=copy.get_forces() + noise - noise.mean(axis=0)
        )
        frames.append(atoms)
    return frames


def moved(atoms, **changes):
    results = {**atoms.calc.results, **changes}
    atoms.calc = SinglePointCalculator(atoms, **results)


@pytest.fixture
def frames():
    return crystals()


def test_good_labels_are_not_suspicious(frames):
    assert suspicious_labels(frames, from_ase(EMT()), threshold=6).suspicions == []


def test_each_kind_of_wrong_label_is_listed_and_nothing_else(frames):
    moved(frames[7], energy=frames[7].get_potential_energy() + 0.3)
    forces = frames[11].get_forces().copy()
    forces[3] += [0.6, -0.6, 0]
    forces[5] -= [0.6, -0.6, 0]
    moved(frames[11], forces=forces)
    moved(frames[20], forces=frames[20].get_forces() + 0.05)
    again = frames[2].copy()
    again.rotate(90, "z", rotate_cell=True)
    again.calc = SinglePointCalculator(again, energy=frames[2].get_potential_energy() + 0.02)
    frames.append(again)

    result = suspicious_labels(frames, from_ase(EMT()), threshold=6)
    kinds = {(one.index, one.kind) for one in result.suspicions}
    assert {(7, "energy"), (11, "forces"), (20, "drift"), (40, "contradiction")} <= kinds
    assert {index for index, _ in kinds} == {7, 11, 20, 40}
    contradiction = next(one for one in result.suspicions if one.kind == "contradiction")
    assert contradiction.other == 2
    scores = [one.score for one in result.suspicions]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_forces_in_another_unit_or_of_the_other_sign_are_told_what_they_look_like(frames):
    moved(frames[7], forces=23.06 * frames[7].get_forces())
    moved(frames[9], forces=-frames[9].get_forces())
    moved(frames[12], forces=frames[12].get_forces() / 51.42)
    found = suspicious_labels(frames, from_ase(EMT()), threshold=6).suspicions
    said = {one.index: one.reason for one in found if one.kind == "forces"}
    assert "as if in kcal/mol/A" in said[7]
    assert "as if of the other sign" in said[9]
    assert "as if in Hartree/bohr" in said[12]
    assert set(said) == {7, 9, 12}
    assert "usual error" in said[7]  # the model has no error bars
    assert "error bars" not in said[7]


@pytest.mark.slow
def test_a_model_that_is_wrong_by_a_share_of_each_force_does_not_accuse_the_largest(frames):
    wrong = np.random.default_rng(0).normal(scale=0.1, size=len(frames))
    for k, atoms in enumerate(frames):
        size = 20 if k % 10 == 0 else 1
        moved(atoms, forces=size * (1 + wrong[k]) * atoms.get_forces())

    class Scaled(EMT):
        def calculate(self, atoms, *args):
            super().calculate(atoms, *args)
            k = next(
                k
                for k, one in enumerate(frames)
                if len(one) == len(atoms) and np.allclose(one.positions, atoms.positions)
            )
            self.results["forces"] = self.results["forces"] * (20 if k % 10 == 0 else 1)

    found = suspicious_labels(frames, from_ase(Scaled()), threshold=6).suspicions
    assert [one for one in found if one.kind == "forces"] == []


def test_the_same_structure_with_the_same_label_is_no_contradiction(frames):
    copy = frames[2].copy()
    copy.calc = SinglePointCalculator(copy, energy=frames[2].get_potential_energy())
    assert suspicious_labels([frames[2], copy]).suspicions == []


def test_forces_zeroed_on_fixed_atoms_are_no_drift(frames):
    atoms = frames[0]
    atoms.set_constraint(FixAtoms([0, 1]))
    forces = atoms.calc.results["forces"].copy() + 0.1
    forces[:2] = 0
    moved(atoms, forces=forces)
    assert suspicious_labels([atoms]).suspicions == []


def test_a_structure_that_the_model_refuses_is_listed_apart(frames):
    frames[4].numbers[:] = 92
    result = suspicious_labels(frames, from_ase(EMT()), threshold=6)
    assert [k for k, _ in result.unread] == [4]


def test_the_command_lists_them_and_writes_a_page(frames, tmp_path, capsys):
    moved(frames[7], energy=frames[7].get_potential_energy() + 0.5)
    write_dataset(tmp_path / "d.extxyz", frames)
    page = tmp_path / "page.html"
    arguments = ["data", "verify", str(tmp_path / "d.extxyz"), "--page", str(page), "--json"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--model", "ase:ase.calculators.emt:EMT", "--threshold", "6"])
    assert stop.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["index"] for one in answer["labels"]["suspicions"]] == [7]
    assert "times the usual error" in page.read_text()
    assert page.read_text().count("<img") == 1


def test_a_page_of_nothing_says_so(tmp_path):
    page = write_suspicion_page(suspicious_labels([]), [], tmp_path / "p.html", title="x")
    assert "0 suspicions" in page.read_text()
