"""The picture of a relaxation: what is drawn, and what its title says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc111
from ase.constraints import FixAtoms
from ase.io import write

from ase_nnp.errors import ConfigError
from ase_nnp.workflows.picture import draw, draw_relaxation

pytest.importorskip("matplotlib")


def slab_with_oxygen(site="fcc", height=1.2):
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 2 for atom in slab]))
    add_adsorbate(slab, "O", height, site)
    slab.info.clear()
    return slab


@pytest.fixture
def figures(monkeypatch):
    """Figures instead of files."""
    drawn = []
    monkeypatch.setattr(
        "ase_nnp.workflows.picture.save_figure", lambda figure, path: drawn.append(figure)
    )
    return drawn


@pytest.mark.slow
def test_start_end_course_and_error_bar_are_drawn(figures, tmp_path):
    start, end = slab_with_oxygen(height=1.6), slab_with_oxygen()
    energies = [-1.0, -1.5, -1.6]
    draw_relaxation(
        start, end, tmp_path / "r.png", energies=energies, energy_std=0.25, title="O on copper"
    )
    (figure,) = figures
    *views, course = figure.axes
    titles = [axes.get_title() for axes in views]
    assert titles == [
        f"{a}, {b}" for a in ("start", "end") for b in ("from the side", "from above")
    ]
    np.testing.assert_allclose(course.lines[0].get_ydata(), energies)
    assert course.get_title() == "energy, at the end -1.600 ± 0.250 eV"
    bar = course.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [-1.85, -1.35])
    assert figure._suptitle.get_text() == "O on copper"


def test_one_cell_is_drawn_with_its_outline_and_held_atoms_are_crossed(figures, tmp_path):
    slab = slab_with_oxygen()
    draw(slab, tmp_path / "s.png")
    side = figures[0].axes[0]
    # ASE draws the outline as hundreds of short dashes, besides a disc for each atom.
    assert len(side.patches) > len(slab) + 20
    crosses = [line for line in side.lines if line.get_marker() == "x"]
    heights = sorted(round(float(line.get_ydata()[0]), 3) for line in crosses)
    assert 2 <= len(crosses) <= 4  # the lowest layer has four, some behind others
    assert heights[0] == heights[-1]


def test_a_molecule_without_a_cell_is_drawn_too(tmp_path):
    from ase.build import molecule

    draw(molecule("CH3OH"), tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 3000


@pytest.mark.parametrize("name", ["a.bmp", "nowhere/a.png"])
def test_what_cannot_be_drawn_is_refused(name, tmp_path):
    with pytest.raises(ConfigError):
        draw(bulk("Cu"), tmp_path / name)


EMT = "ase:ase.calculators.emt:EMT"


@pytest.mark.slow
def test_the_command_draws_with_the_site_and_the_energy_of_adsorption(
    tmp_path, monkeypatch, capsys
):
    from ase.calculators.emt import EMT as Calculator

    from ase_nnp.cli import main

    monkeypatch.chdir(tmp_path)
    write("o.traj", slab_with_oxygen())
    with pytest.raises(SystemExit) as stop:
        main(["relax", EMT, "o.traj", "--plot", "o.png", "-o", "r.traj", "--json"])
    assert stop.value.code == 0
    row = json.loads(capsys.readouterr().out)["structures"][0]
    assert row["adsorption_site"] == "fcc hollow"
    assert row["reaction"] == "* + H2O(g) - H2(g) -> O*"
    assert Path("o.png").stat().st_size > 10_000

    # The same by hand: four relaxations with ASE alone.
    from ase.build import molecule
    from ase.io import read
    from ase.optimize import BFGS

    def relaxed(atoms):
        atoms.calc = Calculator()
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
        return atoms.get_potential_energy()

    with_it = read("r.traj")
    clean = with_it[:-1]
    energies = [relaxed(a) for a in (with_it, clean, molecule("H2O"), molecule("H2"))]
    expected = energies[0] - energies[1] - energies[2] + energies[3]
    assert row["adsorption_energy"] == pytest.approx(expected, abs=0.03)
