"""Samples of weights in one file, and as an ensemble."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ase_nnp.errors import CheckpointError
from ase_nnp.models.potential import Potential
from ase_nnp.models.tensors import read_sealed, write_sealed

__all__ = ["load_samples", "members_from_samples", "save_samples"]

KEY = "ase_nnp_samples"


def save_samples(
    path: str | Path, samples: Mapping[str, Tensor], model: Potential, **notes: Any
) -> None:
    """Write samples (C, S, ...) as safetensors, with the hash of the model they started from."""
    from ase_nnp.models.files import model_hash

    write_sealed(path, KEY, {"model": model_hash(model), "notes": notes}, samples)


def load_samples(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return samples and header.

    Raises
    ------
    CheckpointError
        Another kind of file, or samples that do not match their hash.
    """
    content = read_sealed(path, KEY)
    if content is None:
        raise CheckpointError(f"{path} holds no samples of weights.")
    header, samples = content
    return samples, header


def members_from_samples(
    model: Potential | Sequence[Potential], samples: Mapping[str, Tensor]
) -> list[Potential]:
    """Copies of the model with the sampled weights, chain by chain: an ensemble like any other.

    Parameters
    ----------
    model
        What the chains started from; with one start per chain their parameters must be the same
        in name and shape, and what is not sampled (buffers) is taken from each chain's own.
    samples
        (C, S, ...) of each parameter; ``noise.*`` is left aside.
    """
    weights = {k: v for k, v in samples.items() if not k.startswith("noise.")}
    count, length = next(iter(weights.values())).shape[:2]
    starts = [model] * count if isinstance(model, Potential) else list(model)
    if len(starts) != count:
        raise CheckpointError(f"Samples of {count} chains for {len(starts)} starting models.")

    members = []
    for chain, start in enumerate(starts):
        own = dict(start.named_parameters())
        wrong = [k for k, v in weights.items() if k not in own or own[k].shape != v.shape[2:]]
        if wrong:
            raise CheckpointError(
                f"The samples do not fit this {start.family or type(start).__name__}: "
                f"{', '.join(wrong[:5])}."
            )

        for sample in range(length):
            member = copy.deepcopy(start)
            for name, parameter in member.named_parameters():
                if name in weights:
                    parameter.data.copy_(weights[name][chain, sample])
            members.append(member.freeze())
    return members
