"""Does the gate of ``adsorb`` reject holes of a model, and does it keep what is true?

    python benchmarks/adsorption_gate.py [MODEL] --judge sevennet -o gate.json --ends ends.extxyz

On small slabs of nine metals an adsorbate starts at the distinct sites, and where no chemist would
put it (*planted*): an atom 1.0 to 1.3 Angstrom over an atom, in a bridge or below the surface, a
molecule upside down at 1.6 Angstrom or lying in the surface. All are relaxed by the model and go
through the gate together. A judge, another model, then says what each end is:

* *hole*: the judge's largest force is above 5 eV/A, or the judge's adsorption energy is more than
  1 eV above the model's;
* *true*: no hole, and the judge's energy is within 0.3 eV;
* neither: all others.

Written are the shares of holes rejected and of true minima refused for lack of trust ("unknown to
the model" or "hole"). What is dissociated or has left the surface is no minimum of the question
and counts apart. An interrupted run goes on with the systems that are not in the file yet.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from ase import build
from ase.io import write
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.models.files import model_hash
from ase_nnp.workflows.adsorption import adsorbate, place
from ase_nnp.workflows.adsorption.judgment import judged
from ase_nnp.workflows.adsorption.references import References
from ase_nnp.workflows.adsorption.slabs import prepared
from ase_nnp.workflows.adsorption.stages import Candidate, Stages, merged

#: Angstrom; PBE-like lattice constants.
LATTICE = {
    "Ni": 3.52, "Cu": 3.63, "Rh": 3.84, "Pd": 3.95, "Ag": 4.15,
    "Ir": 3.88, "Pt": 3.97, "Au": 4.16, "Mo": 3.16,
}  # fmt: skip
GUESTS = (
    "C", "N", "O", "CO", "NO", "H", "*CCO", "*NO2", "*CN", "*N*NO", "*ONNO2", "*C*C", "*CHCO",
    "*N2",
)  # fmt: skip
#: Starts at the distinct sites; planted ones follow.
USUAL = 3
HOLE_FORCE, HOLE_ENERGY = 5.0, 1.0
TRUE_ENERGY = 0.3
#: Reasons of trust; the others are reasons of physics or of effort.
TRUST = ("unknown to the model", "hole")


def systems(count: int) -> list[tuple[str, str, str]]:
    """Metal, facet and adsorbate, mixed, the same ones every time."""
    every = [
        (metal, facet, guest)
        for metal in LATTICE
        for facet in (("bcc110",) if metal == "Mo" else ("fcc111", "fcc100"))
        for guest in GUESTS
    ]
    order = np.random.default_rng(22).permutation(len(every))
    return [every[k] for k in order[:count]]


def planted(slab, guest, random):
    """Starts that nobody should make."""
    normal = slab.positions[:, 2]
    top = int(normal.argmax())
    second = slab.positions[np.flatnonzero(slab.get_tags() == 1)]
    neighbor = second[np.argsort(np.linalg.norm(second - slab.positions[top], axis=1))[1]]
    over, bridge = slab.positions[top], (slab.positions[top] + neighbor) / 2

    def put(where, height, turn=0.0):
        added = guest.atoms.copy()
        if turn:
            added.rotate(turn, "x")
            added.positions -= added.positions[added.positions[:, 2].argmin()]
        added.positions += where + np.array([0, 0, height]) + random.normal(0, 0.03, 3)
        added.set_tags(2)
        both = slab.copy()
        both += added
        both.info = {"site": f"planted at {height:.1f} Å, turned by {turn:.0f}°"}
        return both

    if len(guest.atoms) == 1:
        where = ((over, 1.0), (over, 1.3), (bridge, 0.0), (bridge, -1.0), (over, -1.2))
    else:
        where = ((over, 1.6, 180), (over, 1.2, 180), (bridge, 0.8, 90), (bridge, -0.5, 60))
    return [put(*one) for one in where]


def starts_of(model, metal, facet, name):
    """The relaxed slab, the adsorbate, and all starts of one system."""
    random = np.random.default_rng(5)
    built = getattr(build, facet)(metal, (2, 2, 3), LATTICE[metal], vacuum=7.0)
    built.pbc = True
    stages = Stages(model, None, None)
    slab = stages.relax("slab", [prepared(built)], fmax=0.03, steps=100)[0].atoms
    slab.calc = None
    guest = adsorbate(name)
    starts = place(slab, guest, number=USUAL, seed=1) + planted(slab, guest, random)
    return slab, guest, starts


def ends_of(model, metal, facet, name, steps):
    """The result of one system, its starts, and all ends with the gate's verdicts."""
    slab, guest, starts = starts_of(model, metal, facet, name)
    stages = Stages(model, None, None)
    candidates = [Candidate(atoms, atoms, [k]) for k, atoms in enumerate(starts)]
    ends = merged(stages.move("all", candidates, fmax=0.05, steps=steps))
    result = judged(
        ends,
        slab,
        stages,
        References.of([guest], model, "oc20"),
        system=f"{name} on {metal} {facet}",
        settings={"top": 99, "fmax": 0.05, "push": 0, "seed": 0},
        counts={},
    )
    rows = []
    for one in result.minima:
        rows.append((one.atoms, "accepted", "", one.energy, one.placements))
    for one in result.rejected:
        if one.energy is not None:
            rows.append((one.atoms, one.reason, one.detail, one.energy, one.placements))
    return result, starts, rows


def share(model, row) -> float:
    """The score over the threshold of the model's flag; NaN for a model without."""
    limit = (getattr(model, "uq", None) or {}).get("score_threshold")
    return float(row["ood_score"]) / limit if limit and "ood_score" in row else np.nan


def record(model, judge, system, steps):
    """Structures of one system with what gate and judge say of them in ``info``."""
    result, starts, rows = ends_of(model, *system, steps)
    atoms = [row[0] for row in rows]
    energies = References(
        result.reference, result.reaction, result.amounts, dict(result.gas)
    ).energies(judge, atoms, result.slab)
    forces = ase_nnp.predict(judge, atoms, ("forces",), progress=False)
    doubts = ase_nnp.predict(model, atoms, progress=False)
    values = References(
        result.reference, result.reaction, result.amounts, dict(result.gas)
    ).energies(model, atoms, result.slab)

    records = []
    for (end, reason, detail, energy, placements), seen, force, own, value in zip(
        rows, energies, forces, doubts, values, strict=True
    ):
        worst = float(np.linalg.norm(force["forces"], axis=1).max())
        above = float(seen) - energy
        hole = worst > HOLE_FORCE or above > HOLE_ENERGY
        true = not hole and abs(above) < TRUE_ENERGY
        twin = end.copy()
        twin.calc = None
        # With these two the verdict can be given again without any model.
        start = starts[placements[0]]
        twin.arrays["start"] = start.positions.copy()
        twin.arrays["clean"] = np.vstack(
            [result.slab.positions, start.positions[len(result.slab) :]]
        )
        twin.info = {
            "system": result.system,
            "reason": reason,
            "detail": detail or "-",  # extended XYZ has no empty words
            "put_at": start.info["site"],
            "planted": any(k >= USUAL for k in placements),
            "model_energy": energy,
            "judge_above": above,
            "judge_force": worst,
            "std": np.nan if value.std is None else value.std,
            "ood_share": share(model, own),
            "truth": "hole" if hole else "right" if true else "neither",
        }
        records.append(twin)
    return records


def summary(rows):
    """The two shares, and what happened to the rest."""
    holes = [one.info for one in rows if one.info["truth"] == "hole"]
    trues = [one.info for one in rows if one.info["truth"] == "right"]
    asked = [one for one in trues if one["reason"] in ("accepted", *TRUST)]
    return {
        "ends": len(rows),
        "holes": len(holes),
        "holes_rejected": sum(one["reason"] != "accepted" for one in holes),
        "true_minima": len(asked),
        "true_minima_refused": sum(one["reason"] in TRUST for one in asked),
        "verdicts_on_holes": dict(Counter(one["reason"] for one in holes)),
        "verdicts_on_true": dict(Counter(one["reason"] for one in trues)),
        "accepted_holes": [
            {k: one[k] for k in ("system", "put_at", "judge_above", "judge_force")}
            for one in holes
            if one["reason"] == "accepted"
        ],
    }


def write_table(value):
    """Write what was rejected of either kind."""
    rows = [
        ["holes (of the judge)", value["holes"], value["holes_rejected"]],
        ["true minima", value["true_minima"], value["true_minima_refused"]],
    ]
    figures = {key: number for key, number in value.items() if isinstance(number, int)}
    write_measurement("adsorption_gate", ["ends", "judged", "rejected"], rows, values=figures)


def main() -> None:
    """All systems, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--judge", default="sevennet")
    parser.add_argument("--systems", type=int, default=60)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--ends", type=Path, default=Path("gate-ends.extxyz"))
    parser.add_argument("--output", "-o", type=Path)
    record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    model, judge = ase_nnp.load_model(options.model), ase_nnp.load_model(options.judge)
    # An environment may hold the plugin of another tree, and so another model of the same name.
    print("model", model_hash(model), flush=True)
    rows = list(ase_nnp.open_dataset(options.ends)) if options.ends.exists() else []
    finished = {one.info["system"] for one in rows}
    for metal, facet, guest in systems(options.systems):
        if f"{guest} on {metal} {facet}" in finished:
            continue
        more = record(model, judge, (metal, facet, guest), options.steps)
        write(options.ends, more, append=True)
        rows += more
        print(
            f"{guest} on {metal} {facet}: {Counter(one.info['truth'] for one in more)}", flush=True
        )
    value = {"model": model_hash(model), **summary(rows)}
    print(json.dumps(value, indent=1))
    if options.record:
        write_table(value)
    if options.output:
        options.output.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
