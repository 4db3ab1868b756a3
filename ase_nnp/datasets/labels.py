"""Names of labels: which words a reader takes for one, and labels under names of the user's own.

A dataset says what it means with names. ``energy`` in a comment line is a label to every reader,
``REF_energy`` to those of MACE, ``dft_energy`` to nobody until ``keys={"energy": "dft_energy"}``
names it. Writers ask :func:`is_label_name` before they write free information, so that converting
never makes a label of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError

__all__ = [
    "RESULTS",
    "candidates",
    "check_keys",
    "is_label_name",
    "keys_lines",
    "may_be_infinite",
    "relabel",
    "stress_of_virial",
]

Array = np.ndarray[Any, Any]
Sample = dict[str, Any]  # as in ase_nnp.datasets.sample

#: Further results of ASE's list, beside energy, forces and stress.
RESULTS = (
    *("free_energy", "dipole", "magmom", "magmoms", "charges", "stresses", "energies"),
    *("dielectric_tensor", "born_effective_charges", "polarization"),
)
_NUMBERS = frozenset(["energy", "free_energy", "magmom"])
_LABELS = ("energy", "forces", "stress", "virials", *RESULTS)
_ALIASES = {"virial": "virials", "force": "forces"}
#: What readers of extended XYZ, ASE rows, MACE, GPUMD and pymatgen take for a label.
_TAKEN = frozenset([*_LABELS, *_ALIASES, "uncorrected_total_energy"])


@lru_cache(maxsize=4096)
def is_label_name(name: str) -> bool:
    """Whether any reader takes information of this name for a label."""
    return name.removeprefix("REF_").lower() in _TAKEN


def may_be_infinite(name: str) -> bool:
    """Whether a result of this name has a meaning where it is infinite.

    A score is infinite for an element that was never seen, and an interval has no bound where too
    few points were measured for its coverage.
    """
    return name.startswith("ood_") or name.endswith("_interval")


def check_keys(keys: Mapping[str, str] | None) -> dict[str, str]:
    """Return ``keys=`` under the names of labels; refuse one that is no label.

    Raises
    ------
    DatasetError
        A name that is no label, with the one that was meant.
    """
    checked = {}
    for label, name in (keys or {}).items():
        label = _ALIASES.get(label, label)
        if label not in _LABELS or not isinstance(name, str):
            near = difflib.get_close_matches(str(label), _LABELS, 1)
            meant = f"did you mean {near[0]!r}? " if near and label not in _LABELS else ""
            raise DatasetError(
                f"keys= names {label!r}: {name!r}; {meant}It maps a label to its name in the "
                f"file; labels are {', '.join(_LABELS)}"
            )
        checked[label] = name
    return checked


def relabel(sample: Sample, keys: Mapping[str, str]) -> None:
    """Take labels from the names that the user gave; what they replace goes to ``info``.

    Raises
    ------
    DatasetError
        A name is not there, or what it names is not of the label's kind.
    """
    values = {label: _value(sample, name, label) for label, name in keys.items()}

    for label, value in values.items():
        if keys[label] == label and label in (*sample, *sample.get("results", ())):
            continue
        if label == "virials":
            stress = stress_of_virial(np.asarray(value, float), sample["cell"])
            if stress is not None:
                _replace(sample, "stress", stress)
        else:
            _replace(sample, label, _as_label(label, keys[label], value))


def _value(sample: Sample, name: str, label: str) -> Any:
    places = (sample["info"], sample.get("arrays", {}), sample.get("results", {}), sample)
    for place in places:
        if name in place:
            return place[name]
    raise DatasetError(f"no {name!r}, which keys= names for {label}")


def _as_label(label: str, name: str, value: Any) -> Any:
    try:
        array = np.asarray(value, float)
        if label == "stress":
            return full_stress(array)
        return float(array.reshape(())) if label in _NUMBERS else array
    except (TypeError, ValueError):
        raise DatasetError(f"{name!r}, which keys= names for {label}, is no number") from None


def _replace(sample: Sample, label: str, value: Any) -> None:
    own = label in ("energy", "forces", "stress")
    place = sample if own else sample.setdefault("results", {})
    if label in place:
        sample["info"].setdefault(label, place[label])
    place[label] = value


def full_stress(array: Array) -> Array:
    """Return Voigt 6 (xx, yy, zz, yz, xz, xy), 9 or (3, 3) as (3, 3), symmetric."""
    if array.size == 6:
        return array.ravel()[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    if array.size == 9:
        full = array.reshape(3, 3)
        return (full + full.T) / 2
    raise DatasetError(f"stress of shape {array.shape}")


def stress_of_virial(virial: Array, cell: Array) -> Array | None:
    r"""Return the stress of a virial tensor; None without a volume.

    QUIP, MACE, NequIP, DeePMD and GPUMD agree on :math:`W = -\partial E / \partial \varepsilon`,
    positive where the structure wants to expand; ASE's stress is
    :math:`\sigma = V^{-1} \partial E / \partial \varepsilon = -W / V`
    (Knuth et al., doi:10.1016/j.cpc.2015.01.003, eq. 2).

    Parameters
    ----------
    virial
        (3, 3), 9 values or Voigt 6, eV.
    cell
        (3, 3) Angstrom.

    Returns
    -------
    array
        (3, 3) eV/Angstrom^3, symmetric.
    """
    volume = abs(np.linalg.det(cell))
    if not volume > 0:
        return None
    full = full_stress(np.asarray(virial, float))
    stress: Array = -(full + full.T) / (2 * volume)
    return stress


# ---- names that look like labels, for those who wonder why a file has none

_NO_CANDIDATE = frozenset(["energy_kind", "energy_reference", "reference_energy", "ref_energy"])
_WORDS = (
    ("free_energy", re.compile(r"free_?energy", re.IGNORECASE)),
    ("energy", re.compile(r"energy", re.IGNORECASE)),
    ("forces", re.compile(r"forces?", re.IGNORECASE)),
    ("stress", re.compile(r"stress", re.IGNORECASE)),
    ("virials", re.compile(r"virials?", re.IGNORECASE)),
    ("dipole", re.compile(r"dipole", re.IGNORECASE)),
)


def candidates(sample: Sample) -> dict[str, str]:
    """Return names in ``info`` and ``arrays`` that look like a label, with that label."""
    n = len(sample["atomic_numbers"])
    sizes = {"forces": (3 * n,), "stress": (6, 9), "virials": (6, 9), "dipole": (3,)}
    names = {}
    for place in (sample["info"], sample.get("arrays", {})):
        for name, value in place.items():
            if not isinstance(name, str) or name in _NO_CANDIDATE:
                continue
            label = next((label for label, word in _WORDS if word.search(name)), None)
            if label is None or isinstance(value, (str, bool)):
                continue
            fits = np.size(value) in sizes.get(label, (1,)) and _numeric(value)
            if fits and not _is_label_already(sample, label, value):
                names[name] = label
    return names


def _is_label_already(sample: Sample, label: str, value: Any) -> bool:
    """Whether a value that looks like a label repeats the one that the sample has."""
    present = sample.get(label, sample.get("results", {}).get(label))
    if present is None or np.size(present) != np.size(value):
        return False
    return bool(np.allclose(np.ravel(present), np.ravel(value), rtol=1e-9, atol=0))


def _numeric(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "iuf"
    except ValueError:  # a ragged list
        return False


def keys_lines(names: Mapping[str, str]) -> list[dict[str, str]]:
    """Group candidates by what surrounds the label's word: one ``keys=`` for each source."""
    sources: dict[str, dict[str, str]] = {}
    for name, label in sorted(names.items()):
        word = dict(_WORDS)[label]
        sources.setdefault(word.sub("*", name).lower(), {})[label] = name
    return list(sources.values())
