"""``ase-nnp vibrations`` and ``gibbs``: the numbers of the functions beneath."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write
from ase.optimize import BFGS
from ase.units import invcm

import ase_nnp
from ase_nnp.uncertainty.files import save_uncertainty
from ase_nnp.uncertainty.fitting import fit
from ase_nnp.workflows import thermo
from ase_nnp.workflows.vibrations import vibrations

MODEL = "ase:ase.calculators.emt:EMT"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A relaxed water molecule of EMT."""
    monkeypatch.chdir(tmp_path)
    atoms = molecule("H2O")
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=200)
    atoms.calc = None
    write("water.xyz", atoms)
    return atoms


def test_vibrations_print_what_the_function_gives(run, here):
    expected = vibrations(here, ase_nnp.from_ase(EMT))
    words = ("vibrations", MODEL, "water.xyz", "--animate", "modes.xyz", "--plot", "modes.png")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    report = json.loads(out)
    waves = expected.get_internal_energies().real / invcm
    np.testing.assert_allclose(report["frequencies"], waves, rtol=1e-3)
    assert report["zero_point_energy"] == pytest.approx(expected.get_zero_point_energy(), rel=1e-3)
    assert report["rigid_modes"] == 6
    assert Path("modes.xyz").stat().st_size > 500
    assert Path("modes.png").exists()
    code, out, _ = run(*words[:3], "--free", "1,2")
    assert code == 0
    assert "2 of 3 atoms move" in out


def test_gibbs_prints_the_free_energy_and_its_parts(run, here):
    expected = thermo.gibbs(thermo.gas(here, ase_nnp.from_ase(EMT), symmetry=2), 400.0, 2e5)
    words = ("gibbs", MODEL, "water.xyz", "-T", 400, "-p", 2e5, "--symmetry", 2)
    code, out, err = run(*words, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["gibbs"] == pytest.approx(expected.value.value, abs=1e-4)
    assert report["entropy"] == pytest.approx(expected.entropy, rel=1e-4)
    assert (report["symmetry"], report["spin"]) == (2, 0)
    assert report["gibbs_std"] is None
    code, out, _ = run(*words)
    assert code == 0
    assert "ideal gas" in out
    assert "without uncertainty" in out


def test_members_give_their_bars(run):
    write("pair.xyz", molecule("N2"))
    members = []
    for k, epsilon in enumerate((0.38, 0.40, 0.42)):
        model = ase_nnp.build_model("lj", {"epsilon": epsilon}, dtype="float64", device="cpu")
        ase_nnp.save_model(model, f"m{k}.nnp")
        members.append(ase_nnp.load_model(f"m{k}.nnp", dtype="float64", device="cpu"))
    save_uncertainty(fit("ensemble", members), "members.uq")
    words = ("gibbs", "m0.nnp", "pair.xyz", "--uncertainty", "members.uq", "--symmetry", 2)
    code, out, err = run(*words, "--json")
    assert code == 0, err
    report = json.loads(out)
    # A pair's depth is proportional to epsilon.
    assert report["energy_std"] / abs(report["energy"]) == pytest.approx(0.02 / 0.40, rel=1e-3)
    assert report["gibbs_std"] > 0


def test_gibbs_which_draws_nothing_offers_no_picture(run):
    for command, draws in (("vibrations", True), ("gibbs", False)):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert ("--plot" in out) is draws


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vibrations", MODEL), "which structures"),
        (("vibrations", MODEL, "water.xyz", "--free", "a"), "indices"),
        (("vibrations", MODEL, "water.xyz", "--rigid", "half"), "translations"),
        (("gibbs", MODEL, "water.xyz", "--kind", "liquid"), "adsorbate"),
        (("gibbs", MODEL, "water.xyz", "-T", "0"), "positive"),
        (("gibbs", MODEL, "water.xyz", "--plot", "g.png"), "--plot"),
    ],
)
def test_wrong_input_ends_in_one_line(run, words, said):
    code, _, err = run(*words)
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--saddle",), "--saddle: not of a gas"),
        (("--treatment", "quasi-rrho"), "--treatment: not of a gas"),
        (("--kind", "adsorbate", "--symmetry", "2", "--spin", "1"), "--symmetry, --spin"),
    ],
)
def test_gibbs_refuses_options_that_would_count_for_nothing(run, words, said):
    code, out, err = run("gibbs", MODEL, "water.xyz", *words)
    assert (code, out) == (2, "")
    assert said in err
