"""What a plugin hands over for a term that is added to any potential: repulsion, dispersion."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import ConfigError

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
        Exchange-correlation functionals that there are parameters for, in lower case; users write
        ``"NAME:FUNCTIONAL"``, and ``build`` finds it as ``config["functional"]``. Empty for a term
        that is the same for all.
    cutoff, elements
        Angstrom; atomic numbers, or None for all.
    cite, bibtex, license, notes
        Reference, license of the code, and what a user should know.
    """

    name: str
    summary: str
    build: Callable[[dict[str, Any]], Potential]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    functionals: Collection[str] = ()
    cutoff: float | None = None
    elements: Collection[int] | None = None
    cite: str = ""
    bibtex: str = ""
    license: str = "MIT"
    notes: str = ""

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
        if not self.functionals:
            if functional is not None:
                raise ConfigError(
                    f"The correction '{self.name}' is the same for every functional: write "
                    f"'{self.name}', not '{self.name}:{functional}'."
                )
            return config

        known = sorted(self.functionals)
        if functional is None or functional.lower() not in known:
            close = difflib.get_close_matches(str(functional).lower(), known, n=3)
            raise ConfigError(
                f"The correction '{self.name}' needs one of {len(known)} functionals, as in "
                f"'{self.name}:{(close or known)[0]}'; found {functional!r}. It knows: "
                f"{', '.join(close or known[:20])}."
            )
        return {**config, "functional": functional.lower()}


RegisterCorrection = Callable[[Correction], None]


def parse_correction(text: str) -> tuple[str, str | None]:
    """Split ``"d3bj:pbe"`` into name and functional; the functional is None where none is given."""
    name, colon, functional = str(text).partition(":")
    return name, functional if colon else None
