"""Write the model card from the reports of the scripts beside this one.

python data/shipped/make_card.py report.json speed.json LABELS... -o model_card.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from label_adsorbates import taught
from make_structures import ADSORBATES, GAS, LATTICE, held_back, systems
from train import load_frames
from wide_molecules import MOLECULES
from wide_surfaces import HELD_ADSORBATES

import ase_nnp

TEMPLATE = Path(__file__).with_name("model_card.template.md")
#: C11, C12, C44 at room temperature, GPa (Simmons and Wang, Single Crystal Elastic Constants, MIT
#: Press 1971; Rh: Walker, Ashman and Harrison 1981).
EXPERIMENT = {
    "Ni": (247, 147, 125), "Cu": (168, 121, 75), "Rh": (413, 194, 184), "Pd": (227, 176, 72),
    "Ag": (124, 93, 46), "Ir": (580, 242, 256), "Pt": (347, 251, 77), "Au": (192, 163, 42),
    "Mo": (464, 158, 109),
}  # fmt: skip
#: What ends the name of a random start, in words.
PLACED = {
    "layer": "layers of adsorbates",
    "covered": "adsorbates anywhere, in any direction",
    "wrong-way": "adsorbates upside down or pressed in",
    "adatom": "adatoms",
    "missing": "surfaces with missing atoms",
}


def constants(report: dict[str, Any]) -> str:
    """Elastic constants, softest modes and vacancies of every metal beside the teacher's."""
    lines = [
        "| | C11 / C12 / C44, GPa | teacher | experiment | lowest mode, THz | teacher | "
        "vacancy, eV | teacher |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    for metal in LATTICE:
        cells = []
        elastic, phonons, vacancies = (report[k] for k in ("elastic", "phonons", "vacancies"))
        for who in ("model", "teacher"):
            cells.append(" / ".join(f"{elastic[who][metal][c]:.0f}" for c in ("C11", "C12", "C44")))
        cells.append(" / ".join(str(c) for c in EXPERIMENT[metal]))
        cells += [f"{phonons[who][metal]['lowest']:.2f}" for who in ("model", "teacher")]
        cells += [f"{vacancies[who][metal]:.2f}" for who in ("model", "teacher")]
        lines.append(f"| {metal} | {' | '.join(cells)} |")

    return "\n".join(lines)


def dynamics(report: dict[str, Any]) -> str:
    """Trajectories at 1000 K."""
    lines = [
        "| 5 ps at 1000 K | holds | then NVE: drift, meV/atom/ps | spread, meV/atom |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in report["dynamics"].items():
        drift, spread = row["drift_meV_per_atom_per_ps"], row["spread_meV_per_atom"]
        lines.append(f"| {name} | {'yes' if row['stable'] else 'no'} | {drift} | {spread} |")
    return "\n".join(lines)


def kinds(report: dict[str, Any]) -> str:
    """Errors and flags by kind."""
    lines = [
        "| kind | count | energy, meV/atom | force, eV/Å | very wrong | flagged | both | inside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, row in report["wide"].items():
        if kind == "all":
            continue
        lines.append(
            f"| {kind} | {row['structures']} | {row['energy_mae_meV_per_atom']} | "
            f"{row['force_rmse_median_eV_per_A']} | {row['very_wrong']} | {row['flagged']} | "
            f"{row['very_wrong_flagged']} | {row['inside_90']:.0%} |"
        )
    return "\n".join(lines)


def counts(paths: list[Path]) -> dict[str, int]:
    """Training structures of the first labels, of the wide kinds, and pairs."""
    found = {"n_old": 0, "n_wide": 0, "n_pairs": 0}
    for path in paths:
        for atoms in load_frames(path):
            kind = atoms.info.get("kind")
            found["n_old" if kind is None else "n_pairs" if kind == "pair" else "n_wide"] += 1
    return found


def holes(report: dict[str, Any]) -> str:
    """How many starts of each kind ended in a hole, those with most first."""
    kinds = sorted(report["placements"]["kinds"].items(), key=lambda kind: -kind[1]["holes"])
    return ", ".join(f"{n['holes']} of {n['random']} {PLACED[kind]}" for kind, n in kinds)


def main() -> None:
    """Fill the template."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("speed", type=Path)
    parser.add_argument("labels", type=Path, nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    args = parser.parse_args()
    report, speed = (json.loads(p.read_text()) for p in (args.report, args.speed))
    held, adsorption, ood = (report[k] for k in ("held_back", "adsorption", "out_of_domain"))
    parameters = sum(p.numel() for p in ase_nnp.load_model(args.model, device="cpu").parameters())

    text = TEMPLATE.read_text().format(
        parameters=f"{parameters:,}".replace(",", " "),
        n_ads=len(ADSORBATES),
        ads=", ".join(ADSORBATES),
        n_table=len(taught()),
        held_adsorbates=", ".join(sorted(HELD_ADSORBATES)),
        n_gas=len({*GAS, *MOLECULES}),
        n_held=len(held_back()),
        n_systems=len(systems()),
        constants=constants(report),
        kinds=kinds(report),
        dynamics=dynamics(report),
        dft=report["dft_forces"],
        r=report,
        held=held,
        ads_known=adsorption,
        ood=ood,
        all=report["wide"]["all"],
        domain=report["domain"]["all"],
        bars=report["adsorption_bars"],
        worst=max(report["elastic"]["largest_relative_error"].values()),
        imaginary=", ".join(report["phonons"]["imaginary_where_the_teacher_has_none"]) or "none",
        unseen=report["unseen_adsorbates"],
        places=report["placements"],
        holes=holes(report),
        n_into=len(report["placements"]["into_the_metal"]),
        n_pull=len(report["cores"]["pull_at_0.5"]),
        n_fall=len(report["cores"]["fall_inwards_below_0.6"]),
        sites=report["sites_dft"],
        model_ms=speed["model"]["cpu_ms"],
        teacher_ms=speed["teacher"]["cpu_ms"],
        ratio=speed["model"]["teacher_over_this"],
        uq_ms=speed["with uncertainty"]["cpu_ms"],
        **counts(args.labels),
    )
    args.output.write_text(text)


if __name__ == "__main__":
    main()
