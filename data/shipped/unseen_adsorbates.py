"""Adsorption energies of adsorbates that training never saw on any metal: model against teacher.

    python data/shipped/unseen_adsorbates.py MODEL.nnp CACHE.extxyz [--uncertainty MODEL.uq]

Both relax from the same start; energies refer to H2, H2O, CO and N2. The teacher's ends are kept in
CACHE, because they take minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from ase.optimize import BFGS
from evaluate import gas_energy
from label import labeled, teacher
from make_structures import LATTICE, Task
from measure import arguments, store
from wide_crystals import some
from wide_surfaces import FACETS, HELD_FACETS, adsorbate, clean, fixed, place, radius_of

from ase_nnp import NNPCalculator

CASES = 14


def start(number: int) -> tuple[str, Atoms, Atoms]:
    """A name, the covered slab and the clean one."""
    rng = np.random.default_rng([2030, number])
    metal = list(LATTICE)[number % len(LATTICE)]
    facet = some(
        rng, [f for f in FACETS["bcc" if metal == "Mo" else "fcc"][:3] if f not in HELD_FACETS]
    )
    bare = clean(metal, facet, (2, 2, 3), LATTICE[metal])
    what = adsorbate(rng, held=True)
    both = place(bare, what, rng, radius_of(what.symbols[0], metal, rng) + 0.05)
    return f"{metal}-{facet}+{what.get_chemical_formula('hill')}", fixed(both), fixed(bare)


def relax(atoms: Atoms, calc) -> Atoms:
    """A relaxed copy."""
    moving = atoms.copy()
    moving.calc = calc
    BFGS(moving, logfile=None, maxstep=0.15).run(fmax=0.05, steps=80)
    return moving


def gases() -> dict[str, Atoms]:
    """The molecules that energies refer to."""
    found = {}
    for name in ("H2", "H2O", "CO", "N2"):
        atoms = molecule(name)
        atoms.center(vacuum=5.0)
        found[f"gas-{name}"] = atoms
    return found


def ends(path: Path) -> dict[str, Atoms]:
    """What the teacher made of every start, from the file or anew."""
    if not path.exists():
        calc, kept = teacher(), []
        todo = [(k, a) for k, a in gases().items()]
        for number in range(CASES):
            name, both, bare = start(number)
            todo += [(f"{number}:{name}", both), (f"{number}:clean", bare)]
        for name, atoms in todo:
            end = relax(atoms, calc)
            kept.append(labeled(end, Task(name, end, 0, "unseen")))
        write(path, kept, format="extxyz")
    return {a.info["system"]: a for a in read(path, ":")}


def main() -> None:
    """Each case, then means."""
    args = arguments(__doc__, "cache")
    calc = NNPCalculator(args.model, device="cpu", uncertainty=args.uncertainty or False)
    theirs = ends(args.cache)
    them = {k: a.get_potential_energy() for k, a in theirs.items() if k.startswith("gas-")}
    own = {k: relax(a, calc).get_potential_energy() for k, a in gases().items()}
    cases = []

    for number in range(CASES):
        name, both, bare = start(number)
        end, mine = theirs[f"{number}:{name}"], relax(both, calc)
        ads = end[[i for i, s in enumerate(end.symbols) if s not in LATTICE]]
        e_them = end.get_potential_energy() - theirs[f"{number}:clean"].get_potential_energy()
        e_own = mine.get_potential_energy() - relax(bare, calc).get_potential_energy()
        mine.get_potential_energy()
        # At the teacher's own end: how wrong the energy is, apart from where it relaxes to.
        at = end.copy()
        at.calc = calc
        at.get_potential_energy()
        case = {
            "system": name,
            "teacher_eV": round(float(e_them - gas_energy(ads, them)), 3),
            "model_eV": round(float(e_own - gas_energy(ads, own)), 3),
            "flagged": bool(calc.results.get("ood_flag", False)),
        }
        if "energy_std" in calc.results:
            case["std"] = round(float(calc.results["energy_std"]), 3)
        cases.append(case)

    wrong = np.array([abs(c["model_eV"] - c["teacher_eV"]) for c in cases])
    flagged = np.array([c["flagged"] for c in cases])
    store(
        args,
        "unseen_adsorbates",
        {
            "cases": len(cases),
            "energy_mae_eV": round(float(wrong.mean()), 3),
            "energy_median_eV": round(float(np.median(wrong)), 3),
            "above_0.15_eV": int((wrong > 0.15).sum()),
            "above_0.15_eV_and_flagged": int(((wrong > 0.15) & flagged).sum()),
            "each": cases,
        },
    )


if __name__ == "__main__":
    main()
