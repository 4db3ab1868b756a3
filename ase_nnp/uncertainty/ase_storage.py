"""Keeping uncertainties with structures: attach, freeze, and files that lose nothing.

ASE writes only the properties it knows: ``energy_std`` and its kin vanish from extxyz, trajectory
and database files without a word. Here they travel as ``atoms.info`` and ``atoms.arrays`` entries
with the prefix ``nnp_``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp.errors import UncertaintyError

__all__ = [
    "ALIASES",
    "PREFIX",
    "UncertaintyTrajectory",
    "aliases",
    "attach_uncertainty",
    "freeze",
    "read_uncertainty",
    "write_db",
    "write_extxyz",
]

PREFIX = "nnp_"
#: One row per atom along the first axis: kept in ``atoms.arrays``.
PER_ATOM = {"forces_std", "forces_std_norm", "energies_std", "ood_scores"}
PER_ATOM |= {"forces_var", "forces_uncertainty"}

#: What others call our keys, and the factor or power that takes ours to theirs.
ALIASES: dict[str, dict[str, tuple[str, str]]] = {
    "mace": {
        "energy_var": ("energy_std", "square"),
        "forces_comm": ("forces_members", "same"),
        "energies_comm": ("energy_members", "same"),
        "forces_var": ("forces_std", "square"),
        "stress_var": ("stress_std", "square"),
    },
    "metatomic": {
        "energy_uncertainty": ("energy_std", "same"),
        "energy_ensemble": ("energy_members", "same"),
    },
    "matscipy": {
        "energy_uncertainty": ("energy_std", "same"),
        "forces_uncertainty": ("forces_std", "same"),
        "stress_uncertainty": ("stress_std", "same"),
    },
}


def aliases(results: Mapping[str, Any], style: str) -> dict[str, Any]:
    """The uncertainties under the names of another package.

    Parameters
    ----------
    results
        ``calc.results``.
    style
        ``"mace"`` (variances), ``"metatomic"`` or ``"matscipy"``.
    """
    if style not in ALIASES:
        raise UncertaintyError(f"No aliases '{style}'. There are: {', '.join(ALIASES)}.")
    table = ALIASES[style].items()
    return {
        theirs: np.square(results[ours]) if how == "square" else results[ours]
        for theirs, (ours, how) in table
        if ours in results
    }


def extra_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results that ASE's own files would drop."""
    return {k: v for k, v in results.items() if k not in all_properties}


def attach_uncertainty(atoms: Atoms, results: Mapping[str, Any] | None = None) -> Atoms:
    """Copy the uncertainties of ``atoms.calc`` to ``atoms.info`` and ``atoms.arrays``.

    Per-atom values become arrays ``nnp_forces_std`` ..., all else info entries. Old entries of
    the prefix are removed first. Changes and returns ``atoms``.

    Raises
    ------
    UncertaintyError
        No calculator with results.
    """
    if results is None:
        if atoms.calc is None or not atoms.calc.results:
            raise UncertaintyError("The atoms have no calculated results; evaluate them first.")
        results = atoms.calc.results

    # What an earlier calculator left would pass for this one's.
    for place in (atoms.info, atoms.arrays):
        for key in [k for k in place if k.startswith(PREFIX)]:
            del place[key]
    for name, value in extra_results(results).items():
        if name in PER_ATOM:
            atoms.set_array(PREFIX + name, np.asarray(value))
        elif isinstance(value, Mapping):
            atoms.info[PREFIX + name] = json.dumps(value, default=str)
        else:
            atoms.info[PREFIX + name] = value
    return atoms


def read_uncertainty(atoms: Atoms) -> dict[str, Any]:
    """Uncertainties that a structure carries, under their canonical names."""
    results: dict[str, Any] = {}
    stored = dict(atoms.info.get("key_value_pairs", {})) | dict(atoms.info.get("data", {}))
    for place in (stored, atoms.info, atoms.arrays):
        for key, value in place.items():
            if key.startswith(PREFIX):
                results[key.removeprefix(PREFIX)] = _restore(key, value)
    return results


def _restore(key: str, value: Any) -> Any:
    name = key.removeprefix(PREFIX)
    if name == "uq":
        return json.loads(value) if isinstance(value, str) else dict(value)
    if name.endswith("_flag"):
        return bool(value)
    if name.endswith(("_cov", "_members", "_interval")):
        return np.asarray(value, dtype=np.float64)
    return value


def freeze(atoms: Atoms) -> Atoms:
    """A copy with a SinglePointCalculator that keeps the extra keys too.

    The copy also carries them as info and arrays, so that any writer keeps them.
    """
    if atoms.calc is None or not atoms.calc.results:
        raise UncertaintyError("The atoms have no calculated results; evaluate them first.")
    results = {
        k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in atoms.calc.results.items()
    }

    # SinglePointCalculator takes ASE's own names only; the rest is put in afterwards.
    copy = atoms.copy()
    known = {k: v for k, v in results.items() if k in all_properties}
    copy.calc = SinglePointCalculator(copy, **known)
    extra = extra_results(results)
    copy.calc.results.update(extra)
    # A list of its own: the class's is shared by all calculators.
    copy.calc.implemented_properties = [*known, *extra]
    return attach_uncertainty(copy, results)


class UncertaintyTrajectory:
    """A trajectory that keeps uncertainties; use as ``dyn.attach(writer, interval=10)``.

    ASE's own trajectory keeps ``info`` but no custom arrays, so per-atom values go there as info.

    Parameters
    ----------
    path
        ``*.traj``.
    atoms
        Written at each call without an argument.
    mode
        ``"w"`` or ``"a"``.
    """

    def __init__(self, path: str | Path, atoms: Atoms | None = None, mode: str = "w") -> None:
        from ase.io.trajectory import Trajectory

        self.atoms, self._file = atoms, Trajectory(str(path), mode)

    def write(self, atoms: Atoms | None = None) -> None:
        """Append one frame."""
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise UncertaintyError("Which atoms? Give them here or when the file is opened.")
        frame = freeze(atoms)
        for key in [k for k in frame.arrays if k.startswith(PREFIX)]:
            frame.info[key] = frame.arrays.pop(key)
        self._file.write(frame)

    __call__ = write

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> UncertaintyTrajectory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def write_extxyz(path: str | Path, structures: Iterable[Atoms]) -> None:
    """Write structures with their uncertainties to one extxyz file, whole or not at all.

    Per-atom values are columns with eight decimals, everything else keeps all digits.
    """
    from ase.io import write

    from ase_nnp.files.atomic import whole_file

    frames = [freeze(atoms) for atoms in structures]
    if not frames:
        raise UncertaintyError("There are no structures to write.")
    with whole_file(path) as beside:
        write(str(beside), frames, format="extxyz")


def write_db(database: Any, atoms: Atoms, **key_value_pairs: Any) -> int:
    """Write one row whose scalars can be selected (``db.select("nnp_energy_std>0.1")``).

    Parameters
    ----------
    database
        What ``ase.db.connect`` returns.
    atoms
        With a calculator that has uncertainties.
    key_value_pairs
        Further pairs of the row.

    Returns
    -------
    int
        The row's id. Arrays are under ``row.data``; :func:`read_uncertainty` finds everything in
        ``row.toatoms(add_additional_information=True)``.
    """
    frame = freeze(atoms)
    scalars: dict[str, Any] = {}
    data: dict[str, Any] = {}

    for name, value in extra_results(frame.calc.results).items():
        if isinstance(value, bool | np.bool_):
            scalars[PREFIX + name] = bool(value)
        elif np.ndim(value) == 0 and not isinstance(value, Mapping) and np.isfinite(value):
            scalars[PREFIX + name] = float(value)
        else:
            data[PREFIX + name] = dict(value) if isinstance(value, Mapping) else np.asarray(value)
    # What stands in the row need not be in its structure a second time.
    for place in (frame.info, frame.arrays):
        for key in [k for k in place if k.startswith(PREFIX)]:
            del place[key]
    frame.calc.results = {k: v for k, v in frame.calc.results.items() if k in all_properties}
    return int(database.write(frame, key_value_pairs={**scalars, **key_value_pairs}, data=data))
