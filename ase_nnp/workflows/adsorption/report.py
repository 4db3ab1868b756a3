"""A report page of a search: ranking, intervals, sites from above, a view that turns, rejections.

One HTML file that carries plotly's bundle and loads nothing else.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import AseNnpError
from ase_nnp.files.atomic import write_whole
from ase_nnp.workflows.adsorption.fingerprints import Frame
from ase_nnp.workflows.adsorption.gate import REASONS
from ase_nnp.workflows.adsorption.layers import surface_atoms
from ase_nnp.workflows.adsorption.report_script import SCRIPT, STYLE
from ase_nnp.workflows.adsorption.result import AdsorptionResult
from ase_nnp.workflows.adsorption.surface_sites import sites

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["write_report"]

#: How far beyond the cell, in its own lengths, atoms are drawn from above.
MARGIN = 0.25


def write_report(result: AdsorptionResult, path: str | os.PathLike[str]) -> None:
    """Write the report page of a search.

    Parameters
    ----------
    result
        Of :func:`~ase_nnp.workflows.adsorption.adsorb`.
    path
        An ``.html`` file; it appears whole and replaces what is there.

    Raises
    ------
    AseNnpError
        plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise AseNnpError(
            "The report page needs plotly; install it with: pip install ase_nnp[pymatgen]"
        ) from error

    # "</script>" inside of data would end the script; names of files may hold anything.
    data = json.dumps(_data(result)).replace("<", "\\u003c")
    title = html.escape(f"{result.system}: adsorption")
    write_whole(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{_body(result)}"
        f'<script type="application/json" id="data">{data}</script>'
        f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>\n",
    )


def _body(result: AdsorptionResult) -> str:
    """All that is read without a script: the answer, the tables, the small print."""
    best = result.best
    answer = "No placement passed the gate; the table below says why."
    if best is not None:
        bar = "" if best.std is None else f" ± {best.std:.2f}"
        answer = f"{best.geometry.site}: {best.energy:.2f}{bar} eV"
    if result.unknown:
        answer += f". Unknown to the model, by its own flag: {', '.join(result.unknown)}"

    counts = result.counts
    said = (
        f"{counts['placements']} placements, {counts['distinct']} of them distinct; "
        f"{counts['minima']} minima, {counts['rejected']} placements rejected. Click a row to see "
        "its structure, a heading to sort."
    )
    settings = "; ".join(f"{k}: {v}" for k, v in result.settings.items() if k != "surface")
    surface = dict(result.settings.get("surface", {}))
    figure = '<div class="figure"><h2>{}</h2><div class="plot" id="{}"></div></div>'

    return "".join(
        [
            f"<h1>{_text(result.system)} with {_text(result.settings['model'])}</h1>",
            f'<p class="answer"><b>{_text(answer)}</b><br>{_text(result.reaction)} '
            f"(references: {_text(result.reference)})</p>",
            f'<p class="note">{_text(result.error_bar)}</p><p class="note">{_text(said)}</p>',
            "<h2>Minima</h2>",
            _table(*_minima(result)),
            '<div class="row">',
            figure.format("Adsorption energies, 90 % intervals", "bars"),
            figure.format("Sites and minima from above", "above"),
            '</div><h2>Structure: <span id="shown"></span></h2>',
            '<div class="plot" id="view" style="height:34em"></div>',
            "<h2>Rejected</h2>" if result.rejected else "",
            _table(*_rejected(result)) if result.rejected else "",
            f'<p class="note">{_text(settings)}.<br>Surface: {_text(surface)}</p>',
        ]
    )


def _minima(result: AdsorptionResult) -> tuple[Sequence[str], list[tuple[str, list[Any]]]]:
    columns = ["rank", "site", "energy (eV)", "± (eV)", "from (eV)", "to (eV)", "height (Å)"]
    columns += ["tilt (°)", "bonds (Å)", "placements", "ood score"]
    rows = []
    for rank, one in enumerate(result.minima, 1):
        shape, ends = one.geometry, one.interval or (None, None)
        bonds = ", ".join(f"{pair} {length:.2f}" for _, pair, length in shape.bonds)
        row = [rank, shape.site, one.energy, one.std, *ends, shape.height, shape.tilt, bonds]
        rows.append((f"minimum-{rank}", [*row, len(one.placements), one.ood_score]))
    return columns, rows


def _rejected(result: AdsorptionResult) -> tuple[Sequence[str], list[tuple[str, list[Any]]]]:
    columns = ["reason", "put at", "would be (eV)", "placements", "more", "meaning"]
    rows = []
    for k, one in enumerate(result.rejected, 1):
        row = [one.reason, one.start, one.energy, len(one.placements), one.detail]
        rows.append((f"rejected-{k}", [*row, REASONS.get(one.reason, "")]))
    return columns, rows


def _table(columns: Sequence[str], rows: Sequence[tuple[str, list[Any]]]) -> str:
    head = "".join(f"<th>{_text(c)}</th>" for c in columns)
    body = "".join(
        f'<tr data-key="{key}">{"".join(_cell(v) for v in row)}</tr>' for key, row in rows
    )
    return f'<table class="sorts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number" data-value="{value!r}">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{'' if value is None else _text(value)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _data(result: AdsorptionResult) -> dict[str, Any]:
    """What the script draws."""
    minima, structures = [], {}
    for rank, one in enumerate(result.minima, 1):
        low, high = one.interval or (None, None)
        minima.append(
            {
                "rank": rank,
                "site": one.geometry.site,
                "energy": one.energy,
                "low": low,
                "high": high,
            }
        )
        title = f"minimum {rank}, {one.geometry.site}, {one.energy:.3f} eV"
        structures[f"minimum-{rank}"] = _structure(one.atoms, title)

    for k, rejected in enumerate(result.rejected, 1):
        title = f"rejected {k}, {rejected.reason}"
        structures[f"rejected-{k}"] = _structure(rejected.atoms, title)

    return {
        "minima": minima,
        "structures": structures,
        "top": _from_above(result),
        "axis": f"eV, {result.reaction}",
    }


def _structure(atoms: Atoms, title: str) -> dict[str, Any]:
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    frame = Frame(atoms)
    return {
        "title": title,
        "symbols": atoms.get_chemical_symbols(),
        "positions": np.round(frame.inside(atoms.positions), 3).tolist(),
        "cell": np.round(frame.inside(atoms.cell[:]), 3).tolist(),
        "radii": [round(float(covalent_radii[z]), 2) for z in atoms.numbers],
        "colors": [_color(jmol_colors[z]) for z in atoms.numbers],
    }


def _color(rgb: Any) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in rgb)


def _from_above(result: AdsorptionResult) -> dict[str, Any]:
    """The slab's atoms from above, highest last, with distinct sites and minima."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    slab = result.slab
    frame = Frame(slab)
    local = frame.inside(slab.positions)
    top = set(surface_atoms(slab)[0].tolist())
    a, b = frame.lateral

    def wrapped(point: Any) -> list[float]:
        fractions = frame.inside(point)[:2] @ np.linalg.inv(frame.lateral)
        place = (fractions - np.floor(fractions + 1e-6)) @ frame.lateral
        return [round(float(v), 3) for v in place]

    # Images around the cell too, so that every site is seen with all of its atoms.
    atoms = []
    inverse = np.linalg.inv(frame.lateral)
    for k in np.argsort(local[:, 2]):
        for shift in frame.shifts(1.0):
            at = local[k, :2] + shift[:2]
            if (np.abs(at @ inverse - 0.5) < 0.5 + MARGIN).all():
                atoms.append(
                    {
                        "at": [round(float(v), 3) for v in at],
                        "radius": round(float(covalent_radii[slab.numbers[k]]), 2),
                        "color": _color(jmol_colors[slab.numbers[k]]),
                        "opacity": 0.95 if int(k) in top else 0.3,
                    }
                )
    places = [{"at": wrapped(s.position), "name": s.name} for s in sites(slab)]
    minima = [
        {
            "at": wrapped(one.atoms.positions[one.geometry.binding_atom]),
            "rank": rank,
            "name": f"{one.geometry.site}, {one.energy:.3f} eV",
        }
        for rank, one in enumerate(result.minima, 1)
    ]
    corners = [np.zeros(2), a, a + b, b, np.zeros(2)]
    cell = [[round(float(v), 3) for v in corner] for corner in corners]
    return {"atoms": atoms, "sites": places, "minima": minima, "cell": cell}
