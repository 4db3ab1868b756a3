"""Write the model card from the reports of ``evaluate.py`` and ``speed.py``.

python data/shipped/make_card.py report.json speed.json TRAIN_LABELS TEST_LABELS -o model_card.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from make_structures import ADSORBATES, GAS, held_back, systems
from train import load_frames, split

TEMPLATE = Path(__file__).with_name("model_card.template.md")


def table(held: dict[str, Any]) -> str:
    """Errors by element."""
    metals, forces = held["energy_mae_by_metal"], held["force_mae_by_element"]
    lines = [
        "| element | force (eV/Å) | energy of slabs with it (meV/atom) |",
        "| --- | --- | --- |",
    ]
    for symbol, error in sorted(forces.items(), key=lambda kv: kv[0]):
        lines.append(f"| {symbol} | {error:.3f} | {metals.get(symbol, '')} |")
    return "\n".join(lines)


def main() -> None:
    """Fill the template."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("speed", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    args = parser.parse_args()
    report, speed = (json.loads(p.read_text()) for p in (args.report, args.speed))
    held, adsorption, ood = (report[k] for k in ("held_back", "adsorption", "out_of_domain"))
    settled = report["adsorption_settled"]
    tested = load_frames(args.test)
    train, watched = split(load_frames(args.labels))
    text = TEMPLATE.read_text().format(
        parameters=f"{args.parameters:,}".replace(",", " "),
        n_ads=len(ADSORBATES),
        ads=", ".join(ADSORBATES),
        n_gas=len(GAS),
        n_train=len(train),
        n_watched=len(watched),
        n_held=len(held_back()),
        n_systems=len(systems()),
        n_frames=held["structures"],
        n_run=len({a.info["system"] for a in tested if a.info["split"] == "test"}),
        energy=held["energy_mae_meV_per_atom"],
        force=held["force_mae_eV_per_A"],
        site=adsorption["same_site"],
        cases=adsorption["cases"],
        eads=adsorption["energy_mae_eV"],
        emed=adsorption["energy_median_eV"],
        site2=settled["same_site"],
        cases2=settled["cases"],
        eads2=settled["energy_mae_eV"],
        emed2=settled["energy_median_eV"],
        in_flag=ood["held_back_flagged"],
        crushed=ood["crushed_flagged"],
        foreign=ood["unknown_element_flagged"],
        table=table(held),
        model_ms=speed["model"]["cpu_ms"],
        teacher_ms=speed["teacher"]["cpu_ms"],
        ratio=speed["model"]["teacher_over_this"],
        uq_ms=speed["with uncertainty"]["cpu_ms"],
    )
    args.output.write_text(text)


if __name__ == "__main__":
    main()
