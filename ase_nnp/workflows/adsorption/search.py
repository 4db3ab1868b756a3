"""From a crystal or slab to the most stable adsorbate: where it binds, how strongly, and may I
believe it?

Placements and flags are those of AdsorbML (Lan et al. 2023, doi:10.1038/s41524-023-01121-5). What
is equivalent by the slab's symmetry is merged before, between and after relaxations; the model's
own doubt and a push against saddles decide what is taken for a minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.files.identity import digest, structure_digest
from ase_nnp.models.checkpoints import model_name
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.workflows.adsorption.adsorbates import Adsorbate, adsorbate
from ase_nnp.workflows.adsorption.judgment import judged
from ase_nnp.workflows.adsorption.placement import place, tagged_slab
from ase_nnp.workflows.adsorption.references import References
from ase_nnp.workflows.adsorption.result import AdsorptionResult
from ase_nnp.workflows.adsorption.slabs import bulk_crystal, surface
from ase_nnp.workflows.adsorption.stages import Candidate, Stages, merged
from ase_nnp.workflows.batched.store import agree
from ase_nnp.workflows.surfaces import VACUUM, vacuum_gaps

if TYPE_CHECKING:
    from ase import Atoms


__all__ = ["adsorb", "is_slab"]

#: Angstrom: placements this near are one before anything is relaxed.
SAME_START = 0.05
#: Steps of the adsorbate on the rigid slab, and of everything before twins are looked for.
RIGID_STEPS, FIRST_STEPS = 60, 40
#: Angstrom on either side of a slab that was built without any.
ROOM = 10.0


def adsorb(
    slab_or_bulk: Any,
    adsorbates: Any,
    model: Any = None,
    *,
    miller: Sequence[int] = (1, 1, 1),
    termination: int = 0,
    placements: int = 60,
    top: int = 5,
    seed: int = 0,
    fmax: float = 0.05,
    steps: int = 300,
    reference: str | Atoms = "oc20",
    relax_bulk: bool = True,
    push: float = 0.1,
    folder: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> AdsorptionResult:
    """Return the distinct minima of an adsorbate on a surface, ranked, each with its interval.

    Parameters
    ----------
    slab_or_bulk
        A slab (surface towards the third cell vector), or a crystal: an element's symbol, a file,
        an ase.Atoms or a pymatgen structure.
    adsorbates
        A name (``"CO"``, ``"*OCH3"``), an ase.Atoms, an
        :class:`~ase_nnp.workflows.adsorption.Adsorbate`, or a list of these, placed together.
    model
        What :func:`~ase_nnp.load_model` takes; the default model without it.
    miller, termination
        Of a crystal: the plane, as in :func:`~ase_nnp.workflows.adsorption.surface`.
    placements
        Half of them on the distinct sites, half random.
    top
        Minima that are returned.
    seed
        The same call with the same seed gives the same result.
    fmax, steps
        Where relaxations end, eV/Angstrom, and after how many steps at most.
    reference
        A scheme of :data:`~ase_nnp.workflows.adsorption.REFERENCES`, or the gas-phase molecule,
        which is relaxed with the model as those of a scheme are.
    relax_bulk
        Relax a crystal's cell with the model first, so that the slab is not under strain.
    push
        Angstrom that every atom of an adsorbate is pushed to see whether its minimum is a saddle;
        0: no such test.
    folder
        Keeps the state of all relaxations: the same call goes on after a kill.
    progress
        Called as ``progress(stage, finished, total)``.

    Returns
    -------
    AdsorptionResult
        Minima, rejected placements with reasons, the reaction, references and settings.

    Raises
    ------
    ConfigError
        Arguments that cannot be meant, or a folder that holds another search.
    StructureError
        No slab or crystal, or the slab or a gas-phase molecule does not relax.
    """
    if placements < 1 or top < 1 or steps < 1 or not fmax > 0 or not push >= 0:
        raise ConfigError(
            f"placements = {placements}, top = {top}, steps = {steps}, fmax = {fmax}, push = "
            f"{push}: at least 1, 1 and 1, above zero, and zero or more."
        )
    several = isinstance(adsorbates, (list, tuple))
    guests = [adsorbate(one) for one in (adsorbates if several else [adsorbates])]
    potential = load_model(model)
    references = References.of(guests, potential, reference)
    given = _given(slab_or_bulk)
    settings: dict[str, Any] = {
        "adsorbates": [guest.name for guest in guests],
        "placements": placements,
        "top": top,
        "seed": seed,
        "fmax": fmax,
        "steps": steps,
        "push": push,
        "reference": references.name,
        "model": model_name(potential),
        "model_hash": model_hash(potential),
    }
    home = None if folder is None else _home(Path(folder), given, guests, settings)

    stages = Stages(potential, home, progress)
    slab = _slab(given, stages, miller, termination, relax_bulk, fmax, steps)
    slab = _relaxed_slab(slab, stages, fmax, steps)
    candidates = _placed(slab, guests, placements, seed)
    distinct = merged(candidates, SAME_START)
    ends = _relaxed(distinct, stages, fmax, steps)
    return judged(
        ends,
        slab,
        stages,
        references,
        system=_system(slab, guests),
        settings={**settings, "surface": _said(slab)},
        counts={"placements": placements, "distinct": len(distinct)},
    )


def _given(slab_or_bulk: Any) -> Atoms:
    """The structure, whichever it is: told apart by vacuum."""
    from ase import Atoms

    if isinstance(slab_or_bulk, Atoms):
        return slab_or_bulk
    if isinstance(slab_or_bulk, (str, Path)) and Path(slab_or_bulk).exists():
        from ase_nnp.datasets import open_dataset

        atoms: Atoms = open_dataset(slab_or_bulk)[0]
        return atoms
    return bulk_crystal(slab_or_bulk)


def is_slab(atoms: Atoms) -> bool:
    """Whether a structure has a surface: no third period, or vacuum along it."""
    if _lacks_vacuum(atoms):
        return True
    if atoms.cell.rank < 3 or not atoms.pbc[:2].all():
        return False
    return not atoms.pbc[2] or vacuum_gaps(atoms)[2] > VACUUM


def _lacks_vacuum(atoms: Atoms) -> bool:
    """Whether it is a slab of ase.build without ``vacuum=``: there is no third cell vector."""
    flat = atoms.cell.rank == 2 and not atoms.cell[2].any()
    return bool(flat and atoms.pbc[:2].all() and not atoms.pbc[2])


def _home(
    folder: Path, given: Atoms, guests: Sequence[Adsorbate], settings: dict[str, Any]
) -> Path:
    """Make the folder of a search, or join the same one that was begun there."""
    folder.mkdir(parents=True, exist_ok=True)
    structures = [structure_digest(given), *(structure_digest(g.atoms) for g in guests)]
    agree(folder / "search.json", {**settings, "structures": structures})
    return folder


def _slab(
    given: Atoms,
    stages: Stages,
    miller: Sequence[int],
    termination: int,
    relax_bulk: bool,
    fmax: float,
    steps: int,
) -> Atoms:
    """The slab to place on, cut from the crystal if that is what was given."""
    if is_slab(given):
        if _lacks_vacuum(given):
            given = given.copy()
            given.center(vacuum=ROOM, axis=2)
        slab = tagged_slab(given)
        slab.calc = None
        # As it was given: relaxed positions differ from machine to machine.
        slab.info.setdefault("slab_id", _slab_id(slab))
        return slab

    crystal = bulk_crystal(given)
    empty = [k for k in range(2) if vacuum_gaps(crystal)[k] > VACUUM]
    if empty:
        raise StructureError(
            f"{crystal.get_chemical_formula()} has vacuum along cell vector {empty[0]}: neither a "
            "crystal nor a slab, whose surface looks along the third vector (2, counted from 0). "
            "ase.geometry.permute_axes(atoms, [...]) changes their order."
        )
    if relax_bulk and "stress" in stages.potential.outputs:
        outcome = stages.relax("crystal", [crystal], cell=True, fmax=fmax / 2, steps=steps)[0]
        if not outcome.converged:
            raise StructureError(
                f"The crystal {crystal.get_chemical_formula()} did not relax "
                f"({outcome.reason or 'not converged'}). relax_bulk=False takes it as it is."
            )
        crystal = outcome.atoms

    return surface(crystal, miller, termination=termination)


def _relaxed_slab(slab: Atoms, stages: Stages, fmax: float, steps: int) -> Atoms:
    outcome = stages.relax("slab", [slab], fmax=fmax / 2, steps=steps)[0]
    if not outcome.converged:
        raise StructureError(
            f"The clean slab {slab.get_chemical_formula()} did not relax to {fmax / 2} eV/Å in "
            f"{steps} steps ({outcome.reason or 'not converged'})."
        )
    relaxed: Atoms = outcome.atoms
    return relaxed


def _placed(
    slab: Atoms, guests: Sequence[Adsorbate], placements: int, seed: int
) -> list[Candidate]:
    plain = slab.copy()
    plain.calc = None
    half = (placements + 1) // 2
    starts = place(plain, list(guests), number=half, seed=seed)
    if placements > half:
        starts += place(plain, list(guests), mode="random", number=placements - half, seed=seed)
    return [Candidate(atoms, atoms, [k]) for k, atoms in enumerate(starts)]


def _relaxed(
    candidates: Sequence[Candidate], stages: Stages, fmax: float, steps: int
) -> list[Candidate]:
    """Relax placements and merge those that meet on the way.

    The adsorbate moves on the rigid slab first: most placements meet there, in a few steps of
    few coordinates, before the slab answers to any of them.
    """
    ends = merged(stages.move("rigid", candidates, rigid=True, fmax=2 * fmax, steps=RIGID_STEPS))
    first = min(FIRST_STEPS, steps)
    ends = merged(stages.move("first", ends, fmax=fmax, steps=first))
    going = [one for one in ends if not one.converged and one.energy is not None]
    if steps > first:
        moved = stages.move("last", going, fmax=fmax, steps=steps - first)
        ends = [one for one in ends if not any(one is other for other in going)] + moved
    return merged(ends)


def _slab_id(slab: Atoms) -> str:
    content = [slab.numbers, np.round(slab.cell.array, 2), np.round(slab.positions, 2)]
    return f"{slab.get_chemical_formula(empirical=True)}-{digest(content)[:8]}"


def _system(slab: Atoms, guests: Sequence[Adsorbate]) -> str:
    """An id of slab and adsorbates."""
    return "_".join([str(slab.info["slab_id"]), *(g.name.replace("*", "") for g in guests)])


def _said(slab: Atoms) -> dict[str, Any]:
    names = ("miller", "shift", "top", "bulk_id", "slab_id")
    said = {k: slab.info[k] for k in names if k in slab.info}
    if "miller" in said:
        said["miller"] = [int(k) for k in said["miller"]]
    return {**said, "slab": slab.get_chemical_formula(), "cell": slab.cell.cellpar().tolist()}
