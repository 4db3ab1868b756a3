"""The report page: whole without a network, true to its result, and it works in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from ase.build import fcc111
from ase.calculators.emt import EMT

from ase_nnp import from_ase
from ase_nnp.workflows.adsorption import adsorb, write_report
from ase_nnp.workflows.adsorption.slabs import prepared

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def result():
    slab = prepared(fcc111("Cu", (2, 2, 3), vacuum=8.0))
    return adsorb(slab, "O", from_ase(EMT), placements=8)


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    write_report(result, path)
    return path


def test_the_page_holds_every_minimum_every_reason_and_the_reaction(page, result):
    text = page.read_text()
    assert "* + H2O(g) - H2(g) -&gt; O*" in text
    for one in result.minima:
        assert one.geometry.site in text
        assert f"{one.energy:.3f}" in text
    for one in result.rejected:
        assert one.reason in text


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text()
    ours = text.replace(re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1], "")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", ours)
    assert "http" not in ours


def test_text_of_others_is_no_markup(result, tmp_path):
    path = tmp_path / "page.html"
    write_report(replace(result, system="</script><b>x</b>", reaction="<i>"), path)
    text = path.read_text()
    assert "</script><b>x" not in text
    assert "<i>" not in text


def browser():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return name
    pytest.skip("there is no Chromium")


def opened(page, hash=""):
    """The page's elements after its scripts have run in a browser without a window."""
    flags = ["--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
    flags += ["--enable-unsafe-swiftshader", "--virtual-time-budget=20000", "--dump-dom"]
    address = f"{page.as_uri()}{hash}"
    done = subprocess.run(
        [browser(), *flags, address], capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_it_opens_from_disk_without_errors_and_draws_the_view_that_turns(page):
    dom = opened(page)
    body = re.search(r"<body[^>]*>", dom)[0]
    assert 'data-ready="yes"' in body
    assert "data-errors" not in body
    view = dom[dom.index('id="view"') :]
    assert "<canvas" in view  # WebGL
    assert "main-svg" in dom[dom.index('id="bars"') :]


@pytest.mark.slow
def test_the_table_sorts_by_a_number_as_a_number(page, result):
    dom = opened(page, "#sort-2")
    table = re.search(r'<table class="sorts">.*?</table>', dom, re.DOTALL)[0]
    assert 'aria-sort="ascending"' in table
    energies = [float(v) for v in re.findall(r'data-value="(-?[\d.e-]+)"', table)]
    ranks = [int(k) for k in re.findall(r'data-key="minimum-(\d+)"', table)]
    assert ranks == sorted(ranks)  # ascending energies are the ranking
    assert min(energies) == result.best.energy
    dom = opened(page, "#sort-1")
    table = re.search(r'<table class="sorts">.*?</table>', dom, re.DOTALL)[0]
    sites = re.findall(r'minimum-\d+"[^>]*><td class="number">\d+</td><td>([^<]*)</td>', table)
    assert len(sites) == len(result.minima)
    assert sites == sorted(sites)
