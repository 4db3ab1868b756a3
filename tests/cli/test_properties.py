"""``ase-nnp eos``, ``elastic``, ``phonons`` and ``neb``: the numbers of the functions beneath."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.io import read, write

from ase_nnp import NNPCalculator, build_model, load_model, save_model
from ase_nnp.uncertainty.files import save_uncertainty
from ase_nnp.uncertainty.fitting import fit

EOS = ("--span", "0.02")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A copper-like crystal of the Lennard-Jones family, relaxed, and two minima beside."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", a=3.4)
    atoms.calc = NNPCalculator(load_model("lj", dtype="float64", device="cpu"))
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        assert optimizer.run(fmax=1e-4, steps=100)
    write("cu.traj", atoms)
    return atoms


def test_eos_prints_what_the_function_gives(run, here):
    from ase_nnp.workflows.eos import equation_of_state

    expected = equation_of_state(here, here.calc, span=0.02)
    code, out, err = run("eos", "lj", "cu.traj", *EOS, "--dtype", "float64", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["bulk_modulus"] == pytest.approx(expected.bulk_modulus, rel=1e-6)
    assert report["std"] is None
    assert "No ±" in report["error_bar"]
    code, out, _ = run("eos", "lj", "cu.traj", *EOS, "--dtype", "float64", "--plot", "eos.png")
    assert code == 0
    assert f"{expected.volume:.4f}" in out
    assert Path("eos.png").exists()


def test_elastic_prints_the_tensor_and_the_constants_of_a_cubic_crystal(run, here):
    from ase_nnp.workflows.elastic import elastic_constants

    expected = elastic_constants(here, here.calc)
    code, out, err = run("elastic", "lj", "cu.traj", "--json", "--plot", "c.png")
    assert code == 0, err
    report = json.loads(out)
    np.testing.assert_allclose(report["tensor"], expected.tensor, rtol=1e-5, atol=1e-4)
    assert report["cubic"]["C44"] == pytest.approx(expected.tensor[3, 3], rel=1e-3)
    assert report["warnings"] == []
    code, out, _ = run("elastic", "lj", "cu.traj")
    assert f"{expected.cubic['C11']:.2f}" in out
    assert "C12" in out


def test_elastic_warns_of_a_cell_under_stress(run):
    write("tight.traj", bulk("Cu", a=3.3))
    code, _, err = run("elastic", "lj", "tight.traj")
    assert code == 0
    assert "under a stress" in err
    assert "relax --cell" in err


def test_phonons_print_frequencies_and_thermal_functions(run, here):
    from ase_nnp.workflows.phonons import phonons

    expected = phonons(here, here.calc, supercell=(2, 2, 2), points=11, engine="ase")
    words = ("lj", "cu.traj", "--supercell", "2,2,2", "--points", 11, "--engine", "ase")
    code, out, err = run("phonons", *words, "--json", "--plot", "bands.png")
    assert code == 0, err
    report = json.loads(out)
    np.testing.assert_allclose(report["bands"], expected.bands, atol=1e-3)
    thermal = expected.thermal(300)
    assert report["thermal"]["heat_capacity"] == pytest.approx(thermal["heat_capacity"], rel=1e-4)
    code, out, _ = run("phonons", *words)
    assert f"{expected.bands.max():.3f}" in out or "highest" in out


def minima():
    """A vacancy of the crystal that hops to a neighbor's place."""
    crystal = read("cu.traj") * (2, 2, 2)
    first, second = crystal.copy(), crystal.copy()
    for atoms in (first, second):
        atoms.calc = None
    second.positions[1] = crystal.positions[0]
    del first[0]
    del second[0]
    return first, second


def test_neb_writes_the_path_and_prints_the_barrier(run):
    first, second = minima()
    write("a.xyz", first)
    write("b.xyz", second)
    words = ("lj", "a.xyz", "b.xyz", "--images", 1, "--fmax", 0.1)
    code, out, err = run("neb", *words, "--json", "-o", "path.traj", "--plot", "neb.png")
    assert code == 0, err
    report = json.loads(out)
    images = read("path.traj", ":")
    energies = [image.get_potential_energy() for image in images]
    assert report["barrier"] == pytest.approx(max(energies) - energies[0], abs=1e-5)
    assert report["barrier"] > 0.1
    assert abs(report["reaction_energy"]) < 0.02  # the vacancies are alike
    assert Path("neb.png").exists()
    code, _, err = run("neb", *words[:3], "--images", 1, "--steps", 1, "--no-relax-ends")
    assert code == 3
    assert "did not converge" in err


def test_the_members_of_an_ensemble_give_error_bars(run, here):
    members = []
    for k, epsilon in enumerate((0.38, 0.40, 0.42)):
        model = build_model("lj", {"epsilon": epsilon}, dtype="float64", device="cpu")
        save_model(model, f"m{k}.nnp")
        members.append(load_model(f"m{k}.nnp", dtype="float64", device="cpu"))
    save_uncertainty(fit("ensemble", members), "e.uq", models=["m0.nnp"])
    options = ("--uncertainty", "e.uq", "--dtype", "float64")
    code, out, err = run("eos", "m0.nnp", "cu.traj", *EOS, *options, "--json")
    assert code == 0, err
    report = json.loads(out)
    # All constants are proportional to epsilon: so are their spreads, of 5 % (0.02 / 0.40).
    assert report["std"]["bulk_modulus"] == pytest.approx(0.05 * report["bulk_modulus"], rel=1e-3)
    assert report["std"]["volume"] == pytest.approx(0, abs=1e-4)
    assert "3 members" in report["error_bar"]
    _, out, _ = run("eos", "m0.nnp", "cu.traj", *EOS, *options)
    assert "±" in out
    _, out, _ = run("elastic", "m0.nnp", "cu.traj", *options, "--json")
    report = json.loads(out)
    assert report["moduli_std"]["bulk"] == pytest.approx(0.05 * report["moduli"]["bulk"], rel=1e-2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eos", "lj", "slab.traj"), "vacuum"),
        (("elastic", "lj", "slab.traj"), "vacuum"),
        (("eos", "lj"), "which structures"),
        (("eos", "lj", "cu.traj", "--form", "cubic"), "There are"),
        (("eos", "lj", "cu.traj", "--index", "7"), "holds 1"),
        (("eos", "lj", "cu.traj", "--plot", "x.bmp"), "a picture ends in"),
        (("elastic", "lj", "cu.traj", "--strain", "1"), "at most"),
        (("phonons", "lj", "cu.traj", "--supercell", "2,2"), "three whole numbers"),
        (("phonons", "lj", "cu.traj", "--engine", "abinit"), "There are"),
        (("neb", "lj", "cu.traj"), "which structures"),
        (("neb", "lj", "cu.traj", "slab.traj"), "different atoms"),
        (("neb", "lj", "cu.traj", "cu.traj", "-o", "q.foo"), "no format"),
    ],
)
def test_what_cannot_be_computed_is_one_line(run, words, said):
    write("slab.traj", fcc111("Cu", (1, 1, 3), vacuum=8, periodic=True))
    code, _, err = run(*words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert said in err
