"""From relaxed placements to a ranking: the gate, a push against saddles, error bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.workflows.adsorption.geometry import describe
from ase_nnp.workflows.adsorption.references import References
from ase_nnp.workflows.adsorption.result import AdsorptionResult, Minimum, Rejected
from ase_nnp.workflows.adsorption.stages import Candidate, Stages, alike, merged
from ase_nnp.workflows.adsorption.surface_sites import every_site
from ase_nnp.workflows.adsorption.verdicts import Verdicts, doubts_of
from ase_nnp.workflows.doubts import unknown_places

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["judged"]

#: A push leads elsewhere if the energy falls by this and the place changes by that; eV, Angstrom.
FALL, ELSEWHERE = 0.02, 0.3
#: Steps after a push.
PUSH_STEPS = 100


def judged(
    ends: Sequence[Candidate],
    slab: Atoms,
    stages: Stages,
    references: References,
    *,
    system: str,
    settings: Mapping[str, Any],
    counts: Mapping[str, int],
) -> AdsorptionResult:
    """Return the ranking of relaxed placements.

    Parameters
    ----------
    ends
        Relaxed and merged placements.
    slab
        The relaxed clean slab, with tags.
    stages
        Runs the relaxations after the push.
    references
        Of the energies.
    system, settings, counts
        For the result; ``settings`` holds ``top``, ``fmax`` and ``push``.
    """
    verdicts = Verdicts(slab)
    verdicts.judge(ends, doubts_of(stages.potential, ends))
    if settings["push"]:
        _push(verdicts, stages, settings)

    pool = [*verdicts.accepted, *(one for _, _, one in verdicts.rejected if one.energy is not None)]
    values = references.energies(stages.potential, [one.atoms for one in pool], slab)
    energies = {id(one): value for one, value in zip(pool, values, strict=True)}
    verdicts.compare(energies)

    every = list(every_site(slab))
    minima = []
    for one in sorted(verdicts.accepted, key=lambda c: energies[id(c)].value):
        value = energies[id(one)]
        guests = np.flatnonzero(one.start.get_tags() == 2)
        minima.append(
            Minimum(
                atoms=one.atoms,
                energy=float(value),
                std=value.std,
                interval=value.interval(),
                geometry=describe(one.atoms, guests, every),
                placements=tuple(one.placements),
                ood_score=verdicts.scores.get(id(one)),
            )
        )
    rejected = [
        Rejected(
            reason=reason,
            detail=detail,
            placements=tuple(one.placements),
            start=str(one.start.info.get("site", "")),
            energy=float(energies[id(one)]) if id(one) in energies else None,
            atoms=one.atoms,
        )
        for reason, detail, one in verdicts.rejected
    ]
    covers = next((energies[id(one)].covers for one in pool), "No ±: there is no energy.")
    return AdsorptionResult(
        system=system,
        minima=minima[: int(settings["top"])],
        rejected=rejected,
        reaction=references.reaction,
        reference=references.name,
        error_bar=covers,
        slab=slab,
        gas=references.gas,
        amounts=references.amounts,
        settings=settings,
        counts={
            **counts,
            "minima": len(minima),
            "rejected": sum(len(one.placements) for one in rejected),
            "relaxations": stages.relaxations,
            "steps": stages.steps,
        },
        unknown=_unknown(stages.potential, slab, references),
    )


def _unknown(potential: Potential, slab: Atoms, references: References) -> tuple[str, ...]:
    """Names of what the energies are counted from, where the model's own flag is raised."""
    # A model of adsorption energies is never asked about a slab alone.
    named = {} if references.own else {"slab": slab}
    named |= {f"{name}(g)": atoms for name, atoms in references.gas.items()}
    names = list(named)
    return tuple(names[k] for k in unknown_places(potential, list(named.values())))


def _push(verdicts: Verdicts, stages: Stages, settings: Mapping[str, Any]) -> None:
    """Push every accepted minimum, relax again, and reject those that fall elsewhere."""
    random = np.random.default_rng(settings["seed"])
    tried = list(verdicts.accepted)
    pushed = []
    for one in tried:
        atoms = one.atoms.copy()
        guests = np.flatnonzero(one.start.get_tags() == 2)
        # All atoms together, and a little each: a saddle may be of a place or of a turn.
        shift = random.normal(size=3) + 0.5 * random.normal(size=(len(guests), 3))
        atoms.positions[guests] += settings["push"] * shift / np.linalg.norm(shift, axis=1).max()
        pushed.append(Candidate(one.start, atoms, list(one.placements)))
    ends = stages.move("push", pushed, fmax=settings["fmax"] / 2, steps=PUSH_STEPS)

    fallen = []
    for one, end in zip(tried, ends, strict=True):
        if end.energy is None or one.energy is None or end.energy > one.energy - FALL:
            continue
        if alike(one, Candidate(end.start, end.atoms, [], None), ELSEWHERE):
            continue
        detail = f"a push of {settings['push']} Å lowers it by {one.energy - end.energy:.3f} eV"
        verdicts.accepted = [other for other in verdicts.accepted if other is not one]
        verdicts.rejected.append(("saddle", detail, one))
        fallen.append(end)

    # Where a saddle leads to is a minimum like any other; most are there already.
    new = [end for end in merged(fallen) if not any(alike(end, one) for one in verdicts.accepted)]
    verdicts.judge(new, doubts_of(stages.potential, new))
