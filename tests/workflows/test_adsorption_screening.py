"""Screening for adsorption minima: surfaces times adsorbates, their table, lines and pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT

from ase_nnp import from_ase, open_dataset
from ase_nnp.errors import ConfigError, DatasetError, TaskError
from ase_nnp.workflows.adsorption import (
    AdsorptionTable,
    Pairs,
    adsorb,
    adsorption_table,
    draw_adsorption_table,
    draw_scaling,
    draw_volcano,
)
from ase_nnp.workflows.screened import merge, results
from ase_nnp.workflows.screening import screen

QUICK = {"placements": 2, "steps": 25, "fmax": 0.3}


def slab(metal):
    return fcc111(metal, (2, 2, 2), vacuum=8.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three metals, one unknown to the model, times two adsorbates, shard by shard."""
    folder = tmp_path_factory.mktemp("screen") / "run"
    pairs = Pairs([slab("Cu"), slab("Pd"), slab("Ir")], ["O", "H"])
    for part in range(2):
        screen(
            from_ase(EMT),
            pairs,
            folder,
            task="adsorb",
            executor=partial(ThreadPoolExecutor, 1),
            shard=(part, 2),
            **QUICK,
        )
    return folder


def test_every_surface_meets_every_adsorbate_and_crystals_every_plane():
    pairs = Pairs([slab("Cu"), bulk("Cu")], ["CO", "CO+OH"], [(1, 1, 1), (1, 0, 0)])
    said = [(len(one), one.info["adsorbate"], one.info.get("miller")) for one in pairs]
    assert said == [
        (8, "CO", None),
        (8, "CO+OH", None),
        (1, "CO", [1, 1, 1]),
        (1, "CO+OH", [1, 1, 1]),
        (1, "CO", [1, 0, 0]),
        (1, "CO+OH", [1, 0, 0]),
    ]


@pytest.mark.slow
def test_a_screened_energy_is_that_of_the_search_alone(run):
    table = adsorption_table(results(run))
    assert table.adsorbates == ("O", "H")
    assert [name.split("-")[0] for name in table.surfaces] == ["Cu", "Pd"]
    alone = adsorb(slab("Pd"), "H", from_ase(EMT), **QUICK)
    assert table.energies[1, 1] == pytest.approx(alone.best.energy, abs=1e-6)
    assert table.sites[1][1] == alone.best.geometry.site
    assert table.reactions["H"] == "* + 1/2 H2(g) -> H*"
    assert np.isnan(table.stds).all()  # EMT has no error bars


def test_the_merged_file_is_the_same_table_and_failures_say_why(run, tmp_path):
    merged = merge(run, tmp_path / "best.extxyz")
    table = adsorption_table(open_dataset(tmp_path / "best.extxyz"))
    np.testing.assert_allclose(table.energies, adsorption_table(results(run)).energies, atol=1e-6)
    assert [one["index"] for one in merged.failures] == [4, 5]
    assert all("Ir" in one["error"] for one in merged.failures)


def test_where_nothing_passes_the_gate_the_reasons_are_counted(monkeypatch):
    from types import SimpleNamespace

    from ase_nnp.workflows.adsorption import pairs

    lost = [SimpleNamespace(reason="hole", placements=(0, 2)),
            SimpleNamespace(reason="desorbed", placements=(1,))]  # fmt: skip
    monkeypatch.setattr(pairs, "adsorb", lambda *_, **__: SimpleNamespace(rejected=lost, best=None))
    with pytest.raises(TaskError, match="O passed the gate: 1 desorbed, 2 hole"):
        pairs.most_stable(Pairs([slab("Cu")], ["O"])[0], None, None)


#: Anscombe's first quartet (1973, doi:10.1080/00031305.1973.10478966) and its published fit.
X = (10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5)
Y = (8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68)


@pytest.fixture
def anscombe():
    energies = np.array([X, Y]).T
    # A surface that lacks one of the two does not count.
    energies = np.vstack([energies, [3.0, np.nan]])
    names = tuple(f"metal {k}" for k in range(12))
    blank = (("", ""),) * 12
    return AdsorptionTable(names, ("C", "CH"), energies, np.full((12, 2), 0.3), blank, {})


def test_a_scaling_relation_has_the_published_slope_and_errors(anscombe):
    line = anscombe.scaling("C", "CH")
    assert line.slope == pytest.approx(0.500, abs=1e-3)
    assert line.intercept == pytest.approx(3.00, abs=1e-2)
    assert line.slope_std == pytest.approx(0.118, abs=1e-3)
    assert line.intercept_std == pytest.approx(1.125, abs=1e-3)
    assert line.residual == pytest.approx(1.237, abs=1e-3)
    assert line.count == 11
    assert "0.50 ± 0.12" in str(line)


def test_pictures_are_written_whole(anscombe, tmp_path):
    draw_adsorption_table(anscombe, tmp_path / "table.png")
    draw_scaling(anscombe, "C", "CH", tmp_path / "line.png")
    draw_volcano(anscombe, "C", tmp_path / "volcano.png", optimum=9.0)
    for name in ("table", "line", "volcano"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_meant_is_refused(anscombe):
    with pytest.raises(ConfigError, match="list of adsorbates"):
        Pairs([slab("Cu")], "CO")
    with pytest.raises(ConfigError, match="XY"):
        Pairs([slab("Cu")], ["CO", "XY"])
    with pytest.raises(ConfigError, match="no adsorbate 'O'"):
        anscombe.scaling("C", "O")
    with pytest.raises(DatasetError, match="no result"):
        adsorption_table([slab("Cu")])
    few = AdsorptionTable(
        ("a", "b"), ("C", "CH"), np.ones((2, 2)), np.ones((2, 2)), (("", ""),) * 2, {}
    )
    with pytest.raises(ConfigError, match="three or more"):
        few.scaling("C", "CH")
