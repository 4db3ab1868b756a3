"""Several models on the same structures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import write

import ase_nnp
from ase_nnp import from_ase
from ase_nnp.workflows.compare import compare, plot_comparison

SHIFT = {29: 1.5, 79: -20.0}


class Shifted(EMT):
    """EMT on another energy scale: a constant per element, and forces twice as large."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energy"] += sum(SHIFT[z] for z in self.atoms.numbers)
        self.results["forces"] = 2 * self.results["forces"]


def structures(count: int = 6) -> list[Atoms]:
    made = []
    for k in range(count):
        atoms = bulk(("Cu", "Au")[k % 2], cubic=True)
        atoms.numbers[: k // 2] = 29
        atoms.rattle(0.1, seed=k)
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def result():
    models = {"emt": from_ase(EMT), "shifted": from_ase(Shifted)}
    return compare(models, structures())


def test_a_constant_per_element_is_taken_out_exactly(result):
    np.testing.assert_allclose(result.elements, [29, 79])
    np.testing.assert_allclose(result.shifts, [[0, 0], [1.5, -20.0]], atol=1e-9)
    np.testing.assert_allclose(result.aligned[0], result.energy[0], atol=1e-9)
    np.testing.assert_allclose(result.energy_std, 0.0, atol=1e-9)
    assert result.spare == 4


def test_force_differences_are_those_of_the_calculators(result):
    truth = []
    for atoms in structures():
        atoms.calc = EMT()
        truth.append(atoms.get_forces())
    difference = np.concatenate(truth)  # twice the forces less the forces
    assert result.force_mae()[0, 1] == pytest.approx(np.abs(difference).mean(), abs=1e-12)
    rms = [np.sqrt((f**2 / 2).mean()) for f in truth]
    np.testing.assert_allclose(result.force_std, rms, atol=1e-12)


def test_without_alignment_energies_stay_as_they_are():
    models = {"emt": from_ase(EMT), "shifted": from_ase(Shifted)}
    raw = compare(models, structures(2), align=False)
    np.testing.assert_allclose(raw.aligned, raw.energy)
    assert raw.energy_mae()[0, 1] == pytest.approx((1.5 + 20.0) / 2)


def test_too_few_structures_are_said_to_be_too_few():
    models = {"emt": from_ase(EMT), "lj": from_ase(LennardJones)}
    assert compare(models, structures(2)).spare == 0


def test_one_model_is_no_comparison():
    with pytest.raises(ase_nnp.ConfigError, match="two models"):
        compare({"emt": from_ase(EMT)}, structures(2))


def test_a_picture_is_drawn(result):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra 'plot')")
    figure = plot_comparison(result)
    assert [len(axis.get_lines()) for axis in figure.axes] == [3, 3]  # two models and the zero


EMT_SPEC, LJ_SPEC = "ase:ase.calculators.emt:EMT", "ase:ase.calculators.lj:LennardJones"


def test_the_command_prints_tables_json_and_a_picture(run, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra 'plot')")
    write(tmp_path / "many.extxyz", structures())
    picture = tmp_path / "picture.png"
    words = ("compare", EMT_SPEC, LJ_SPEC, tmp_path / "many.extxyz")
    code, out, _ = run(*words, "--json", "--plot", picture)
    assert code == 0
    report = json.loads(out)
    assert report["models"] == [EMT_SPEC, LJ_SPEC]
    assert len(report["structures"]) == 6
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    code, out, _ = run(*words)
    assert code == 0
    assert "spread" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL", "DATA"], "MODEL MODEL"),
        ([EMT_SPEC, EMT_SPEC, "DATA"], "twice"),
        ([EMT_SPEC, "ase:nowhere:X", "DATA"], "names no calculator"),
        ([EMT_SPEC, LJ_SPEC, "nowhere.xyz"], "no such file"),
        ([EMT_SPEC, LJ_SPEC, "DATA", "--plot", "picture.bmp"], ".png, .pdf, .svg, .jpg"),
    ],
)
def test_bad_words_end_in_one_line(run, tmp_path, words, message):
    write(tmp_path / "two.extxyz", structures(2))
    code, _, err = run("compare", *(tmp_path / "two.extxyz" if w == "DATA" else w for w in words))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
