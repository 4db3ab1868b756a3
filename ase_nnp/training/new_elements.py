"""Add elements to a trained model: new rows in its tables, the old ones kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.registry.installed import installed

__all__ = ["add_elements", "train_new_elements_only"]


def add_elements(model: Potential, symbols: Sequence[str]) -> Potential:
    """Return a model that takes further elements and is unchanged for those it knows.

    Parameters
    ----------
    model
        A trained model. One whose tables have room for the elements is changed in place.
    symbols
        Chemical symbols; those that the model knows already change nothing.

    Raises
    ------
    ConfigError
        No such element, or a family that cannot grow.
    """
    from ase.data import atomic_numbers

    unknown = [s for s in symbols if s not in atomic_numbers]
    if unknown:
        raise ConfigError(f"finetune.add_elements: {', '.join(unknown)} are no elements.")
    if model.elements is None:
        return model
    new = {atomic_numbers[s] for s in symbols} - model.elements
    if not new:
        return model

    # A file keeps what a model was trained for; its family may have rows for more.
    room = installed().family(model.family).build(dict(model.config)).elements
    if room is None or new <= room:
        model.elements = model.elements | new
        model.__dict__["grown"] = {}
        return model
    grown = model.with_elements(sorted(new))
    grown.family, grown.provenance = model.family, dict(model.provenance)
    before = {name: p.shape[0] for name, p in model.named_parameters() if p.ndim}
    grown.__dict__["grown"] = {
        name: before[name]
        for name, p in grown.named_parameters()
        if p.ndim and p.shape[0] != before[name]
    }
    return grown


def train_new_elements_only(model: Potential) -> list[str]:
    """Train nothing but the rows that :func:`add_elements` made; returns the names of the tables.

    Structures without the new elements keep their energies and forces to the last digit.

    Raises
    ------
    ConfigError
        The model did not grow by rows.
    """
    rows: dict[str, int] = model.__dict__.get("grown", {})
    if not rows:
        raise ConfigError(
            "finetune.new_elements_only: no table of this model grew. Name new elements in "
            "finetune.add_elements; a family that has rows for all elements from the start is "
            "trained with finetune.freeze or finetune.replay."
        )
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in rows)
        if name in rows:
            parameter.register_hook(partial(_without_first_rows, first=rows[name]))  # type: ignore[no-untyped-call]
    return sorted(rows)


def _without_first_rows(gradient: Tensor, first: int) -> Tensor:
    # In the gradient and not in the weights: moments of the optimizer then stay zero too.
    kept = torch.zeros_like(gradient)
    kept[first:] = gradient[first:]
    return kept
