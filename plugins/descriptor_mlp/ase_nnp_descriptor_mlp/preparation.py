"""A fresh model for a set of structures: descriptors selected, units set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

import ase_nnp
from ase_nnp.errors import ConfigError, DatasetError

from .selection import select_features

__all__ = ["prepared"]

#: Structures that are looked at for the selection: its time grows faster than their number.
LOOKED_AT = 1000


def prepared(
    frames: Sequence[Atoms],
    properties: Mapping[str, str],
    *,
    count: int = 32,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """Return a fresh model whose descriptors are selected for these labels.

    Parameters
    ----------
    frames
        Structures of the training set, labels in ``atoms.info`` under the names of the properties;
        a structure may lack some.
    properties
        Name and unit of each.
    count
        How many descriptors to keep.
    config
        Further keys of the family's configuration.
    seed
        Of the weights. Members of an ensemble differ by it.

    Returns
    -------
    DescriptorMLP
        Its ``config["selected"]`` names the descriptors, best first.

    Raises
    ------
    ConfigError
        ``config`` selects descriptors, too.
    DatasetError
        A property that no structure has.
    """
    config = {**(config or {}), "properties": dict(properties)}
    if config.get("selected") is not None:
        raise ConfigError("prepared() selects the descriptors itself: leave out 'selected'.")
    columns = {n: [float(a.info.get(n, np.nan)) for a in frames] for n in properties}
    if lacking := [name for name, column in columns.items() if np.isnan(column).all()]:
        raise DatasetError(f"none of the {len(frames)} structures has a label for {lacking}")
    labels = np.array(list(columns.values())).T

    whole: Any = ase_nnp.build_model("descriptor_mlp", config, device="cpu")
    with torch.no_grad():
        rows = torch.cat([whole.described(whole.make_graph(atoms)) for atoms in frames]).double()
    rows = torch.where(rows.isnan(), rows.nanmean(dim=0), rows)
    rows = torch.nan_to_num(rows, nan=0.0)  # known of no structure: constant, never selected
    some = np.random.default_rng(0).permutation(len(rows))[:LOOKED_AT]
    chosen = select_features(rows.numpy()[some], labels[some], count)
    if not chosen:
        raise DatasetError("all structures have the same descriptors; there is nothing to select")

    config["selected"] = [whole.names[f] for f in chosen]
    model: Any = ase_nnp.build_model("descriptor_mlp", config, seed=seed, device="cpu")
    spread = np.nanstd(labels, axis=0)
    with torch.no_grad():
        model.center.copy_(rows[:, chosen].mean(0))
        model.width.copy_(rows[:, chosen].std(0))
        model.mean.copy_(torch.from_numpy(np.nanmean(labels, axis=0)))
        model.spread.copy_(torch.from_numpy(np.where(spread > 0, spread, 1.0)))
    return model
