"""Results of an adsorption benchmark in files that CatBench and ml-peg read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_nnp.datasets.writing.write import write_dataset
from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import write_whole
from ase_nnp.training.benchmarks.adsorption import Reaction
from ase_nnp.training.benchmarks.relaxed import CUTOFF, Relaxed, Run
from ase_nnp.training.benchmarks.report import BenchmarkReport

__all__ = ["catbench_reactions", "write_catbench_result", "write_mlpeg_structures"]

_STILL = Run(0, True, 0.0, 0.0)


def write_catbench_result(
    report: BenchmarkReport,
    reactions: Sequence[Reaction],
    relaxed: Mapping[str, Relaxed],
    folder: str | Path,
    *,
    fmax: float = 0.05,
    steps: int = 999,
) -> Path:
    """Write ``result/NAME/NAME_result.json``, on which CatBench's ``AdsorptionAnalysis`` runs.

    Parameters
    ----------
    report, reactions, relaxed
        From :func:`~.adsorption.adsorption_benchmark`; single points count as relaxations that
        moved nothing.
    folder
        The folder that holds ``result``.
    fmax, steps
        Of the relaxation.

    Returns
    -------
    Path
        Of the file. Reactions without an answer are listed under ``_failures``.
    """
    name = report.model
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"{name!r} is no name of a folder for the result; give name=.")

    content: dict[str, Any] = {
        "calculation_settings": {
            "optimizer": "LBFGS" if relaxed else "single point",
            "f_crit_relax": fmax,
            "n_crit_relax": steps,
            "chemical_bond_cutoff": CUTOFF,
            "constraint_mode": "fixatoms",
        }
    }
    failures = {}

    for reaction, answer in zip(reactions, report.answers, strict=True):
        if answer.prediction is None:
            failures[reaction.name] = {"stage": "energy", "error": answer.problem}
            continue
        content[reaction.name] = _reaction(reaction, answer.prediction, relaxed.get(reaction.name))

    if failures:
        content["_failures"] = failures
    path = Path(folder) / "result" / name / f"{name}_result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")

    return path


def _reaction(reaction: Reaction, energy: float, moved: Relaxed | None) -> dict[str, Any]:
    runs = moved.runs if moved is not None else {}
    slab, adslab = runs.get("star", _STILL), runs.get(reaction.adslab, _STILL)
    totals = {
        f"{part}_tot_eng": float(atoms.get_potential_energy())
        for part, atoms in reaction.parts.items()
        if not part.endswith("gas") and atoms.calc is not None
    }

    one = {
        "ads_eng": energy,
        "slab_tot_eng": slab.last,
        "adslab_tot_eng": adslab.last,
        "slab_max_disp": moved.slab_displacement if moved else 0.0,
        "adslab_max_disp": moved.adslab_displacement if moved else 0.0,
        "max_bond_change": 100.0 * moved.bond_change if moved else 0.0,
        "substrate_displacement": moved.substrate_displacement if moved else 0.0,
        "slab_energy_change": slab.last - slab.first,
        "adslab_energy_change": adslab.last - adslab.first,
        "slab_time": 0.0,
        "adslab_time": 0.0,
        "slab_steps": slab.steps,
        "adslab_steps": adslab.steps,
    }

    for part in ("slab", "adslab"):
        one |= {f"{part}_pos_mae": 0.0, f"{part}_pos_rmsd": 0.0}
    final = {
        "ads_eng_median": energy,
        "median_num": 0,
        "slab_max_disp": one["slab_max_disp"],
        "adslab_max_disp": one["adslab_max_disp"],
        "slab_seed_range": 0.0,
        "ads_seed_range": 0.0,
        "ads_eng_seed_range": 0.0,
        "time_total_slab": 0.0,
        "time_total_adslab": 0.0,
        "steps_total_slab": slab.steps,
        "steps_total_adslab": adslab.steps,
        "step_weighted_atoms": len(reaction.parts[reaction.adslab]),
        "time_per_step": 0.0,
        "time_per_step_per_atom": 0.0,
    }

    # Before anything moved: the sum of the first energies, where all were computed.
    first = energy
    if set(runs) == set(reaction.parts):
        first = sum(reaction.stoichiometry[part] * run.first for part, run in runs.items())

    return {
        "reference": {"ads_eng": reaction.energy, **totals},
        "adsorbate_indices": _inside(reaction),
        "single_calculation": {
            "ads_eng": first,
            "slab_tot_eng": slab.first,
            "adslab_tot_eng": adslab.first,
        },
        "0": one,
        "final": final,
    }


def _inside(reaction: Reaction) -> list[int]:
    tags = reaction.parts[reaction.adslab].get_tags()
    return [k for k, tag in enumerate(tags.tolist()) if tag == 2]


def write_mlpeg_structures(
    report: BenchmarkReport, reactions: Sequence[Reaction], folder: str | Path
) -> Path:
    """Write ``NAME/mol_surface_structs.extxyz``, as ml-peg's adsorption benchmarks keep results.

    Each adslab carries ``pred_adsorption_energy`` and ``PBE_adsorption_energy`` (the reference),
    eV; NaN where the model gave none.
    """
    frames = []
    for reaction, answer in zip(reactions, report.answers, strict=True):
        atoms = reaction.parts[reaction.adslab].copy()
        predicted = float("nan") if answer.prediction is None else answer.prediction
        atoms.info = {
            "sys_formula": reaction.name,
            "pred_adsorption_energy": predicted,
            "PBE_adsorption_energy": reaction.energy,
        }
        frames.append(atoms)
    path = Path(folder) / report.model / "mol_surface_structs.extxyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dataset(path, frames, overwrite=True)
    return path


def catbench_reactions(reactions: Sequence[Reaction], path: str | Path) -> Path:
    """Write reactions as a set that CatBench and :func:`ase_nnp.open_dataset` read.

    Structures are stored where they are used; the total energies are those of their calculators.
    """
    content = {}
    for reaction in reactions:
        raw = {
            part: {
                "stoi": reaction.stoichiometry[part],
                "energy_ref": float(atoms.get_potential_energy()),
                "atoms_json": _ase_json(atoms),
            }
            for part, atoms in reaction.parts.items()
        }
        content[reaction.name] = {
            "raw": raw,
            "ref_ads_eng": reaction.energy,
            "adsorbate_indices": _inside(reaction),
        }

    write_whole(path, json.dumps(content, indent=1) + "\n")
    return Path(path)


def _ase_json(atoms: Any) -> str:
    import io

    import ase.io

    bare = atoms.copy()
    buffer = io.StringIO()
    ase.io.write(buffer, bare, format="json")
    return buffer.getvalue()
