"""Lightning checkpoints of torchmd-net, read without running code in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.units
import torch
from torch import Tensor

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.files.unpickle import CHECKPOINT_STAND_INS, load_torch
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily

from .model import TensorNet

__all__ = ["load", "newer_layout"]

#: Parts of a checkpoint that say nothing about this model: boxes that were fixed when training.
IGNORED = ("representation_model.distance.", "output_model.distance.")
#: Names of release 1 and 2 for the same tensors.
RENAMED = (
    (r"^model\.", ""),
    (r"output_model\.output_network\.([02])\.", r"output_model.output_network.layers.\1."),
)
ATOMREF = re.compile(r"prior_model\.(?:\d+\.)?(atomref\.weight|initial_atomref)$")


def load(path: str | Path, family: ModelFamily, unit: str = "eV", **options: Any) -> TensorNet:
    """Return the TensorNet in a ``.ckpt``.

    Parameters
    ----------
    path
        The file, of torchmd-net 2 or 3.
    family
        Whose defaults complete the configuration.
    unit
        Of the energies that it was trained on, as in ``ase.units``: ``"eV"``, ``"kcal/mol"``,
        ``"kJ/mol"``, ``"Hartree"``.
    options
        Further configuration keys.

    Raises
    ------
    CheckpointError
        Another architecture, read-out or prior than those that are known here, or weights that do
        not fit; UnsafeFileError if it asks for code.
    ConfigError
        An unknown unit.
    """
    factor = _unit(unit)
    content = load_torch(path, stand_ins=CHECKPOINT_STAND_INS)
    known = isinstance(content, Mapping) and {"hyper_parameters", "state_dict"} <= set(content)
    settings = content["hyper_parameters"] if known else None
    if not isinstance(settings, Mapping) or not isinstance(content["state_dict"], Mapping):
        raise CheckpointError(
            f"{path} is no checkpoint of torchmd-net: 'hyper_parameters' and 'state_dict' were "
            "expected."
        )
    _check_kind(settings, path)

    # The mark by which the package itself tells files that were trained before its release 3.
    old = "check_errors" in settings
    given = {name: settings[name] for name in family.defaults if name in settings}
    given["tensors"] = "full" if old else "compact"
    model = TensorNet(**resolve_config(family, given, **options))
    model.config = {**family.defaults, **given, **options}
    tensors = _renamed(as_tensors(content["state_dict"], path))
    if old:
        tensors = newer_layout(tensors)
    _fill(model, tensors, _has_atomref(settings, path), factor)
    return model


def _unit(name: str) -> float:
    value, _, per = name.partition("/")
    known = ("eV", "kcal", "kJ", "Hartree", "Ha", "Rydberg", "Ry")
    if value not in known or per not in ("", "mol"):
        raise ConfigError(f"unit must be a name as eV, kcal/mol, kJ/mol or Hartree, not {name!r}.")
    return float(getattr(ase.units, value)) / (ase.units.mol if per else 1.0)


def _check_kind(settings: Mapping[str, Any], path: str | Path) -> None:
    wanted = {
        "model": ("tensornet",),
        "output_model": ("Scalar",),
        "reduce_op": ("add", "sum"),
        "box_vecs": (None,),
    }
    for key, values in wanted.items():
        value = settings.get(key, values[0])
        if value not in values:
            raise CheckpointError(
                f"{path} has {key} {value!r}; this plugin reads {values[0]!r} alone."
            )
    if settings.get("atom_filter", -1) > -1:
        raise CheckpointError(f"{path} leaves out light atoms (atom_filter), which is not read.")


def _has_atomref(settings: Mapping[str, Any], path: str | Path) -> bool:
    """Whether energies of free atoms are added; other priors are refused."""
    given = settings.get("prior_model") or []
    entries = given if isinstance(given, (list, tuple)) else [given]
    names = [n for e in entries for n in (e if isinstance(e, Mapping) else [e])]
    other = [n for n in names if n not in ("Atomref", "LearnableAtomref")]
    if other:
        raise CheckpointError(
            f"{path} adds the prior {', '.join(map(str, other))}, which is not read here: its "
            "switching differs from that of the corrections."
        )

    values = settings.get("prior_args") or [e for e in entries if isinstance(e, Mapping)]
    flat = values if isinstance(values, (list, tuple)) else [values]
    inner = [
        v.get(n, v) if isinstance(v, Mapping) else {} for n, v in zip(names, flat, strict=False)
    ]
    return bool(names) and all((v or {}).get("enable", True) for v in inner)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        for pattern, other in RENAMED:
            name = re.sub(pattern, other, name)
        if not name.startswith(IGNORED):
            renamed[name] = value
    return renamed


def newer_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the order of releases 1 and 2 to that of release 3.

    The layers that give three factors a channel wrote the three numbers of a channel side by side;
    now all channels' first numbers come first.
    """
    pattern = re.compile(
        r"representation_model\.(tensor_embedding\.linears_scalar\.1|layers\.\d+\.linears_scalar\.2)"
        r"\.(weight|bias)"
    )
    changed = dict(tensors)
    for name, value in tensors.items():
        if pattern.fullmatch(name):
            changed[name] = value.reshape(-1, 3, *value.shape[1:]).transpose(0, 1).flatten(0, 1)
    return changed


def _fill(model: TensorNet, tensors: dict[str, Tensor], atomref: bool, factor: float) -> None:
    priors = {name for name in tensors if name.startswith("prior_model.")}
    rows = [ATOMREF.fullmatch(name) for name in sorted(priors)]
    if atomref and not any(row and row[1] == "atomref.weight" for row in rows):
        raise CheckpointError("The checkpoint names an Atomref prior and holds none.")
    rest = {k: v for k, v in tensors.items() if k not in priors}
    mean, std = rest.pop("mean", torch.zeros(())), rest.pop("std", torch.ones(()))

    # Weights in float64 stay so until the caller says otherwise.
    double = any(v.dtype == torch.float64 for v in rest.values())
    model.to(torch.float64 if double else torch.float32)
    own = ("references", "scale", "mean")
    model.load_weights({**rest, **{k: getattr(model, k) for k in own}})
    with torch.no_grad():
        model.scale.fill_(float(std) * factor)
        model.mean.fill_(float(mean) * factor)
        if atomref:
            name = next(n for n in sorted(priors) if n.endswith("atomref.weight"))
            column = tensors[name].flatten()[1:].double() * factor
            count = min(len(column), len(model.references))
            model.references[:count] = column[:count].to(model.references)
    model.eval()
