"""Where weights are from: what was loaded, and whether anybody has trained it since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ase_nnp.models.tensors import tensor_hash
from ase_nnp.registry.ancestry import STARTED_FROM

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = [
    "drawn_hash",
    "is_fresh",
    "note_loaded",
    "present_provenance",
    "trained_here",
]

#: Of a provenance: the hash of the weights that it speaks of, if they were loaded.
LOADED = "weights_sha256"


def drawn_hash(model: Potential) -> str:
    """Return the hash of the parameters, which tells fresh ones from trained ones.

    Not of buffers: a model whose scale was fitted to labels is still fresh.
    """
    # Rounded, so that a change of dtype is no change of weights.
    return tensor_hash({name: p.detach().float() for name, p in model.named_parameters()})


def is_fresh(model: Potential) -> bool:
    """Whether the weights are still those that ``build_model`` drew, whatever their dtype."""
    inner = model.unwrapped
    origin = inner.provenance
    return origin.get("source") == "fresh weights" and origin.get("drawn") == drawn_hash(inner)


def note_loaded(model: Potential) -> None:
    """Note which weights the provenance of a model that was just loaded speaks of."""
    inner = model.unwrapped
    if found := _state_hash(inner):
        inner.provenance = {**dict(inner.provenance), LOADED: found}


def present_provenance(model: Potential) -> dict[str, Any]:
    """Return where the weights are from that a model has now.

    What stands on the model is of the weights as they were drawn or loaded. Once they have changed,
    by whatever loop, it tells what they started from and no longer what they are.
    """
    inner = model.unwrapped
    origin = dict(inner.provenance)
    if origin.get("source") == "fresh weights" and not is_fresh(inner):
        return origin | {"source": "trained"}
    if LOADED in origin and origin[LOADED] != _state_hash(inner):
        return {"source": "trained", STARTED_FROM: {"provenance": origin}}
    return origin


def trained_here(provenance: Mapping[str, Any]) -> bool:
    """Whether weights were trained with this package, and not read from somebody's checkpoint."""
    # The file that they were loaded from is their source, so that alone does not tell.
    return any(key in provenance for key in (STARTED_FROM, "drawn", "data_sha256"))


def _state_hash(model: Potential) -> str:
    """Return the hash of all weights and constants, "" for a model that has none."""
    state = {name: value.float() for name, value in model.state_dict().items()}
    return tensor_hash(state) if state else ""
