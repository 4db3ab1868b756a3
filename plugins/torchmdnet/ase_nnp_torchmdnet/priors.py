"""What a checkpoint of torchmd-net adds to its network, from names and arguments in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ase import units

from ase_nnp.errors import CheckpointError

__all__ = ["Priors", "read_priors"]

#: e^2 / (4 pi eps0) in J m, with the package's digits for either term.
COULOMB_ZBL, COULOMB = 2.30707755e-28, 2.30707e-28
ANGSTROM = 1e-10


@dataclass(frozen=True)
class Priors:
    """Corrections by name with their parameters, and what the file says of its energies.

    ``atomref`` numbers those priors that are tables of energies of free atoms and switched on;
    ``joule`` is what an energy of 1 is worth, None where no prior says so.
    """

    atomref: list[int] = field(default_factory=list)
    corrections: dict[str, dict[str, Any]] = field(default_factory=dict)
    joule: float | None = None


def read_priors(settings: Mapping[str, Any], unit: float | None, path: object) -> Priors:
    """Return the priors of a checkpoint.

    Parameters
    ----------
    settings
        Its hyper-parameters.
    unit
        What an energy of 1 is worth, eV; None takes what the priors say.
    path
        Of the file, for errors.

    Raises
    ------
    CheckpointError
        An unknown prior, one twice, or arguments that do not mean Angstrom and atomic numbers.
    """
    atomref: list[int] = []
    corrections: dict[str, dict[str, Any]] = {}
    worth: list[float] = []
    for number, (name, given) in enumerate(_entries(settings, path)):
        if name in ("Atomref", "LearnableAtomref"):
            if given.get("enable", True):
                atomref.append(number)
            continue
        if name not in READERS:
            raise CheckpointError(
                f"{path} adds the prior {name}; Atomref, LearnableAtomref, "
                f"{', '.join(READERS)} are read."
            )

        correction = f"torchmdnet_{name.lower()}"
        if correction in corrections:
            raise CheckpointError(f"{path} adds the prior {name} twice.")
        try:
            prior = _Arguments(name, given)
            worth.append(prior.number("energy_scale"))
            prior.check_units()
            factor = units.J * worth[-1] if unit is None else unit
            corrections[correction] = READERS[name](prior, factor)
        except ValueError as error:
            raise CheckpointError(f"{path} adds the prior {name}: {error}") from error

    if worth and max(worth) > (1 + 1e-4) * min(worth):
        raise CheckpointError(f"{path}: its priors disagree about energy_scale: {worth}.")
    return Priors(atomref, corrections, worth[0] if worth else None)


class _Arguments:
    """Arguments of one prior; a ValueError says what is wrong with one."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self.name, self.given = name, given

    def number(self, key: str) -> float:
        """Return a positive number."""
        value = self.given.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{key} must be a number, found {value!r}.")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key} must not be negative, found {value!r}.")
        return float(value)

    def check_units(self) -> None:
        """Refuse lengths that are not in Angstrom, and elements by other numbers."""
        length, energy = self.number("distance_scale"), self.number("energy_scale")
        if abs(length / ANGSTROM - 1) > 1e-6 or energy == 0:
            raise ValueError(
                f"distance_scale {length} m and energy_scale {energy} J; lengths in Angstrom "
                "(1e-10) and energies above 0 are read."
            )
        numbers = self.given.get("atomic_number")
        known = isinstance(numbers, (list, tuple))
        if numbers is not None and not (known and [*numbers[1:]] == [*range(1, len(numbers))]):
            raise ValueError("atomic_number numbers the elements otherwise than by their charge.")
        if self.given.get("initial_box") is not None or self.given.get("box_vecs") is not None:
            raise ValueError("it has a box of its own.")


def _zbl(prior: _Arguments, factor: float) -> dict[str, Any]:
    strength = COULOMB_ZBL / prior.number("energy_scale") / prior.number("distance_scale")
    return {"cutoff": prior.number("cutoff_distance"), "strength": strength * factor}


def _d2(prior: _Arguments, factor: float) -> dict[str, Any]:
    s6 = factor / (prior.number("energy_scale") * units.J)
    return {"cutoff": prior.number("cutoff_distance"), "s6": s6}


def _coulomb(prior: _Arguments, factor: float) -> dict[str, Any]:
    # The package divides by distances in nm and by the length of the data's unit in m: right for
    # data in nm, ten times too much for Angstrom, and what the network has learned beside.
    nm = 10.0
    strength = COULOMB / prior.number("energy_scale") / prior.number("distance_scale")
    return {
        "lower": nm * prior.number("lower_switch_distance"),
        "upper": nm * prior.number("upper_switch_distance"),
        "strength": nm * strength * factor,
    }


READERS = {"ZBL": _zbl, "D2": _d2, "Coulomb": _coulomb}


def _entries(settings: Mapping[str, Any], path: object) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return names and arguments, of whichever of the three forms that a file may have."""
    given = settings.get("prior_model") or []
    entries = given if isinstance(given, (list, tuple)) else [given]
    pairs: list[tuple[str, Any]] = []
    for entry in entries:
        named = entry.items() if isinstance(entry, Mapping) else [(entry, None)]
        pairs += [(str(name), value) for name, value in named]

    # Arguments of the trained priors stand beside, and count more than those they were asked with.
    beside = settings.get("prior_args")
    if beside is not None and pairs:
        values = list(beside) if isinstance(beside, (list, tuple)) else [beside]
        if len(values) != len(pairs):
            raise CheckpointError(f"{path}: {len(pairs)} priors and {len(values)} prior_args.")
        pairs = [(name, value) for (name, _), value in zip(pairs, values, strict=True)]
    strange = [name for name, value in pairs if not isinstance(value or {}, Mapping)]
    if strange:
        raise CheckpointError(f"{path}: arguments of the prior {strange[0]} are no names.")
    return [(name, value or {}) for name, value in pairs]
