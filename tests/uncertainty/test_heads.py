"""Heads on one model: bars of energies, forces and stresses that follow from one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_models import Pair, molecules

from ase_nnp import NNPCalculator, predict
from ase_nnp.errors import ConfigError
from ase_nnp.uncertainty import load_uncertainty, save_uncertainty
from ase_nnp.uncertainty.methods.last_layer import _locate
from ase_nnp.uncertainty.methods.shallow import ShallowEnsemble

STEP = 1e-4


@pytest.fixture(scope="module")
def model():
    return Pair(seed=3).double().freeze()


def crystals(count=2):
    cells = molecules(count, seed=5, spread=0.1)
    for atoms in cells:
        atoms.set_cell([5.0, 5.5, 6.0])
        atoms.pbc = True
    return cells


def heads(model, shift=0.0, **options):
    """Five read-outs with their mean at the model, or ``shift`` away from it."""
    layer = _locate(model, molecules(3))
    shifts = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
    shifts = 0.1 * (shifts - shifts.mean(dim=0)) + shift
    return ShallowEnsemble([model], fitted=(layer, shifts), **options)


def energies(committee, atoms):
    return predict(committee, [atoms], ("energy_members",))[0]["energy_members"]


@pytest.mark.parametrize("shift", [0.0, 0.05], ids=["around the model", "beside it"])
def test_forces_of_heads_are_derivatives_of_their_energies(model, shift):
    committee = heads(model, shift, details=True, force_std_mode="component")
    atoms = crystals()[0]
    row = predict(committee, [atoms])[0]
    moved = []
    for sign in (1, -1):
        twin = atoms.copy()
        twin.positions[1, 2] += sign * STEP
        moved.append(energies(committee, twin))
    slope = -(moved[0] - moved[1]) / (2 * STEP)
    np.testing.assert_allclose(row["forces_members"][:, 1, 2], slope, atol=1e-7)
    assert row["forces"][1, 2] == pytest.approx(slope.mean(), abs=1e-7)
    assert row["forces_std"][1, 2] == pytest.approx(slope.std(ddof=1), abs=1e-7)


@pytest.mark.parametrize("shift", [0.0, 0.05], ids=["around the model", "beside it"])
def test_stresses_of_heads_are_strain_derivatives_of_their_energies(model, shift):
    committee = heads(model, shift, details=True)
    atoms = crystals()[0]
    for number, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        moved = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * STEP / 2
            strain[j, i] += sign * STEP / 2
            twin = atoms.copy()
            twin.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
            moved.append(energies(committee, twin))
        slope = (moved[0] - moved[1]) / (2 * STEP) / atoms.get_volume()
        row = predict(committee, [atoms], ("stress", "stress_std"))[0]
        stress = np.asarray(row["stress"]).reshape(3, 3)
        assert stress[i, j] == pytest.approx(slope.mean(), abs=1e-8)
        assert row["stress_std"][number] == pytest.approx(slope.std(ddof=1), abs=1e-8)


def test_a_batch_of_heads_is_its_structures_one_by_one(model):
    committee, structures = heads(model), crystals()
    wanted = ("energy", "forces", "stress", "energy_std", "forces_std", "stress_std")
    alone = [predict(committee, [atoms], wanted)[0] for atoms in structures]
    for one, row in zip(alone, predict(committee, structures, wanted), strict=True):
        for name in wanted:
            np.testing.assert_allclose(row[name], one[name], rtol=1e-9, atol=1e-12)


def test_what_is_asked_for_beside_a_spread_comes_too(model):
    committee, atoms = heads(model), crystals()[0]
    (plain,) = predict(model, [atoms], ("energy", "forces", "stress"))
    for more in ((), ("forces_std",), ("energy_std",), ("stress_std",)):
        (row,) = predict(committee, [atoms], ("energy", "forces", "stress", *more))
        assert {"energy", "forces", "stress", *more} <= set(row)
        for name, value in plain.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-9, atol=1e-12)


def test_kept_heads_give_forces_where_one_asks_for_them(model, tmp_path):
    save_uncertainty(heads(model, force_std="none"), tmp_path / "heads.uq")
    assert "forces_std" not in load_uncertainty(tmp_path / "heads.uq", model).outputs
    asked = {"method": "fitted", "path": tmp_path / "heads.uq", "force_std": "exact"}
    atoms = crystals()[0]
    atoms.calc = NNPCalculator(model, uncertainty=asked, dtype="float64")
    atoms.get_stress()
    names = ("energy_std", "forces_std", "stress_std")
    wanted = predict(heads(model), [atoms], names)[0]
    for name in names:
        np.testing.assert_allclose(atoms.calc.results[name], wanted[name], rtol=1e-9)
    with pytest.raises(ConfigError, match="no option samples"):
        load_uncertainty(tmp_path / "heads.uq", model, samples=3)
