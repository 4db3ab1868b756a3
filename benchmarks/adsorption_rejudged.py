"""A model's ranked minima, evaluated by a slower judge: AdsorbML's two axes.

    python benchmarks/adsorption_rejudged.py [MODEL] --judge sevennet --systems 30 -o rejudged.json

For each system (a small slab and an adsorbate) the same placements are relaxed twice: by the judge
alone, whose lowest minimum is the goal, and by the model, whose best k minima the judge evaluates:
single points (SP) or relaxations (RX). Success is within 0.1 eV of the goal (Lan et al. 2023,
doi:10.1038/s41524-023-01121-5); speed is the CPU time of the judge alone over that of model and
judge together. Drawn with ``--figure``. An interrupted run goes on with the systems that are not in
the file yet.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from adsorption_gate import LATTICE
from ase import build
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.files.pictures import new_figure
from ase_nnp.metrics.adsorbml import SUCCESS_THRESHOLD
from ase_nnp.workflows.adsorption import adsorb, rejudge
from ase_nnp.workflows.adsorption.slabs import prepared

GUESTS = ("H", "C", "N", "O", "CO", "NO", "OH", "CH3", "NH2", "CHO")
BEST = 5


def systems(count: int) -> list[tuple[str, str, str]]:
    """Metal, facet and adsorbate, mixed, the same ones every time."""
    every = [
        (metal, facet, guest)
        for metal in LATTICE
        for facet in (("bcc110",) if metal == "Mo" else ("fcc111", "fcc100"))
        for guest in GUESTS
    ]
    return [every[k] for k in np.random.default_rng(5).permutation(len(every))[:count]]


def timed(function):
    """A result and the CPU seconds that it took."""
    begin = time.process_time()
    result = function()
    return result, time.process_time() - begin


def measured(model, judge, metal: str, facet: str, guest: str, placements: int) -> dict:
    """Energies and CPU seconds of one system."""
    built = getattr(build, facet)(metal, (2, 2, 3), LATTICE[metal], vacuum=7.0)
    built.pbc = True
    slab = prepared(built)
    search = {"placements": placements, "push": 0, "top": BEST, "steps": 150}
    alone, judge_seconds = timed(lambda: adsorb(slab, guest, judge, **search))
    ranked, model_seconds = timed(lambda: adsorb(slab, guest, model, **search))
    goal = [one.energy for one in alone.minima]

    record = {
        "system": f"{guest} on {metal} {facet}",
        "goal": min(goal, default=None),
        "judge_seconds": judge_seconds,
        "model_seconds": model_seconds,
        "model_steps": ranked.counts["steps"],
        "judge_steps": alone.counts["steps"],
    }
    for name, steps in (("SP", 0), ("RX", 60)):
        said, seconds = timed(lambda steps=steps: rejudge(ranked, judge, best=BEST, steps=steps))
        record[name] = [one.judge_energy for one in said.judged]
        record[f"{name}_seconds"] = seconds
    return record


def summary(records: list[dict]) -> dict:
    """Success rate and speed for each k, single points and relaxations."""
    records = [one for one in records if one["goal"] is not None]
    table = {"systems": len(records)}
    for name in ("SP", "RX"):
        for k in range(1, BEST + 1):
            gaps, seconds = [], 0.0
            for one in records:
                taken = [e for e in one[name][:k] if e is not None]
                gaps.append(min(taken, default=np.inf) - one["goal"])
                # The judge's time is nearly proportional to the number of minima that it sees.
                share = min(k, len(one[name])) / max(1, len(one[name]))
                seconds += one["model_seconds"] + share * one[f"{name}_seconds"]
            table[f"{name} k={k}"] = {
                "success": float(np.mean(np.array(gaps) <= SUCCESS_THRESHOLD)),
                "speed": sum(one["judge_seconds"] for one in records) / seconds,
            }
    return table


def record(table: dict) -> None:
    """Write the table of success and speed."""
    rows = [
        [f"{name}, k = {k}", *(table[f"{name} k={k}"][key] for key in ("success", "speed"))]
        for name in ("SP", "RX")
        for k in (1, 3, BEST)
    ]
    cells = [[name, f"{100 * success:.0f} %", f"{speed:.1f}"] for name, success, speed in rows]
    head = [f"{table['systems']} systems", "within 0.1 eV of the judge's best", "times its speed"]
    write_measurement("adsorption_rejudged", head, cells)


def draw(table: dict, path: Path) -> None:
    """Success against speed, one line for single points and one for relaxations."""
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    for name, marker in (("SP", "o"), ("RX", "s")):
        points = [table[f"{name} k={k}"] for k in range(1, BEST + 1)]
        speeds, rates = [p["speed"] for p in points], [100 * p["success"] for p in points]
        axes.plot(speeds, rates, marker=marker, label=f"model + {name}")
        for k in (1, BEST):  # what lies between would cover itself
            place = (speeds[k - 1], rates[k - 1])
            axes.annotate(f"k={k}", place, (0, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("times the speed of the judge alone")
    axes.set_ylabel("within 0.1 eV of the judge's best (%)")
    axes.set_ylim(0, 103)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=150)


def main() -> None:
    """All systems, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--judge", default="sevennet")
    parser.add_argument("--systems", type=int, default=30)
    parser.add_argument("--placements", type=int, default=6)
    parser.add_argument("--output", "-o", type=Path, default=Path("rejudged.json"))
    parser.add_argument("--figure", type=Path)
    record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    model, judge = ase_nnp.load_model(options.model), ase_nnp.load_model(options.judge)
    said = json.loads(options.output.read_text()) if options.output.exists() else {}
    records = said.get("records", [])
    finished = {one["system"] for one in records}
    for metal, facet, guest in systems(options.systems):
        if f"{guest} on {metal} {facet}" in finished:
            continue
        records.append(measured(model, judge, metal, facet, guest, options.placements))
        table = summary(records)
        options.output.write_text(json.dumps({"summary": table, "records": records}, indent=1))
        print(json.dumps(records[-1]), flush=True)
    print(json.dumps(table := summary(records), indent=1))
    if options.figure:
        draw(table, options.figure)
    if options.record:
        record(table)


if __name__ == "__main__":
    main()
