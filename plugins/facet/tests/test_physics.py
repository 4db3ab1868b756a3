"""What any potential owes, and where this one stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import ase_nnp
from ase_nnp.testing import conformance

# Slow here because the core's own tests run the suite over every registered family.
test_conformance = pytest.mark.slow(conformance("facet"))


def test_energy_an_atom_does_not_depend_on_the_size_of_the_cell(tiny):
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.1, seed=0)
    one, many = ase_nnp.predict(tiny(), [atoms, atoms.repeat((2, 2, 1))], ("energy",))
    assert abs(one["energy"] / len(atoms) - many["energy"] / (4 * len(atoms))) < 1e-10


def test_forces_and_stress_are_the_derivatives(tiny, structures):
    model, atoms = tiny(), structures[0]
    atoms.calc = ase_nnp.NNPCalculator(model)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    step = 1e-5
    for atom, axis in ((0, 0), (3, 2), (5, 1)):
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            values.append(ase_nnp.predict(model, [moved], ("energy",))[0]["energy"])
        slope = (values[0] - values[1]) / (2 * step)
        assert -slope == pytest.approx(forces[atom, axis], rel=1e-6, abs=1e-8)
    for i, j in ((0, 0), (1, 2)):
        values = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ strain, scale_atoms=True)
            values.append(ase_nnp.predict(model, [moved], ("energy",))[0]["energy"])
        slope = (values[0] - values[1]) / (2 * step) / atoms.get_volume()
        assert slope == pytest.approx(stress[i, j], rel=1e-5, abs=1e-8)


def second_derivatives(model, distances):
    """Second derivatives of a dimer's energy along x, from its exact forces."""
    step = 2e-6
    frames = [
        Atoms("OH", [[0, 0, 0], [d + s * step, 0.1, 0.2]]) for d in distances for s in (-1, 1)
    ]
    forces = [r["forces"][1, 0] for r in ase_nnp.predict(model, frames, ("forces",))]
    return -(np.array(forces[1::2]) - np.array(forces[::2])) / (2 * step)


def jumps(model, delta):
    """Changes of the second derivative across the envelope's begin, middle and end."""
    at = np.sqrt(np.array([3.2, 3.6, 4.0]) ** 2 - 0.05)
    return np.abs(second_derivatives(model, at + delta) - second_derivatives(model, at - delta))


@pytest.mark.parametrize("mixer", ["s2-polynomial", "s2-mlp-mixer"])
@pytest.mark.parametrize("kind", ["smooth", "exp", "xplor"])
def test_the_second_derivative_is_continuous_through_the_cutoff(tiny, kind, mixer):
    edge = {"r_max": 4.0, "envelope": {"kind": kind, "cutoff_start": 0.8}}
    # With the smooth norm a fresh published mixer is too faint to tell a jump from rounding.
    eps = "auto" if mixer == "s2-polynomial" else 1e-6
    model = tiny(edge_embed=edge, self_connection={"kind": mixer}, norm_eps=eps)
    coarse, fine = jumps(model, 1e-4), jumps(model, 1e-5)
    assert np.all(fine < 0.15 * coarse + 1e-5)
    assert coarse.max() > 1e-4


def test_the_published_envelope_has_the_known_jump_in_its_middle(tiny):
    edge = {"r_max": 4.0, "envelope": {"kind": "exp", "cutoff_start": 0.8}}
    model = tiny(edge_embed=edge, reference=True, self_connection={"kind": "s2-mlp-mixer"})
    coarse, fine = jumps(model, 1e-4), jumps(model, 1e-5)
    assert fine[1] > 0.5 * coarse[1] > 1e-2


def mirrored(atoms):
    other = atoms.copy()
    other.set_cell(-atoms.cell)
    other.positions = -atoms.positions
    return other


@pytest.mark.parametrize("kind", ["s2-polynomial", "s2-mlp-mixer"])
@pytest.mark.parametrize("parity", ["o", "e"])
def test_inversion_is_a_symmetry_exactly_where_the_labels_say_so(tiny, structures, parity, kind):
    level = f"8x0e + 4x1{parity} + 4x2e"
    # The published norm: with the smooth one the odd part of a fresh model is lost in rounding.
    model = tiny(hidden_irreps=[level, level], self_connection={"kind": kind}, norm_eps=1e-6)
    said = model.describe()
    assert said["symmetry"] == {"o": "O(3)", "e": "SO(3)"}[parity]
    assert said["rotations"] == ("exact" if "poly" in kind else "up to a grid of 110 points")
    here, there = ase_nnp.predict(model, [structures[2], mirrored(structures[2])])
    error = np.abs(here["forces"] + there["forces"]).max() / np.abs(here["forces"]).max()
    assert error < 1e-10 if parity == "o" else error > 1e-6


def turned(atoms):
    other = atoms.copy()
    other.rotate(37, (1, 2, 3))
    return other, np.linalg.lstsq(atoms.positions, other.positions, rcond=None)[0]


def rotation_error(model, atoms):
    other, turn = turned(atoms)
    here, there = ase_nnp.predict(model, [atoms, other])
    return np.abs(here["forces"] @ turn - there["forces"]).max() / np.abs(here["forces"]).max()


def drive(model):
    """Enlarge what goes into the nonlinearity on the sphere, as training does."""
    with torch.no_grad():
        for layer in model.layers[:-1]:
            for weight in layer.mixer.proj_up.weights.values():
                weight.mul_(2)
    return model


def test_the_published_mixer_nears_rotation_symmetry_as_its_grid_is_refined(tiny, structures):
    errors = []
    for degree in (5, 11, 23):
        grid = {"quadrature": "lebedev", "degree": degree}
        model = tiny(self_connection={"kind": "s2-mlp-mixer", "s2_grid": grid})
        errors.append(rotation_error(drive(model), structures[2]))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[0] > 1e-4


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("level", ["8x0e + 4x1o + 4x2e", "8x0e + 4x1e + 2x2e + 2x3e"])
def test_the_polynomial_mixer_keeps_rotations_to_rounding(tiny, structures, level, order):
    model = tiny(
        hidden_irreps=[level, level],
        self_connection={"polynomial": {"order": order, "channels": 4}},
        interaction={"message": {"max_ell": 3}},
    )
    assert rotation_error(drive(model), structures[2]) < 1e-11


def test_elements_outside_the_list_are_refused(tiny):
    with pytest.raises(ase_nnp.UnsupportedElementError, match="Cu"):
        ase_nnp.predict(tiny(species=[1, 8]), [bulk("Cu")])


def test_large_shifts_cost_single_precision_no_digits(tiny, structures):
    model = tiny().float()
    before = ase_nnp.predict(model, structures[:1], ("energy",))[0]["energy"]
    model.set_energy_scale({12: -4096.0, 8: -2048.0})
    after = ase_nnp.predict(model, structures[:1], ("energy",))[0]["energy"]
    assert after + 4 * 6144 == pytest.approx(before, abs=2e-6)
