"""Answers of an index at work: screened, evaluated and predicted like any dataset."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp import from_ase, open_dataset, predict, write_dataset
from ase_nnp.training.evaluation import evaluate
from ase_nnp.workflows.screened import merge
from ase_nnp.workflows.screening import screen


@pytest.fixture
def view(tmp_path):
    frames = []
    for k, metal in enumerate(["Cu", "Pt", "Cu", "Ni", "Cu"]):
        atoms = bulk(metal, cubic=True)
        atoms.rattle(0.05, seed=k)
        copy = atoms.copy()
        copy.calc = EMT()
        atoms.calc = SinglePointCalculator(
            atoms, energy=copy.get_potential_energy(), forces=copy.get_forces()
        )
        atoms.info = {"sid": k}
        frames.append(atoms)
    write_dataset(tmp_path / "d.aselmdb", frames)
    return open_dataset(tmp_path / "d.aselmdb").where("Cu")


@pytest.mark.slow
def test_a_view_is_predicted_evaluated_and_screened(view, tmp_path):
    model = from_ase(EMT())
    labels = [atoms.get_potential_energy() for atoms in view]
    predicted = [float(row["energy"]) for row in predict(model, view, properties=("energy",))]
    assert predicted == pytest.approx(labels, abs=1e-5)
    evaluation = evaluate([model], view)
    assert evaluation.structures == 3
    assert evaluation.models[0].metrics["energy_mae"] == pytest.approx(0, abs=1e-5)

    # A calculator of EMT does not pickle any more once it was used.
    screen(from_ase(EMT()), view, tmp_path / "run", workers=1)
    merge(tmp_path / "run", tmp_path / "out.extxyz")
    relaxed = [atoms.get_potential_energy() for atoms in open_dataset(tmp_path / "out.extxyz")]
    assert len(relaxed) == 3
    assert (np.array(relaxed) < np.array(labels) - 0.01).all()
