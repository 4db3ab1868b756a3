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


@pytest.mark.slow
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


def test_the_page_says_what_the_model_does_not_know(result, tmp_path):
    write_report(replace(result, unknown=("slab",)), tmp_path / "page.html")
    assert "by its own flag: slab" in (tmp_path / "page.html").read_text()


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


#: The largest height of a corner of the cell over what the eye sees there: above 1 it is cut.
SEEN = """
const cell = outline(Object.values(data.structures)[0].cell), eye = camera.eye;
const far = Math.hypot(eye.x, eye.y, eye.z), to = [eye.x / far, eye.y / far, eye.z / far];
const box = ["x", "y", "z"].map(k => cell[k].filter(v => v !== null));
const low = box.map(v => Math.min(...v)), size = box.map((v, k) => Math.max(...v) - low[k]);
const mean = Math.cbrt(size[0] * size[1] * size[2]), up = Math.hypot(to[0], to[1]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const high = [-to[2] * to[0] / up, -to[2] * to[1] / up, up];
const worst = Math.max(...box[0].map((_, n) => {
  const p = [0, 1, 2].map(k => (box[k][n] - low[k] - size[k] / 2) / mean);
  return Math.abs(dot(p, high)) / ((far - dot(p, to)) * Math.tan(Math.PI / 8));
}));
document.body.dataset.worst = worst;
"""


@pytest.mark.slow
@pytest.mark.parametrize("vacuum", [4.0, 25.0])
def test_the_whole_cell_is_inside_the_view(result, tmp_path, vacuum):
    atoms = result.minima[0].atoms.copy()
    atoms.center(vacuum=vacuum, axis=2)
    path = tmp_path / "page.html"
    write_report(replace(result, minima=[replace(result.minima[0], atoms=atoms)]), path)
    page, _, end = path.read_text().rpartition("</body>")
    path.write_text(f"{page}<script>{SEEN}</script></body>{end}")

    worst = float(re.search(r'data-worst="([^"]+)"', opened(path))[1])
    assert 0.4 < worst < 0.95
