"""Learning from energies, forces and stress."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import ase_nnp

#: Steps, and the part of the squared errors that may be left.
SHORT, LONG = (25, 0.3), (150, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("basis", "length"),
    [
        ("bessel", SHORT),
        ("spline", SHORT),
        pytest.param("bessel", LONG, marks=pytest.mark.slow),
        pytest.param("spline", LONG, marks=pytest.mark.slow),
    ],
)
def test_a_tiny_model_learns_energies_forces_and_stress_of_a_few_structures(tiny, basis, length):
    steps, left = length
    model = tiny(
        species=[1, 6, 29],
        edge_embed={"r_max": 4.0, "radial_basis": {"kind": basis}},
    )
    frames = [bulk("Cu", cubic=True), bulk("Cu", cubic=True), molecule("CH4")]
    energies, forces, stress = [], [], []
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
        forces.append(torch.tensor(atoms.get_forces()))
        flat = atoms.cell.rank == 3
        stress.append(torch.tensor(atoms.get_stress(voigt=False) if flat else np.zeros((3, 3))))
    batch = model.make_graph(frames)
    energies, forces, stress = torch.tensor(energies), torch.cat(forces), torch.stack(stress)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    history = []
    for _ in range(steps):
        out = model(batch)
        errors = [
            (out["energy"] - energies).square().mean(),
            (out["forces"] - forces).square().mean(),
            100 * (out["stress"] - stress).square().mean(),
        ]
        history.append([e.item() for e in errors])
        optimiser.zero_grad()
        sum(errors).backward()
        optimiser.step()
    for first, last in zip(history[0], history[-1], strict=True):
        assert last < left * first
    with torch.no_grad():
        assert model.eval()(batch)["forces"].requires_grad is False


def test_a_trained_model_comes_back_from_its_file(tiny, structures, tmp_path):
    model = tiny(avg_num_neighbors=20.0)
    model.set_energy_scale({8: -3.0}, shift=-1.0, scale=2.5)
    ase_nnp.save_model(model, tmp_path / "facet.nnp")
    again = ase_nnp.load_model(tmp_path / "facet.nnp", dtype="float64", device="cpu")
    for a, b in zip(
        ase_nnp.predict(model, structures), ase_nnp.predict(again, structures), strict=True
    ):
        assert a["energy"] == pytest.approx(b["energy"], abs=1e-12)
