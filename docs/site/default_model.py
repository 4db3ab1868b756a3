"""A page on the default model: pictures and numbers from the reports that its scripts wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TITLE = "The default model in pictures"


def default_model_page(folder: Path) -> None:
    """Write the page and its pictures into ``folder``."""
    report = json.loads((ROOT / "data" / "shipped" / "report.json").read_text())
    speed = json.loads((ROOT / "data" / "shipped" / "speed.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    draw_crystals(report, folder / "crystals.svg")
    draw_adsorption(report, folder / "adsorption.svg")

    held, adsorption = report["held_back"], report["adsorption"]
    wide, sites = report["wide"]["all"], report["sites_dft"]
    rows = [
        ("energy of held-back frames, mean absolute error", "{energy_mae_meV_per_atom} meV/atom"),
        ("force component, mean absolute error", "{force_mae_eV_per_A} eV/Å"),
    ]
    lines = [f"| {name} | {text.format(**held)} |" for name, text in rows]
    lines += [
        f"| adsorption energy, mean absolute error (median), {adsorption['cases']} cases | "
        f"{adsorption['energy_mae_eV']} ({adsorption['energy_median_eV']}) eV |",
        f"| same site as the teacher | {adsorption['same_site']:.0%} |",
        f"| chosen site within 0.1 eV of DFT's best, fcc(111) | "
        f"{sites['within_0.1_eV_of_DFT_best']} of {sites['pairs']} |",
        f"| very wrong structures that are flagged; flags that are right | "
        f"{wide['recall']:.0%}; {wide['precision']:.0%} |",
        f"| CPU time of one evaluation with error bars (teacher) | "
        f"{speed['with uncertainty']['cpu_ms']} ms ({speed['teacher']['cpu_ms']} ms) |",
    ]
    text = (
        f"# {TITLE}\n\n"
        "Drawn and counted from `data/shipped/report.json` and `speed.json`, "
        "which the scripts beside them wrote; the "
        "[model card](../families/facet-metals-2.md) explains "
        "each figure. The teacher is SevenNet-0; errors are against it unless DFT is named.\n\n"
        "| | |\n| --- | --- |\n" + "\n".join(lines) + "\n\n"
        "![Elastic constants and vacancies of nine metals](crystals.svg)\n\n"
        "![Adsorption energies of held-back systems](adsorption.svg)\n"
    )
    (folder / "the-default-model.md").write_text(text)


def parity(axes: Any, x: list[float], y: list[float], unit: str, title: str) -> None:
    """Draw what the model says over what the teacher says."""
    low, high = min(*x, *y), max(*x, *y)
    axes.plot([low, high], [low, high], color="0.7", lw=1)
    axes.plot(x, y, "o", ms=4)
    axes.set(xlabel=f"teacher ({unit})", ylabel=f"model ({unit})", title=title)


def draw_crystals(report: dict[str, Any], path: Path) -> None:
    """Draw elastic constants and vacancy energies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    elastic, vacancies = report["elastic"], report["vacancies"]
    pairs = [
        (elastic["teacher"][metal][name], row[name])
        for metal, row in elastic["model"].items()
        for name in ("C11", "C12", "C44")
    ]
    parity(left, *map(list, zip(*pairs, strict=True)), "GPa", "elastic constants")  # type: ignore[arg-type]
    energies = [(vacancies["teacher"][m], e) for m, e in vacancies["model"].items()]
    parity(right, *map(list, zip(*energies, strict=True)), "eV", "vacancies")  # type: ignore[arg-type]
    figure.savefig(path)


def draw_adsorption(report: dict[str, Any], path: Path) -> None:
    """Draw adsorption energies, of kinds that training had and of kinds that it never had."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = ("systems held back", "adsorbates never seen on a metal")
    for one, key, title in zip(axes, ("adsorption", "unseen_adsorbates"), titles, strict=True):
        each = [row for row in report[key]["each"] if "model_eV" in row]
        x, y = [row["teacher_eV"] for row in each], [row["model_eV"] for row in each]
        parity(one, x, y, "eV", title)
    figure.savefig(path)
