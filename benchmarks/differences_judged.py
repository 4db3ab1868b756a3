"""Coverage of 90 % intervals of adsorption energies and barriers, judged by another model.

    python benchmarks/differences_judged.py [MODEL] --judge sevennet --systems 50 --bands 20

Adsorption energies: an adsorbate on a small slab, relaxed by the model; energy of slab with
adsorbate, minus slab, minus gas-phase references. Barriers: hops of the adsorbate to a neighboring
site, the band and its saddle point being the model's own; energy of the saddle point minus that of
the start. The judge evaluates the same structures, so what is compared is the energies, not where
a minimum is. Intervals are those of the difference, and those of the root of the sum of squares.
"""

from __future__ import annotations

import argparse
import math
import warnings

import numpy as np
import torch
from adsorption_rejudged import systems
from ase import build
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.uncertainty.differences import energies
from ase_nnp.workflows.adsorption import adsorbate, place
from ase_nnp.workflows.adsorption.references import References
from ase_nnp.workflows.adsorption.slabs import prepared
from ase_nnp.workflows.adsorption.stages import Stages
from ase_nnp.workflows.paths import reaction_paths

Z90 = 1.645


def started(model, metal, facet, guest, lattice):
    """The relaxed slab, and the adsorbate relaxed at its first two distinct hollows or bridges."""
    built = getattr(build, facet)(metal, (2, 2, 3), lattice, vacuum=7.0)
    built.pbc = True
    stages = Stages(model, None, None)
    slab = stages.relax("slab", [prepared(built)], fmax=0.05, steps=60)[0].atoms
    slab.calc = None
    starts = place(slab, guest, number=4, seed=2)[-2:]
    ends = [one.atoms for one in stages.relax("ends", starts, fmax=0.05, steps=80)]
    return slab, ends


def adsorption(model, judge, references, slab, adslab):
    """Error of an adsorption energy and its two standard deviations."""
    (own,) = references.energies(model, [adslab], slab)
    (seen,) = References(
        references.name, references.reaction, references.amounts, dict(references.gas)
    ).energies(judge, [adslab], slab)
    parts = energies(model, [adslab, slab, *references.gas.values()])
    squares = [parts[0].std ** 2, parts[1].std ** 2]
    for part, amount in zip(parts[2:], references.amounts.values(), strict=True):
        squares.append((amount * part.std) ** 2)
    return float(own) - float(seen), own.std, math.sqrt(sum(squares))


def barrier(model, judge, ends):
    """Error of a barrier and its two standard deviations; None where no band converged."""
    (path,) = reaction_paths([tuple(ends)], model, images=3, fmax=0.1, steps=60)
    if path.status == "failed" or not 0 < path.top < len(path.images) - 1:
        return None
    pair = [path.saddle, path.images[0]]
    seen = [float(r["energy"]) for r in ase_nnp.predict(judge, pair, ("energy",), progress=False)]
    parts = energies(model, pair)
    error = float(path.barrier) - (seen[0] - seen[1])
    return error, path.barrier.std, math.hypot(parts[0].std, parts[1].std)


def told(name: str, rows) -> list[str]:
    """Coverage with and without what the errors share, printed and as cells of a table."""
    error, correlated, independent = np.array(rows).T
    print(f"{name}: {len(rows)}; mean |error| {np.abs(error).mean():.3f} eV")
    cells = [f"{name}, {len(rows)}", f"{np.abs(error).mean():.3f}"]
    for said, std in (("correlated", correlated), ("as if independent", independent)):
        held = 100 * (np.abs(error) <= Z90 * std).mean()
        print(f"  {said:18s} 90 % interval holds {held:.0f} %, mean std {std.mean():.3f} eV")
        cells.append(f"{held:.0f} % ({std.mean():.3f})")
    return cells


def main() -> None:
    """Both kinds, one system after the other."""
    from adsorption_gate import LATTICE

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--judge", default="sevennet")
    parser.add_argument("--systems", type=int, default=50)
    parser.add_argument("--bands", type=int, default=20)
    record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    model, judge = ase_nnp.load_model(options.model), ase_nnp.load_model(options.judge)
    references: dict[str, References] = {}
    adsorbed, hops = [], []
    for metal, facet, name in systems(options.systems):
        guest = adsorbate(name)
        if name not in references:
            references[name] = References.of([guest], model, "oc20")
        slab, ends = started(model, metal, facet, guest, LATTICE[metal])
        adsorbed.append(adsorption(model, judge, references[name], slab, ends[0]))
        if len(hops) < options.bands and len(guest.atoms) == 1:
            row = barrier(model, judge, ends)
            hops += [] if row is None else [row]
        print(f"{name} on {metal} {facet}: {adsorbed[-1]} {hops[-1:]}", flush=True)
    rows = [told("adsorption energies", adsorbed)]
    if hops:
        rows.append(told("barriers", hops))
    if options.record:
        shared = "90 % interval holds (mean standard deviation, eV)"
        head = ["", "mean error, eV", f"{shared}, with what errors share", "as if independent"]
        write_measurement("differences_judged", head, rows)


if __name__ == "__main__":
    main()
