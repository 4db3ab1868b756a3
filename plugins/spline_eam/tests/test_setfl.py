"""Files of LAMMPS: written, read back, read by ASE's EAM, and refused where they are broken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.eam import EAM

import ase_nnp
from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp_spline_eam import write_setfl


def model_of(kind, **config):
    model = ase_nnp.build_model(
        "spline_eam",
        {"elements": ["Cu", "Ag"], "kind": kind, "cutoff": 5.0, "rho_max": 3.0, **config},
        seed=5,
        device="cpu",
        dtype="float64",
    )
    model.set_scales({29: -1.5, 47: 0.7}, energy=1.3)
    return model


def structures():
    rng = np.random.default_rng(2)
    crystal = bulk("Cu", cubic=True) * (2, 1, 1)
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    for atoms in (crystal, slab):
        atoms.numbers[rng.choice(len(atoms), 3, replace=False)] = 47
        atoms.rattle(0.1, rng=rng)
    return [crystal, slab]


def values(calculator, atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    stress = atoms.get_stress() if atoms.pbc.all() else np.zeros(6)
    return np.hstack([atoms.get_potential_energy(), atoms.get_forces().ravel(), stress])


@pytest.mark.parametrize(("kind", "refine"), [("alloy", 3), ("alloy", 4), ("fs", 4)])
def test_ases_eam_gives_the_same_on_a_written_file(tmp_path, kind, refine):
    model = model_of(kind)
    path = tmp_path / f"CuAg.eam.{kind}"
    write_setfl(model, path, refine)
    oracle = EAM(potential=str(path), form=kind)
    for atoms in structures():
        wanted = values(oracle, atoms)
        got = values(ase_nnp.NNPCalculator(model), atoms)
        assert np.abs(got - wanted).max() < 1e-8 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["alloy", "fs"])
def test_a_written_file_read_back_is_the_same_model(tmp_path, kind):
    model = model_of(kind)
    path = tmp_path / "CuAg.setfl"
    write_setfl(model, path)
    again = ase_nnp.load_model(path, device="cpu", dtype="float64")
    assert again.kind == kind
    for atoms in structures():
        one, two = (values(ase_nnp.NNPCalculator(m), atoms) for m in (model, again))
        assert np.abs(one - two).max() < 1e-9 * np.abs(one).max()


def test_a_file_that_ase_wrote_of_analytic_functions_gives_ases_numbers(tmp_path):
    r, rho = np.linspace(0, 5.5, 1101), np.linspace(0, 3, 601)
    path = tmp_path / "Cu.eam.alloy"
    lines = ["one", "two", "three", "1 Cu", f"601 {rho[1]} 1101 {r[1]} 5.5", "29 63.5 3.6 fcc"]
    falling = 0.4 * np.exp(-r) * (1 - r / 5.5) ** 3
    for table in (-np.sqrt(rho + 0.1), falling, 2 * r * np.exp(-2 * r) * (1 - r / 5.5) ** 3):
        lines += [f"{x:.17g}" for x in table]
    path.write_text("\n".join(lines))
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    wanted = values(EAM(potential=str(path)), atoms)
    model = ase_nnp.load_model("spline_eam", checkpoint=path, device="cpu", dtype="float64")
    got = values(ase_nnp.NNPCalculator(model), atoms)
    assert np.abs(got - wanted).max() < 1e-8 * np.abs(wanted).max()


def broken(path):
    write_setfl(model_of("alloy", num_r=6, num_rho=6), path, 3)
    lines = path.read_text().splitlines()
    cut = lines[: len(lines) // 2]
    swapped = [*lines[:3], "3 Cu Ag", *lines[4:]]
    strange = [*lines[:3], "2 Cu Qq", *lines[4:]]
    huge = [*lines[:4], "99999999999 0.1 10 0.1 5.0", *lines[5:]]
    negative = [*lines[:4], "16 -0.1 16 0.1 5.0", *lines[5:]]
    no_number = [*lines[:7], "word " * 5, *lines[8:]]
    infinite = [*lines[:7], "nan " * 5, *lines[8:]]
    more = [*lines, "1.0 2.0"]
    cases = (cut, swapped, strange, huge, negative, no_number, infinite, more, [], ["x"] * 9)
    return {str(number): "\n".join(case) for number, case in enumerate(cases)}


@pytest.mark.parametrize("number", range(10))
def test_a_broken_file_is_refused_by_name(tmp_path, number):
    path = tmp_path / "broken.eam.alloy"
    path.write_text(broken(tmp_path / "whole")[str(number)])
    with pytest.raises(CheckpointError, match=r"broken\.eam\.alloy"):
        ase_nnp.load_model("spline_eam", checkpoint=path, device="cpu")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "binary.eam.alloy"
    path.write_bytes(bytes(itertools.islice(itertools.cycle(range(256)), 9000)))
    with pytest.raises(CheckpointError, match="binary"):
        ase_nnp.load_model("spline_eam", checkpoint=path, device="cpu")


def test_fortran_writes_exponents_with_d(tmp_path):
    path = tmp_path / "CuAg.eam.alloy"
    write_setfl(model_of("alloy"), path)
    other = tmp_path / "Fortran.eam.alloy"
    lines = path.read_text().splitlines()
    body = [line.replace("e-", "D-").replace("e+", "D+") for line in lines[4:]]
    other.write_text("\n".join([*lines[:4], *body]))
    one, two = (ase_nnp.load_model(p, device="cpu", dtype="float64") for p in (path, other))
    atoms = structures()[0]
    assert np.array_equal(*(values(ase_nnp.NNPCalculator(m), atoms) for m in (one, two)))


def test_two_points_an_interval_are_too_few_to_write(tmp_path):
    with pytest.raises(ConfigError, match="at least 3"):
        write_setfl(model_of("alloy"), tmp_path / "x.alloy", 2)
