"""The Hessian against finite differences of the forces; descriptors that do not turn."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

import ase_nnp
from ase_nnp import NNPCalculator, load_model, sum_potentials
from ase_nnp import uncertainty as uq


def crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def differences(model, atoms, step=1e-4):
    """Minus the derivative of the forces, (3 N, N, 3), by central differences."""
    rows = []
    for n in range(len(atoms)):
        for axis in range(3):
            forces = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[n, axis] += sign * step
                moved.calc = NNPCalculator(model)
                forces.append(moved.get_forces())
            rows.append((forces[1] - forces[0]) / (2 * step))
    return np.array(rows)


def lj(**config):
    return ase_nnp.build_model("lj", config, device="cpu", dtype="float64")


def facet():
    small = ase_nnp.list_models()["facet"].test_config
    return ase_nnp.build_model("facet", small, seed=1, device="cpu", dtype="float64")


@pytest.mark.parametrize(
    "make",
    [
        lj,
        facet,
        lambda: sum_potentials([lj(), lj(epsilon=0.1, cutoff=9.0)], [1.0, -0.5]),
        lambda: uq.wrap("ensemble", [lj(), lj(epsilon=0.5)]),
    ],
    ids=["formula", "network", "sum", "ensemble"],
)
def test_the_hessian_is_the_derivative_of_the_forces(make):
    model, atoms = make(), crystal()
    hessian = NNPCalculator(model).get_hessian(atoms)
    assert hessian.shape == (12, 4, 3)
    expected = differences(model, atoms)
    np.testing.assert_allclose(hessian, expected, atol=1e-5 * np.abs(expected).max())
    square = hessian.reshape(12, 12)
    np.testing.assert_allclose(square, square.T, atol=1e-8 * np.abs(square).max())


def test_the_model_is_left_as_it_was():
    model = load_model("lj", device="cpu")
    calculator = NNPCalculator(model)
    calculator.get_hessian(crystal())
    assert str(model.dtype) == "torch.float32"
    assert not model.differentiable


def test_direct_forces_have_no_hessian():
    small = ase_nnp.list_models()["scn"].test_config
    model = ase_nnp.build_model("scn", small, seed=0, device="cpu")
    with pytest.raises(PropertyNotImplementedError, match="not the gradient"):
        NNPCalculator(model).get_hessian(molecule("H2O"))


def test_descriptors_do_not_turn_with_the_structure():
    atoms = molecule("CH3OH")
    calculator = NNPCalculator(facet())
    first = calculator.get_descriptors(atoms)
    assert first.shape[0] == len(atoms)
    assert first.std(axis=0).max() > 0
    atoms.rotate(37, (1, 2, 3))
    atoms.positions += 0.3
    np.testing.assert_allclose(calculator.get_descriptors(atoms), first, rtol=1e-6, atol=1e-8)
    assert np.array_equal(
        calculator.get_descriptors(atoms, invariants_only=True, num_layers=-1).shape, first.shape
    )
    with pytest.raises(PropertyNotImplementedError, match="invariant"):
        calculator.get_descriptors(atoms, invariants_only=False)
