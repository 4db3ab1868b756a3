"""Corrections of a model (D3, ZBL, Ewald): added by name, and kept in its file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.models.potential import Potential, model_name
from ase_nnp.models.provenance import trained_here
from ase_nnp.models.sums import Sum, sum_potentials
from ase_nnp.registry.config import build_from
from ase_nnp.registry.correction import Correction, parse_correction
from ase_nnp.registry.installed import installed

__all__ = [
    "add_corrections",
    "build_term",
    "functional_of",
    "stored_corrections",
    "sum_of_terms",
    "with_stored_corrections",
]

#: What users give: names, or names with parameters over their defaults.
Corrections = Sequence[str] | Mapping[str, Mapping[str, Any]]


def add_corrections(
    model: Potential, corrections: Corrections, options: Mapping[str, Any] | None = None
) -> Potential:
    """Return a model with corrections of installed plugins added.

    Parameters
    ----------
    model
        Any potential.
    corrections
        Names such as ``"zbl"``, with the functional where one is needed: ``"d3bj:pbe"``; or a
        mapping from them to parameters over the defaults.
    options
        Parameters by the name of the correction, beside those of a mapping.

    Raises
    ------
    ConfigError
        An unknown or repeated correction, or one that does not go with the model.
    """
    if not corrections:
        return model
    if isinstance(corrections, str):
        raise ConfigError(f"corrections is a list of names, not the text {corrections!r}.")
    given = dict(corrections) if isinstance(corrections, Mapping) else {}

    terms: list[Potential] = []
    for text in corrections:
        name, _ = parse_correction(text)
        if text in model.corrections or text in list(corrections)[: len(terms)]:
            raise ConfigError(f"The correction '{text}' is already in the model: counted twice.")
        term = build_term(text, {**(options or {}).get(name, {}), **(given.get(text) or {})})
        _check_fits(installed().correction(name), text, model)
        terms.append(term.to(model.dtype).to(model.device))

    total = sum_potentials([model, *terms], names=[model.family or "model", *corrections])
    total.corrections = (*model.corrections, *corrections)
    return total.freeze() if not any(p.requires_grad for p in model.parameters()) else total


def build_term(text: str, options: Mapping[str, Any] | None = None) -> Potential:
    """Return a correction alone, as ``"d3bj:pbe"`` names it: a potential like any other."""
    name, functional = parse_correction(text)
    correction = installed().correction(name)
    config = correction.resolve(functional, options or {})
    term = build_from(correction, config)
    term.family, term.config = name, config
    return term.eval()


def functional_of(model: Potential) -> str:
    """Return the functional that a model was trained on, as its card says; empty if unknown."""
    inner = model.unwrapped
    stated = inner.provenance.get("functional")
    if stated:
        return str(stated)
    family = installed().families.get(inner.family)
    if family is None:
        return ""

    named = inner.provenance.get("pretrained")
    published = [p.functional for p in family.pretrained if p.name == named]
    own = published[0] if published and published[0] != "not stated" else family.functional
    # A family speaks for its published weights, not for those that a user trained.
    ours = not named and trained_here(inner.provenance)
    nothing = own == "not stated" or own.startswith("none")
    return "" if nothing or ours else own


def _check_fits(correction: Correction, text: str, model: Potential) -> None:
    """Refuse what would count an energy twice or add it to one of another kind."""
    said = functional_of(model)
    words = _words(said)
    twice = words & {word.lower() for word in correction.included_in}
    if twice:
        raise ConfigError(
            f"'{model_name(model)}' was trained on {said}, which holds the term already: '{text}' "
            "would count it twice."
        )

    if model.energy_kind not in correction.energy_kinds:
        raise ConfigError(
            f"'{model_name(model)}' gives {model.energy_kind} energies, and '{text}' is a term of "
            f"{' or '.join(correction.energy_kinds)} energies. Add it to each structure of the "
            "difference instead: build_term of ase_nnp.models.corrections makes it a potential."
        )

    functional = parse_correction(text)[1]
    # By words: "PBE" is a part of "RPBE" and another functional.
    if functional and said and functional.lower().replace("-", "") not in words:
        warnings.warn(
            f"'{text}' has parameters for {functional}, and '{model_name(model)}' was trained on "
            f"{said}.",
            stacklevel=4,
        )


def _words(functional: str) -> set[str]:
    """Names in what a card says of its functional, whole, in parts and without hyphens."""
    # "PBE-D3(BJ)" holds the word d3, and wB97M-V is a name of which no part says dispersion.
    whole = re.split(r"[\s+,;:()/]+", functional.lower().replace("ω", "w"))
    parts = [part for name in whole for part in name.split("-")]
    return {*whole, *parts, *(name.replace("-", "") for name in whole)} - {""}


def stored_corrections(model: Potential) -> list[dict[str, Any]]:
    """Return the corrections of a model as its file keeps them: name and parameters, in order.

    Raises
    ------
    CheckpointError
        The model is a sum of other potentials, which one file cannot hold.
    """
    layer: Any = model
    stored: list[dict[str, Any]] = []
    while layer is not layer.unwrapped:
        if len(getattr(layer, "potentials", ())) > 1:
            raise CheckpointError(
                f"{len(layer.potentials)} models are no one model; save the members alone."
            )
        if isinstance(layer, Sum):
            terms = layer.corrections[len(layer.base.corrections) :]
            if len(terms) != len(layer.members) - 1 or set(layer.weights) != {1.0}:
                raise CheckpointError(
                    f"A sum of {', '.join(layer.names)} is no one model; save its parts alone."
                )
            configs = [dict(term.config) for _, _, _, term in list(layer.terms())[1:]]
            added = zip(terms, configs, strict=True)
            stored = [{"name": n, "config": c} for n, c in added] + stored
        layer = layer.base

    return stored


def with_stored_corrections(model: Potential, stored: Sequence[Mapping[str, Any]]) -> Potential:
    """Add the corrections that :func:`stored_corrections` returned."""
    for entry in stored:
        name, _ = parse_correction(entry["name"])
        model = add_corrections(model, [entry["name"]], {name: _options(entry)})
    return model


def sum_of_terms(stored: Sequence[Mapping[str, Any]]) -> Potential:
    """Return the corrections alone, added up in float64, without the model."""
    terms = [build_term(entry["name"], _options(entry)).to(torch.float64) for entry in stored]
    return sum_potentials(terms, names=[entry["name"] for entry in stored])


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry["config"].items() if k != "functional"}
