"""D3 against s-dftd3, the Fortran program of its authors, on structures of every periodicity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, graphene, molecule, mx2, nanotube

pytest.importorskip("tad_dftd3", reason="needs the extra 'd3'")
oracle = pytest.importorskip("dftd3.interface", reason="needs dftd3, the oracle of this test")

from ase_nnp import predict  # noqa: E402
from ase_nnp.models.corrections import build_term  # noqa: E402

pytestmark = pytest.mark.slow

FUNCTIONALS = ("pbe", "rpbe", "scan")


def polymer(length=2.6):
    """A zigzag chain, periodic along x alone."""
    places = [[0, 0, 0], [1.3, 0.8, 0], [0.1, -0.6, 0.9], [1.2, 1.4, -0.9]]
    return Atoms("CCHH", places, cell=[length, 0, 0], pbc=(True, False, False))


def structures():
    """Thirty: molecules, chains, layers, crystals; heavy elements, skewed and small cells."""
    names = ("H2O", "CH4", "C6H6", "NH3", "SiH4", "CH3CH2OH", "H2COH", "CH3Cl", "SO2", "Na2")
    made = [molecule(name) for name in names]
    made += [polymer(), polymer(2.9), nanotube(4, 0, length=1), nanotube(3, 3, length=1)]
    made[-2].pbc = made[-1].pbc = (False, False, True)

    slabs = [fcc111(s, (1, 1, n), vacuum=6.0) for s, n in (("Cu", 2), ("Pt", 3), ("Al", 2))]
    sheets = [graphene(vacuum=5.0), mx2("MoS2", vacuum=5.0)]
    for sheet in sheets:
        sheet.pbc = (True, True, False)
    adsorbed = fcc111("Ag", (2, 2, 2), vacuum=7.0)
    adsorbed += Atoms("CO", [[1.4, 1.0, 12.5], [1.4, 1.0, 13.7]])
    made += [*slabs, *sheets, adsorbed]

    made += [
        bulk("Cu"),
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("Si"),
        bulk("Fe"),
        bulk("Ar", a=5.3),
    ]
    made += [bulk("CsCl", "cesiumchloride", a=4.12), bulk("ZnS", "zincblende", a=5.41)]
    made += [bulk("Ti", "hcp"), bulk("Pb"), bulk("U", "fcc", a=4.3)]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.05, seed=seed)
    return made


def reference(atoms, damping, functional, three_body, width=0.529177210903):
    """Energy (eV), forces and stress of s-dftd3 with the same smooth cutoffs of 60 and 40 Bohr."""
    kind = {"bj": oracle.RationalDampingParam, "zero": oracle.ZeroDampingParam}[damping]
    param = kind(method=functional, atm=three_body)
    # It folds atoms into the cell, along open axes too: they need room, and a place in its middle.
    lattice, open_axes = atoms.cell.complete().array.copy(), ~atoms.pbc
    lattice[open_axes] *= 60.0 / np.linalg.norm(lattice[open_axes], axis=1)[:, None]
    middle = 0.5 * lattice[open_axes].sum(axis=0) - atoms.positions.mean(axis=0)
    place = atoms.positions + middle * (np.abs(lattice[open_axes]).sum(axis=0) > 0)
    periodic = atoms.pbc.any()
    model = oracle.DispersionModel(
        atoms.numbers,
        place / units.Bohr,
        lattice / units.Bohr if periodic else None,
        atoms.pbc if periodic else None,
    )
    bohr = width / units.Bohr
    model.set_realspace_cutoff(disp2=60.0, disp3=40.0, cn=40.0, width2=bohr, width3=bohr)
    computed = model.get_dispersion(param, grad=True)
    return computed["energy"] * units.Hartree, -computed["gradient"] * units.Hartree / units.Bohr


@pytest.mark.parametrize("functional", FUNCTIONALS)
@pytest.mark.parametrize("damping", ["bj", "zero"])
def test_thirty_structures_agree_with_s_dftd3(damping, functional):
    data = structures()
    assert len(data) == 30
    name = f"d3{damping}:{functional}"
    smooth = predict(build_term(name).to(torch.float64), data, ("energy",))
    # Forces with sharp cutoffs, for s-dftd3 has no smooth one for the count of neighbors.
    sharp = predict(build_term(name, {"width": 0.0}).to(torch.float64), data, ("energy", "forces"))
    worst = {"smooth": 0.0, "sharp": 0.0, "forces": 0.0}

    for atoms, soft, hard in zip(data, smooth, sharp, strict=True):
        energy, _ = reference(atoms, damping, functional, False)
        same, forces = reference(atoms, damping, functional, False, width=0.0)
        worst["smooth"] = max(worst["smooth"], abs(soft["energy"] - energy) / len(atoms))
        worst["sharp"] = max(worst["sharp"], abs(hard["energy"] - same) / len(atoms))
        worst["forces"] = max(worst["forces"], np.abs(hard["forces"] - forces).max())
    print(name, {key: f"{value:.1e}" for key, value in worst.items()})
    assert max(worst.values()) < 1e-6


@pytest.mark.parametrize("damping", ["bj", "zero"])
def test_the_energy_of_triples_agrees_with_s_dftd3(damping):
    data = [a for a in structures() if not a.pbc.any()]
    term = build_term(f"d3{damping}:pbe", {"three_body": True}).to(torch.float64)
    for atoms, row in zip(data, predict(term, data, ("energy", "forces")), strict=True):
        energy, forces = reference(atoms, damping, "pbe", True)
        assert abs(row["energy"] - energy) / len(atoms) < 1e-6
        np.testing.assert_allclose(row["forces"], forces, atol=1e-6)
