"""What to cite for a model, as BibTeX."""

from __future__ import annotations

import re
from typing import Any

from ase_nnp.errors import UnknownModelError
from ase_nnp.registry.ancestry import fine_tuned_from
from ase_nnp.registry.family import ModelFamily
from ase_nnp.registry.installed import installed

__all__ = ["bibtex", "cite"]


def cite(model: Any) -> str:
    """Return the BibTeX entries of a model: its method, and its weights where they have their own.

    Parameters
    ----------
    model
        The name of a family or of one of its pretrained models; a potential, a calculator, or an
        ensemble or pool of potentials, for which the entries of all members are returned.

    Raises
    ------
    UnknownModelError
        No family is known behind it.
    """
    entries: dict[str, None] = {}
    for family, weights in _sources(model):
        entries.update(dict.fromkeys(_entries(bibtex(family))))
        for offered in family.pretrained:
            if offered.bibtex and (weights is None or offered.name == weights):
                entries.update(dict.fromkeys(_entries(offered.bibtex)))
    return "\n\n".join(entries)


def bibtex(family: ModelFamily) -> str:
    """Return a family's entries; one made of its address where it states none."""
    if family.bibtex.strip():
        return family.bibtex.strip()
    where = f",\n  url = {{{family.cite}}}" if family.cite else ""
    return f"@misc{{{family.name},\n  title = {{{family.summary}}}{where}\n}}"


def _entries(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n(?=@)", text.strip()) if part.strip()]


def _sources(model: Any) -> list[tuple[ModelFamily, str | None]]:
    """Families behind a model, with the name of the pretrained weights where it is known."""
    registry = installed()
    if isinstance(model, str):
        for family in registry.families.values():
            if any(p.name == model for p in family.pretrained) and model not in registry.families:
                return [(family, model)]
        if model not in registry.families:
            registry.family(model)  # raises, saying what was meant
        return [(registry.families[model], None)]
    inner = getattr(model, "model", None)
    if inner is not None and not getattr(model, "family", ""):
        return _sources(inner)
    name = getattr(model, "family", "")
    if name in registry.families:
        return [(registry.families[name], _weights_behind(model))]
    sources: dict[tuple[str, str], tuple[ModelFamily, str | None]] = {}

    # Of an ensemble or a sum, whose own class is no family.
    for part in getattr(model, "modules", list)():
        inner_name = getattr(part, "family", "")
        if part is not model and inner_name in registry.families:
            weights = _weights_behind(part)
            sources[inner_name, weights] = (registry.families[inner_name], weights)
    if not sources:
        raise UnknownModelError(
            f"No installed family is known behind this {type(model).__name__}; say its name."
        )
    return list(sources.values())


def _weights_behind(model: Any) -> str:
    """Return the pretrained weights that a model has or began with.

    Weights of the user's own are nobody's paper: "" then leaves out all pretrained ones.
    """
    provenance = getattr(model, "provenance", {})
    return str(provenance.get("pretrained", "")) or fine_tuned_from(provenance)
