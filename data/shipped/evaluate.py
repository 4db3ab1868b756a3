"""Errors of the shipped model against its teacher on held-back systems, and what it knows of them.

    python data/shipped/evaluate.py MODEL.nnp TEST_LABELS -o report.json [--uncertainty MODEL.uq]

TEST_LABELS holds the relaxations of ``label.py OUT test``: a folder of shards, or one dataset.
Adsorption energies refer to H2, H2O, CO and N2, as OC20's do.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.geometry import get_distances
from ase.optimize import BFGS
from label import nudged
from make_structures import ANCHOR, FCC, LATTICE, slab
from train import load_frames

import ase_nnp
from ase_nnp import NNPCalculator

FMAX, STEPS = 0.05, 100


def relaxations(frames: list[Atoms]) -> dict[str, list[Atoms]]:
    """Frames by system, in the order of the teacher's steps."""
    found: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in frames:
        found[atoms.info["system"]].append(atoms)
    return dict(found)


def frame_errors(model: Any, frames: list[Atoms]) -> dict[str, Any]:
    """Mean absolute errors of energies and forces, over all and by element."""
    found = ase_nnp.predict(model, frames, properties=("energy", "forces"), progress=False)
    energy, metal, force, numbers = [], defaultdict(list), [], []
    for atoms, own in zip(frames, found, strict=True):
        wrong = abs(own["energy"] - atoms.get_potential_energy()) / len(atoms)
        energy.append(wrong)
        for symbol in {s for s in atoms.symbols if s in LATTICE}:
            metal[symbol].append(wrong)
        force.append(np.abs(own["forces"] - atoms.get_forces(apply_constraint=False)))
        numbers.append(atoms.get_chemical_symbols())

    rows, symbols = np.concatenate(force), np.concatenate(numbers)
    return {
        "structures": len(frames),
        "energy_mae_meV_per_atom": round(1e3 * float(np.mean(energy)), 2),
        "force_mae_eV_per_A": round(float(rows.mean()), 4),
        "force_mae_by_element": {
            str(s): round(float(rows[symbols == s].mean()), 4) for s in sorted(set(symbols))
        },
        "energy_mae_by_metal": {s: round(1e3 * float(np.mean(v)), 2) for s, v in metal.items()},
    }


def relax(atoms: Atoms, calc: NNPCalculator) -> Atoms:
    """Relax a copy from the teacher's own start."""
    moving = atoms.copy()
    moving.calc = calc
    BFGS(moving, logfile=None, maxstep=0.15).run(fmax=FMAX, steps=STEPS)
    return moving


def surroundings(atoms: Atoms, anchor: int, cutoff: float = 4.0) -> list[tuple[str, float]]:
    """Metals around the anchor by symbol and distance: alike for equivalent sites."""
    metals = [i for i, s in enumerate(atoms.symbols) if s in LATTICE]
    images = atoms[metals].repeat((3, 3, 1))
    middle = atoms.positions[anchor] + atoms.cell[0] + atoms.cell[1]
    far = np.linalg.norm(images.positions - middle, axis=1)
    near = np.argsort(far)[:9]
    return [(images.symbols[i], float(far[i])) for i in near if far[i] < cutoff]


def same_site(one: Atoms, two: Atoms, anchor: int) -> bool:
    """Whether two relaxed structures hold the anchor within 0.5 Angstrom, or at equal sites."""
    a, b = one.positions[anchor], two.positions[anchor]
    _, gap = get_distances(a[None], b[None], cell=one.cell, pbc=one.pbc)
    if gap[0, 0] < 0.5:
        return True
    near = [surroundings(x, anchor)[:6] for x in (one, two)]
    if len(near[0]) != len(near[1]) or not near[0]:
        return False
    wrong = [abs(p - q) for (_, p), (_, q) in zip(*near, strict=True)]
    return bool(max(wrong) < 0.3)


def gas_energy(adsorbate: Atoms, energies: dict[str, float]) -> float:
    """Energy of the atoms of an adsorbate in H2, H2O, CO and N2."""
    hydrogen = energies["gas-H2"] / 2
    oxygen = energies["gas-H2O"] - energies["gas-H2"]
    each = {"H": hydrogen, "O": oxygen, "N": energies["gas-N2"] / 2}
    each["C"] = energies["gas-CO"] - oxygen
    return sum(each[s] for s in adsorbate.symbols)


def adsorption(
    model: Any,
    runs: dict[str, list[Atoms]],
    settled: dict[str, list[Atoms]],
    every: int = 1,
) -> list[dict[str, Any]]:
    """Relax every held-back system with the model; compare sites and adsorption energies.

    Where the teacher has, the model's ends are nudged too, relaxed again and compared: an end may
    be a saddle point.
    """
    calc = NNPCalculator(model)
    others = {k for k in runs if k.startswith("gas-") or k.endswith("-clean")}
    theirs = {k: runs[k][-1].get_potential_energy() for k in others}
    own: dict[str, float] = {}

    def alone(name: str) -> float:
        if name not in own:
            own[name] = relax(runs[name][0], calc).get_potential_energy()
        return own[name]

    for name in others:
        if name.startswith("gas-"):
            alone(name)
    cases = []
    for name in sorted(set(runs) - others)[::every]:
        if not runs[name][-1].info.get("relaxed"):
            continue  # the teacher did not finish
        metal, facet, adsorbate, _ = name.split("-")
        end, found = runs[name][-1], relax(runs[name][0], calc)
        ads = [i for i, s in enumerate(end.symbols) if s not in LATTICE]
        anchor = next(i for i in ads if end.symbols[i] == ANCHOR[adsorbate])
        base = f"{metal}-{facet}-clean"
        e_them = end.get_potential_energy() - theirs[base] - gas_energy(end[ads], theirs)
        e_own = found.get_potential_energy() - alone(base) - gas_energy(end[ads], own)
        fmax = float(np.linalg.norm(found.get_forces(), axis=1).max())
        case = {
            "system": name,
            "same_site": same_site(end, found, anchor),
            "relaxed": fmax <= FMAX,
            "teacher_eV": round(float(e_them), 3),
            "model_eV": round(float(e_own), 3),
        }
        if name in settled and settled[name][-1].info.get("relaxed"):
            last, again = settled[name][-1], relax(nudged(found), calc)
            them = e_them + last.get_potential_energy() - end.get_potential_energy()
            mine = e_own + again.get_potential_energy() - found.get_potential_energy()
            case["settled"] = {
                "same_site": same_site(last, again, anchor),
                "teacher_eV": round(float(them), 3),
                "model_eV": round(float(mine), 3),
            }
        cases.append(case)
    return cases


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of equal sites, and errors of adsorption energies."""
    wrong = [abs(c["model_eV"] - c["teacher_eV"]) for c in cases]
    return {
        "cases": len(cases),
        "same_site": round(float(np.mean([c["same_site"] for c in cases])), 3),
        "energy_mae_eV": round(float(np.mean(wrong)), 4),
        "energy_median_eV": round(float(np.median(wrong)), 4),
    }


def crushed(frames: list[Atoms], rng: np.random.Generator) -> list[Atoms]:
    """Held-back structures squeezed by a quarter of their length, or with two atoms too near."""
    found = []
    for number, atoms in enumerate(frames):
        bad = atoms.copy()
        if number % 2:
            bad.set_cell(bad.cell * 0.75, scale_atoms=True)
        else:
            i = int(rng.integers(len(bad)))
            distances = bad.get_distances(i, range(len(bad)), mic=True)
            distances[i] = np.inf
            j = int(distances.argmin())
            bad.set_distance(i, j, 0.5 * distances[j], fix=0, mic=True)
        found.append(bad)
    return found


def foreign() -> list[Atoms]:
    """Structures with elements that no training structure holds."""
    found = [bulk(s) for s in ("Al", "Fe", "Ti", "W", "Na", "Si", "Zn", "Co")]
    found += [bulk("NaCl", "rocksalt", a=5.6), bulk("MgO", "rocksalt", a=4.2)]
    found += [bulk("GaAs", "zincblende", a=5.65), bulk("CuZn", "cesiumchloride", a=2.95)]
    found += [molecule(n) for n in ("SO2", "CH3Cl", "SiH4", "PH3", "LiF", "SH2")]
    for metal in FCC:
        atoms = fcc111(metal, (2, 2, 3), vacuum=7.0)
        atoms += Atoms("S", [atoms.positions[-1] + (0, 0, 1.9)])
        found.append(atoms)
        atoms = slab(metal, "fcc100", (2, 2, 3), LATTICE[metal])
        atoms.symbols[-1] = "Sn"
        found.append(atoms)
    return found


def flagged(model: Any, structures: list[Atoms]) -> float:
    """Share that the model calls unknown, by its flag or by refusing the element."""
    known = [a for a in structures if set(map(int, a.numbers)) <= (model.elements or set())]
    for atoms in structures:
        if not any(atoms is other for other in known):
            try:
                model.make_graph(atoms)
            except ase_nnp.UnsupportedElementError:
                continue
            raise AssertionError(f"{atoms} was not refused")
    found = ase_nnp.predict(model, known, properties=("ood_flag",), progress=False)
    count = sum(bool(r["ood_flag"]) for r in found) + len(structures) - len(known)
    return round(count / len(structures), 4)


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--uncertainty", type=Path)
    parser.add_argument("--every", type=int, default=1, help="of the relaxations, to save time")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model = ase_nnp.load_model(args.model, device="cpu")
    frames = load_frames(args.labels, "test-*.extxyz")
    settled = relaxations([a for a in frames if a.info["split"] == "settled"])
    runs = relaxations([a for a in frames if a.info["split"] != "settled"])
    held = [a for a in frames if a.info["split"] == "test"]
    report: dict[str, Any] = {"held_back": frame_errors(model, held)}
    cases = adsorption(model, runs, settled, args.every)
    report["adsorption"] = {**summary(cases), "each": cases}

    if settled:
        report["adsorption_settled"] = summary([c["settled"] for c in cases if "settled" in c])
    if args.uncertainty:
        sure = ase_nnp.uncertainty.attach(model, args.uncertainty)
        rng = np.random.default_rng(0)
        last = [r[-1] for k, r in runs.items() if not k.startswith("gas-")]
        report["out_of_domain"] = {
            "held_back_flagged": flagged(sure, held),
            "relaxed_flagged": flagged(sure, last),
            "crushed_flagged": flagged(sure, crushed(last, rng)),
            "unknown_element_flagged": flagged(sure, foreign()),
        }

    before = json.loads(args.output.read_text()) if args.output.exists() else {}
    args.output.write_text(json.dumps(before | report, indent=1) + "\n")
    short = {k: v for k, v in report["adsorption"].items() if k != "each"}
    print(json.dumps({**report, "adsorption": short}, indent=1))


if __name__ == "__main__":
    main()
