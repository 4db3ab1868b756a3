"""What a plugin hands over for a term added to any potential: repulsion, dispersion, charges."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import ConfigError
from ase_nnp.registry.family import check_offer

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["Correction", "RegisterCorrection", "parse_correction"]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A term that is subtracted from labels in training and added to a model at inference.

    Parameters
    ----------
    name, summary
        What users write in ``corrections=["zbl"]``, and one line.
    build
        ``build(config) -> Potential``; ``config`` holds the keys of ``defaults`` updated by the
        user's. Import torch inside.
    defaults
        Every parameter with its default; a key that is not here is refused.
    functionals
        Exchange-correlation functionals that there are parameters for, in lower case, or what
        returns them; users write ``"NAME:FUNCTIONAL"``, and ``build`` gets it as
        ``config["functional"]``. Empty for a term that is the same for all.
    included_in
        Words in the name of a model's functional that say its labels hold the term already
        (``"d3"`` in ``"RPBE+D3"``); such a model refuses it.
    energy_kinds
        Kinds of energy that it may be added to. A long-ranged term of a whole structure is none of
        an adsorption energy, which is a difference of three structures.
    cutoff, elements
        Angstrom; atomic numbers, or None for all.
    requires, install
        Packages without which it cannot be built, as they are imported, and what installs them.
    violations, test_config
        As those of :class:`~ase_nnp.ModelFamily`, for the conformance suite; ``test_config`` may
        name the ``functional``.
    cite, bibtex, license, notes
        Reference, license of the code, and what a user should know.
    """

    name: str
    summary: str
    build: Callable[[dict[str, Any]], Potential]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    functionals: Collection[str] | Callable[[], Collection[str]] = ()
    included_in: Collection[str] = ()
    energy_kinds: Collection[str] = ("total",)
    cutoff: float | None = None
    elements: Collection[int] | None = None
    requires: tuple[str, ...] = ()
    install: str = ""
    violations: Mapping[str, float] = field(default_factory=dict)
    test_config: Mapping[str, Any] = field(default_factory=dict)
    cite: str = ""
    bibtex: str = ""
    license: str = "MIT"
    notes: str = ""

    def __post_init__(self) -> None:
        """Refuse what would be noticed late, while its author is still there."""
        check_offer(self)

    def resolve(self, functional: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the complete configuration.

        Raises
        ------
        ConfigError
            An unknown parameter, or a functional that is missing, unknown or without meaning.
        """
        strange = sorted(set(options) - set(self.defaults))
        if strange:
            raise ConfigError(
                f"The correction '{self.name}' has no parameter {', '.join(strange)}. It has: "
                f"{', '.join(self.defaults) or 'none'}."
            )
        config = {**self.defaults, **options}
        known = self.known_functionals()
        if not known:
            if functional is not None:
                raise ConfigError(
                    f"The correction '{self.name}' is the same for every functional: write "
                    f"'{self.name}', not '{self.name}:{functional}'."
                )
            return config

        # B3-LYP, PBE0 and r2SCAN are written in many ways.
        name = str(functional).lower()
        spelled = [n for n in (name, name.replace("-", ""), name.replace("_", "")) if n in known]
        if functional is None or not spelled:
            close = difflib.get_close_matches(name, known, n=3)
            raise ConfigError(
                f"The correction '{self.name}' needs one of {len(known)} functionals, as in "
                f"'{self.name}:{(close or known)[0]}'; found {functional!r}. It knows: "
                f"{', '.join(close or known[:20])}."
            )
        return {**config, "functional": spelled[0]}

    def known_functionals(self) -> list[str]:
        """Return the functionals that there are parameters for, sorted."""
        return sorted(self.functionals() if callable(self.functionals) else self.functionals)


RegisterCorrection = Callable[[Correction], None]


def parse_correction(text: str) -> tuple[str, str | None]:
    """Split ``"d3bj:pbe"`` into name and functional; the functional is None where none is given."""
    name, colon, functional = str(text).partition(":")
    return name, functional if colon else None
