"""``ase-nnp adsorb``: the ranking that the function gives, its files, and refusals."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import write

from ase_nnp import from_ase
from ase_nnp.workflows.adsorption import adsorb

MODEL = "ase:ase.calculators.emt:EMT"
QUICK = ("--placements", 2, "--steps", 25, "--fmax", 0.3)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A small slab of copper in a file."""
    monkeypatch.chdir(tmp_path)
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    slab.info.clear()  # ASE's own, which no file format holds
    write("slab.traj", slab)
    return slab


@pytest.mark.slow
def test_the_command_prints_and_writes_what_the_function_gives(run, here):
    words = ("adsorb", MODEL, "slab.traj", "H", *QUICK)
    code, out, err = run(*words, "--json", "-o", "minima.db", "--judge", MODEL)
    assert code == 0, err
    said = json.loads(out)
    alone = adsorb(here, "H", from_ase(EMT), placements=2, steps=25, fmax=0.3)
    assert said["reaction"] == "* + 1/2 H2(g) -> H*"
    assert said["minima"][0]["energy"] == pytest.approx(alone.best.energy, abs=1e-3)
    # The judge is the model: their single points agree.
    assert said["judged"][0]["judge_energy"] == pytest.approx(alone.best.energy, abs=1e-3)
    assert len(list(connect("minima.db").select())) == len(said["minima"]) + len(said["rejected"])

    code, out, _ = run(*words)
    assert code == 0
    assert f"{alone.best.energy:.3f}" in out
    assert "2 placements" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("slab.traj", "C", "O"), "takes [MODEL] SURFACE ADSORBATE"),
        (("slab.traj", "XY"), "XY"),
        (("nowhere.cif", "CO"), "nowhere.cif"),
        (("slab.traj", "CO", "--miller", "1x1"), "three integers"),
        (("slab.traj", "CO", "--dft", "abinit"), "one of"),
        (("slab.traj", "CO", "-o", "nowhere/minima.db"), "no folder"),
        (("slab.traj", "CO", "-o", "slab.traj"), "exists"),
        (("Cu", "CO", "--termination", "9"), "termination = 9"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_line(run, words, said):
    options = ("--no-relax-bulk",) if words[0] == "Cu" else ()
    code, out, err = run("adsorb", MODEL, *words, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_crystal_from_a_file_is_cut_along_the_plane_that_is_asked_for(run):
    write("Cu.cif", bulk("Cu", cubic=True))
    code, out, err = run(
        "adsorb", MODEL, "Cu.cif", "H", "--miller", "100", "--no-relax-bulk", *QUICK, "--json"
    )
    assert code in (0, 1), err
    surface = json.loads(out)["settings"]["surface"]
    assert surface["miller"] == [1, 0, 0]
    assert surface["bulk_id"].startswith("Cu-")


def test_bonds_name_each_pair_once():
    from ase_nnp.cli.commands.adsorb import _bonds

    assert _bonds([]) == ""
    bonds = [(0, "Cu-C", 1.98), (0, "Cu-C", 2.0), (1, "Cu-O", 2.111)]
    assert _bonds(bonds) == "Cu-C 1.98, 2.00; Cu-O 2.11"
