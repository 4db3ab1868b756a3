"""Any potential as a model of torch-sim (where that is installed: Python 3.12)."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms
from ase.optimize import FIRE

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.models.torchsim import as_model


def lj() -> Potential:
    from lj_model import LennardJones

    return LennardJones(0.4, 2.3, 6.0).to(torch.float64)


def slab(seed: int) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), a=3.5, vacuum=6.0)
    atoms.pbc = (True, True, False)
    add_adsorbate(atoms, "O", 1.8, "fcc")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() >= 2))
    atoms.rattle(0.05, seed=seed)
    return atoms


def state_of(structures, pbc):
    """What torch-sim hands to a model, without torch-sim."""
    sizes = torch.tensor([len(a) for a in structures])
    return SimpleNamespace(
        positions=torch.tensor(np.concatenate([a.positions for a in structures])),
        atomic_numbers=torch.tensor(np.concatenate([a.numbers for a in structures])),
        cell=torch.tensor(np.stack([a.cell.array.T for a in structures])),
        pbc=torch.tensor(pbc),
        system_idx=torch.repeat_interleave(torch.arange(len(structures)), sizes),
    )


def test_a_state_gets_the_answers_of_the_calculator():
    sheared = bulk("Cu", a=3.6) * (2, 1, 1)
    sheared.rattle(0.1, seed=2)
    structures = [sheared, bulk("Cu", a=3.5, cubic=True)]
    results = as_model(lj())(state_of(structures, [True, True, True]))
    first = 0
    for k, atoms in enumerate(structures):
        atoms.calc = ase_nnp.NNPCalculator(lj())
        rows = slice(first, first + len(atoms))
        first += len(atoms)
        assert float(results["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(results["forces"][rows], atoms.get_forces(), atol=1e-10)
        np.testing.assert_allclose(results["stress"][k], atoms.get_stress(voigt=False), atol=1e-10)


def test_what_a_potential_lacks_is_said():
    class Silent(Potential):
        outputs = ("band_gap",)

    class Direct(Potential):
        outputs = ("energy", "forces")

    with pytest.raises(ConfigError, match="gives no energy, forces"):
        as_model(Silent())
    model = as_model(Direct())
    assert not model.compute_stress
    with pytest.raises(NotImplementedError):
        model.compute_stress = True


@pytest.fixture
def ts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch_sim", reason="needs torch-sim (Python 3.12)")


def test_torch_sim_finds_the_model_sound(ts):
    from torch_sim.models.interface import validate_model_outputs

    validate_model_outputs(as_model(lj()), torch.device("cpu"), torch.float64)


def test_torch_sim_relaxes_slabs_with_fixed_atoms(ts):
    structures = [slab(1), slab(2)]
    expected = []
    for atoms in structures:
        alone = atoms.copy()
        alone.calc = ase_nnp.NNPCalculator(lj())
        FIRE(alone, logfile=None).run(fmax=0.001, steps=500)
        expected.append(alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = ts.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
        held = np.concatenate([np.isin(np.arange(13), a.constraints[0].index) for a in structures])
        state.constraints = ts.constraints.FixAtoms(atom_idx=torch.from_numpy(held.nonzero()[0]))
        final = ts.optimize(
            state,
            as_model(lj(), stress=False),
            optimizer=ts.Optimizer.fire,
            convergence_fn=ts.generate_force_convergence_fn(1e-3, include_cell_forces=False),
            max_steps=1000,
        )
        relaxed = final.to_atoms()
    for given, one, other in zip(structures, relaxed, expected, strict=True):
        fixed = given.constraints[0].index
        np.testing.assert_allclose(one.positions[fixed], given.positions[fixed], atol=1e-12)
        np.testing.assert_allclose(one.positions, other.positions, atol=5e-3)
