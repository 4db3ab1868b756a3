"""D3 against energies of s-dftd3, its cutoffs, and the models that must refuse it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, graphene, molecule

pytest.importorskip("tad_dftd3", reason="needs the extra 'd3'")

import ase_nnp
from ase_nnp import ConfigError, NNPCalculator, predict
from ase_nnp.models.corrections import add_corrections, build_term
from ase_nnp.testing import conformance

# Slow here because the core's own tests run the suite over every registered correction.
test_becke_johnson_conforms = pytest.mark.slow(conformance("d3bj"))
test_zero_damping_conforms = pytest.mark.slow(conformance("d3zero"))


def term(name, dtype=torch.float64, **options):
    return build_term(name, options).to(dtype)


def chain():
    places = [[0, 0, 0], [1.3, 0.8, 0], [0.1, -0.6, 0.9], [1.2, 1.4, -0.9]]
    return Atoms("CCHH", places, cell=[2.6, 0, 0], pbc=(True, False, False))


def sheet():
    atoms = graphene(vacuum=5.0)
    atoms.pbc = (True, True, False)
    return atoms


STRUCTURES = {
    "C6H6": molecule("C6H6"),
    "chain": chain(),
    "graphene": sheet(),
    "Cu": bulk("Cu", a=3.6),
    "NaCl": bulk("NaCl", "rocksalt", a=5.64),
}
#: eV, by dftd3 1.7 (Fortran), cutoffs of 60 and 40 Bohr that end smoothly over 1 Bohr.
S_DFTD3 = {
    "C6H6": (-0.298157677, -0.068900033, -0.082817418, -0.019935512),
    "chain": (-0.110483738, -0.028953838, -0.044528768, -0.011449618),
    "graphene": (-0.17728966, -0.053769363, -0.0686841, -0.027514557),
    "Cu": (-0.590142884, -0.180116956, -0.508961105, -0.1644823),
    "NaCl": (-0.428629027, -0.135322775, -0.407265309, -0.121405326),
}


@pytest.mark.parametrize("name", sorted(S_DFTD3))
def test_energies_are_those_of_s_dftd3(name):
    keys = ("d3bj:pbe", "d3bj:scan", "d3zero:pbe", "d3zero:scan")
    for key, expected in zip(keys, S_DFTD3[name], strict=True):
        energy = predict(term(key), [STRUCTURES[name]], ("energy",))[0]["energy"]
        assert energy == pytest.approx(expected, abs=1e-6 * len(STRUCTURES[name])), key


@pytest.mark.parametrize(
    ("name", "expected"), [("d3bj:pbe", -0.297901481), ("d3zero:pbe", -0.082561221)]
)
def test_triples_of_benzene_are_those_of_s_dftd3(name, expected):
    energy = predict(term(name, three_body=True), [molecule("C6H6")], ("energy",))[0]["energy"]
    assert energy == pytest.approx(expected, abs=1e-7)


def test_every_periodicity_goes_into_one_batch():
    data = list(STRUCTURES.values())
    model = term("d3bj:pbe")
    together = predict(model, data, ("energy", "forces"))
    for atoms, row in zip(data, together, strict=True):
        alone = predict(model, [atoms], ("energy", "forces"))[0]
        assert row["energy"] == pytest.approx(alone["energy"], rel=1e-10)
        np.testing.assert_allclose(row["forces"], alone["forces"], atol=1e-10)


@pytest.mark.parametrize("option", ["cutoff", "coordination_cutoff", "three_body_cutoff"])
def test_energy_and_slope_are_continuous_at_every_cutoff(option):
    """Three carbon atoms, one of which leaves a cutoff of 5 Angstrom and comes to its switch."""
    reach = {"cutoff": 9.0, "coordination_cutoff": 8.0, "three_body_cutoff": 7.0, option: 5.0}
    model = term("d3bj:pbe", three_body=True, **reach)

    for r in (5.0, 5.0 - model.width * units.Bohr, 5.0 + 0.5 * model.width * units.Bohr):
        steps = r + np.array([-2e-5, -1e-5, 1e-5, 2e-5])
        frames = [Atoms("C3", [[0, 0, 0], [1.4, 0, 0], [0, x, 0]]) for x in steps]
        rows = predict(model, frames, ("energy", "forces"))
        energy = np.array([row["energy"] for row in rows])
        slope = np.array([row["forces"][2, 1] for row in rows])
        # A jump is what the slopes on both sides do not explain; a sharp cutoff has 1e-4 eV here.
        jump = energy[2] - energy[1] + 1e-5 * (slope[1] + slope[2])
        kink = (slope[2] - slope[1]) - (slope[1] - slope[0] + slope[3] - slope[2])
        assert abs(jump) < 1e-10
        assert abs(kink) < 1e-8


def test_forces_and_stress_are_differences_of_energies():
    model = term("d3zero:rpbe")
    atoms = bulk("NaCl", "rocksalt", a=5.4)
    atoms.rattle(0.1, seed=2)
    row = predict(model, [atoms], ("energy", "forces", "stress"))[0]
    for sign_axis in range(3):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0, sign_axis] += sign * 1e-3
            strained = atoms.copy()
            strain = np.eye(3)
            strain[sign_axis, sign_axis] += sign * 1e-4
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            ends.append([r["energy"] for r in predict(model, [moved, strained], ("energy",))])
        force = -(ends[0][0] - ends[1][0]) / 2e-3
        stress = (ends[0][1] - ends[1][1]) / 2e-4 / atoms.get_volume()
        assert row["forces"][0, sign_axis] == pytest.approx(force, abs=1e-6)
        assert row["stress"][sign_axis, sign_axis] == pytest.approx(stress, abs=1e-6)


def test_single_precision_is_enough():
    for atoms in STRUCTURES.values():
        rows = [
            predict(term("d3bj:pbe", dtype), [atoms], ("energy", "forces"))[0]
            for dtype in (torch.float64, torch.float32)
        ]
        assert rows[1]["energy"] == pytest.approx(rows[0]["energy"], rel=1e-5)
        np.testing.assert_allclose(rows[1]["forces"], rows[0]["forces"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("d3bj", "needs one of"),
        ("d3bj:pbee", "'d3bj:pbe'"),
        ("d3zero:r2scan", "found 'r2scan'"),
        ("d3bj:r2scann", "r2scan"),
    ],
)
def test_an_unknown_functional_is_refused_with_near_ones(name, said):
    with pytest.raises(ConfigError, match=said):
        build_term(name)


def test_names_are_read_as_people_write_them():
    keys = ("d3bj:B3-LYP", "d3bj:b3lyp", "d3bj:b3lyp5")
    energies = [predict(term(k), [molecule("C6H6")], ("energy",))[0]["energy"] for k in keys]
    assert energies[0] == energies[1] == energies[2]


def test_cutoffs_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"cutoff=0\.1"):
        build_term("d3bj:pbe", {"cutoff": 0.1})


def published(functional, kind="total"):
    model = ase_nnp.build_model("zbl", dtype="float64", device="cpu")
    model.energy_kind = kind
    model.provenance = {"source": "a.pt", "functional": functional}
    return model


@pytest.mark.parametrize(
    "functional",
    ["RPBE+D3", "PBE-D3(BJ)", "optB88-vdW", "r2SCAN+rVV10", "ωB97M-V", "r2SCAN-3c", "PBE/D4, VASP"],
)
def test_a_model_that_holds_dispersion_refuses_it(functional):
    with pytest.raises(ConfigError, match="would count it twice"):
        add_corrections(published(functional), ["d3bj:rpbe"])


@pytest.mark.parametrize(
    ("own", "name"),
    [("PBE(+U), through another model", "pbe"), ("B3-LYP/def2-TZVP", "b3-lyp"), ("", "scan")],
)
def test_a_model_without_dispersion_takes_it_without_a_warning(own, name):
    corrected = add_corrections(published(own), [f"d3bj:{name}"])
    assert corrected.corrections == (f"d3bj:{name}",)


def test_a_model_of_adsorption_energies_refuses_it():
    with pytest.raises(ConfigError, match="adsorption energies"):
        add_corrections(published("RPBE", "adsorption"), ["d3bj:rpbe"])


@pytest.mark.parametrize(("own", "other"), [("PBE", "scan"), ("RPBE", "pbe"), ("r2SCAN", "scan")])
def test_another_functional_than_the_model_was_trained_on_is_said(own, other):
    with pytest.warns(UserWarning, match=f"parameters for {other}"):
        add_corrections(published(own), [f"d3bj:{other}"])


def test_it_reaches_a_calculator_beside_a_short_model():
    atoms = molecule("C6H6")
    atoms.calc = NNPCalculator(published("PBE"), corrections=["d3bj:pbe"])
    expected = predict(term("d3bj:pbe"), [atoms], ("energy", "forces"))[0]
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"], atol=1e-9)
