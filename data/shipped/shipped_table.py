"""Put the reports of the scripts beside this one into the table of shipped models.

    python data/shipped/shipped_table.py [--keep NAME]     # then: python benchmarks/tables.py

The column "what ships" of ``benchmarks/results/shipped.json`` is made anew from ``report.json`` and
``speed.json``. Before another model ships, ``--keep facet-metals-2`` keeps the old one's column.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))

from measurement import RESULTS, write_measurement  # noqa: E402

SHIPS = "what ships"


def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the scripts found about the model that ships, and its speed."""
    return tuple(json.loads((HERE / f"{name}.json").read_text()) for name in ("report", "speed"))


def column(report: dict[str, Any], speed: dict[str, Any]) -> list[str]:
    """Return the cells of the column, in the order of the table's rows."""
    return [*crystals(report), *short_range(report), *trust(report), *adsorption(report, speed)]


def percent(share: float) -> str:
    """Return a share as the tables write it."""
    return f"{100 * share:.0f} %"


def crystals(report: dict[str, Any]) -> list[str]:
    """Elastic constants, phonons and vacancies beside the teacher's."""
    elastic = report["elastic"]["largest_relative_error"]
    vacancies = report["vacancies"]["error"]
    imaginary = report["phonons"]["imaginary_where_the_teacher_has_none"]
    stiff, far = (max(errors, key=errors.__getitem__) for errors in (elastic, vacancies))
    return [
        f"**{sum(e <= 0.15 for e in elastic.values())} of {len(elastic)}** "
        f"({stiff} {percent(elastic[stiff])})",
        f"{len(imaginary)} of {len(report['phonons']['model'])}",
        f"**{sum(e <= 0.15 for e in vacancies.values())} of {len(vacancies)}** "
        f"({far} {vacancies[far]:.2f} off)",
    ]


def short_range(report: dict[str, Any]) -> list[str]:
    """Repulsive cores, and placements that end where they should not."""
    cores, places = report["cores"], report["placements"]
    soft = {*map(str, cores["pull_at_0.5"]), *map(str, cores["fall_inwards_below_0.6"])}
    return [
        f"{len(soft)} of {cores['pairs']}",
        f"{len(places['into_the_metal'])} of {places['over_an_atom']}",
        f"**{places['holes']} of {places['random']}** ({places['holes_flagged']} flagged)",
    ]


def trust(report: dict[str, Any]) -> list[str]:
    """What the flag marks, and what the intervals hold."""
    wide, domain = report["wide"]["all"], report["domain"]["all"]
    return [
        f"**{percent(wide['recall'])}** of {wide['very_wrong']}; "
        f"{percent(wide['precision'])} of {wide['flagged']}",
        f"{percent(domain['inside_90'])}; {percent(wide['inside_90'])}",
    ]


def adsorption(report: dict[str, Any], speed: dict[str, Any]) -> list[str]:
    """Sites, adsorption energies, held-back frames and speed."""
    sites, known, new = (report[k] for k in ("sites_dft", "adsorption", "unseen_adsorbates"))
    held, model, bars = report["held_back"], speed["model"], speed["with uncertainty"]
    far = {k: row["above_DFT_best_eV"] for k, row in sites["each"].items()}
    misses = ", ".join(f"{k} {gap:.3f}" for k, gap in far.items() if gap > 0.1)
    return [
        f"**{sites['within_0.1_eV_of_DFT_best']}**" + f" ({misses} eV)" * bool(misses),
        f"**{known['energy_mae_eV']} ({known['energy_median_eV']})**",
        f"**{new['energy_mae_eV']} ({new['energy_median_eV']}); "
        f"{new['above_0.15_eV_and_flagged']} of {new['above_0.15_eV']}**",
        f"{held['energy_mae_meV_per_atom']}; {held['force_mae_eV_per_A']}",
        f"{model['teacher_over_this']}; {bars['cpu_ms'] / model['cpu_ms']:.2f}",
    ]


def main() -> None:
    """Replace the column, and keep the old one under a name if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", help="name of the model whose column becomes one of the past")
    options = parser.parse_args()
    old = json.loads((RESULTS / "shipped.json").read_text(encoding="utf-8"))
    columns, rows = old["columns"], old["rows"]
    place = columns.index(SHIPS)

    if options.keep:
        columns.insert(place, f"`{options.keep}`")
        rows = [[*row[:place], row[place], *row[place:]] for row in rows]
        place += 1
    for row, text in zip(rows, column(*reports()), strict=True):
        row[place] = text
    machine = "from data/shipped/report.json and speed.json"
    print(write_measurement("shipped", columns, rows, packages=(), machine=machine))


if __name__ == "__main__":
    main()
