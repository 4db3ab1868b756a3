"""Lightning checkpoints of torchmd-net, read without running code in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.units
import torch
from torch import Tensor

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.files.unpickle import CHECKPOINT_STAND_INS, load_torch
from ase_nnp.models.corrections import add_corrections
from ase_nnp.models.potential import Potential
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily

from .model import TensorNet
from .priors import read_priors

__all__ = ["load", "newer_layout"]

#: Parts of a checkpoint that say nothing about this model: boxes that were fixed when training.
IGNORED = ("representation_model.distance.", "output_model.distance.")
#: Names of release 1 and 2 for the same tensors.
RENAMED = (
    (r"^model\.", ""),
    (r"output_model\.output_network\.([02])\.", r"output_model.output_network.layers.\1."),
)
#: A table of energies of free atoms; releases before 2 had one prior without a number.
ATOMREF = re.compile(r"prior_model\.(?:(\d+)\.)?atomref\.weight$")
#: Names of TensorNet2 before it was published.
EARLY_NAMES = ("tensornetv2_alt", "tensornet-nqe")
#: Keys of TensorNet2 alone, which the package writes for every architecture.
OF_TENSORNET2 = ("q_dim", "q_weights", "coulomb_cutoff", "output_mlp_num_layers", "repulsion")


def load(
    path: str | Path, family: ModelFamily, unit: str | None = None, **options: Any
) -> Potential:
    """Return the TensorNet in a ``.ckpt``, its priors added as corrections.

    Parameters
    ----------
    path
        The file, of torchmd-net 2 or 3.
    family
        Whose defaults complete the configuration.
    unit
        Of the energies that it was trained on, as in ``ase.units``: ``"eV"``, ``"kcal/mol"``,
        ``"kJ/mol"``, ``"Hartree"``. By default what a prior in the file says, else eV.
    options
        Further configuration keys.

    Raises
    ------
    CheckpointError
        Another architecture, read-out or prior than those that are known here, or weights that do
        not fit; UnsafeFileError if it asks for code.
    ConfigError
        An unknown unit, or another than a prior in the file says.
    """
    asked = None if unit is None else _unit(unit)
    content = load_torch(path, stand_ins=CHECKPOINT_STAND_INS)
    known = isinstance(content, Mapping) and {"hyper_parameters", "state_dict"} <= set(content)
    settings = content["hyper_parameters"] if known else None
    if not isinstance(settings, Mapping) or not isinstance(content["state_dict"], Mapping):
        raise CheckpointError(
            f"{path} is no checkpoint of torchmd-net: 'hyper_parameters' and 'state_dict' were "
            "expected."
        )
    kind = _check_kind(settings, path)
    priors = read_priors(settings, asked, path)
    factor = _factor(asked, priors.joule, path)

    # The mark by which the package itself tells files that were trained before its release 3.
    old = "check_errors" in settings
    given = {name: settings[name] for name in family.defaults if name in settings}
    if kind == "tensornet":
        given = {k: v for k, v in given.items() if k not in (*OF_TENSORNET2, "output_model")}
    given |= {"model": kind, "tensors": "full" if old else "compact"}
    tensors = _renamed(as_tensors(content["state_dict"], path))
    if old:
        tensors = newer_layout(tensors, kind)

    config = resolve_config(family, given, **options)
    _check_sizes(config, tensors, path)
    model: Any = family.build(config)
    model.config = {**family.defaults, **given, **options}
    model.family, model.provenance = family.name, {"source": Path(path).name}
    _fill(model, tensors, priors.atomref, factor)
    return add_corrections(model, priors.corrections)


def _factor(asked: float | None, joule: float | None, path: str | Path) -> float:
    """Return eV per unit of the file's energies."""
    stated = None if joule is None else joule * ase.units.J
    if asked is not None and stated is not None and abs(asked / stated - 1) > 1e-4:
        raise ConfigError(
            f"{path} has a prior whose energies are in units of {stated:.6g} eV; the unit given is "
            f"{asked:.6g} eV."
        )
    return asked or stated or 1.0


def _unit(name: str) -> float:
    value, _, per = name.partition("/")
    known = ("eV", "kcal", "kJ", "Hartree", "Ha", "Rydberg", "Ry")
    if value not in known or per not in ("", "mol"):
        raise ConfigError(f"unit must be a name as eV, kcal/mol, kJ/mol or Hartree, not {name!r}.")
    return float(getattr(ase.units, value)) / (ase.units.mol if per else 1.0)


def _check_kind(settings: Mapping[str, Any], path: str | Path) -> str:
    """Return the architecture by its name of now."""
    kind = settings.get("model", "tensornet")
    kind = "tensornet2" if kind in EARLY_NAMES else kind
    outputs = ["Scalar", *(["ScalarPlusWeightedCoulomb"] if kind == "tensornet2" else [])]

    found = {**settings, "model": kind}
    wanted: dict[str, list[Any]] = {
        "model": ["tensornet", "tensornet2"],
        "output_model": outputs,
        "reduce_op": ["add", "sum"],
        "box_vecs": [None],
    }

    for key, values in wanted.items():
        value = found.get(key, values[0])
        if value not in values:
            raise CheckpointError(
                f"{path} has {key} {value!r}; this plugin reads {' and '.join(map(str, values))}."
            )

    if settings.get("atom_filter", -1) > -1:
        raise CheckpointError(f"{path} leaves out light atoms (atom_filter), which is not read.")
    return str(kind)


def _check_sizes(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: object) -> None:
    """Refuse sizes that the weights do not have, before anything of these sizes is made."""
    part = "representation_model"
    rows = [
        k for k in tensors if re.fullmatch(rf"{part}\.layers\.\d+\.linears_tensor\.0\.weight", k)
    ]
    network = [k for k in tensors if re.fullmatch(r"output_model\.\S+\.layers\.\d+\.weight", k)]

    wanted = {
        "max_z": ("tensor_embedding.emb.weight", 0, 1),
        "embedding_dimension": ("tensor_embedding.emb.weight", 1, 1),
        "num_rbf": ("tensor_embedding.distance_proj1.weight", 1, 1),
    }
    if config["model"] == "tensornet2":
        wanted["q_dim"] = ("charge_predict_0.q_mlp.layers.4.bias", 0, 2)
    found: dict[str, Any] = {"num_layers": len(rows)}
    if config["output_model"] != "Scalar":
        found["output_mlp_num_layers"] = len(network) - 2
    for key, (name, axis, each) in wanted.items():
        shape = tensors[f"{part}.{name}"].shape if f"{part}.{name}" in tensors else ()
        found[key] = shape[axis] // each if axis < len(shape) else None

    wrong = [f"{k} {config[k]!r}, weights of {v}" for k, v in found.items() if config[k] != v]
    if wrong:
        raise CheckpointError(f"{path}: its weights have another shape: {'; '.join(wrong)}.")


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        for pattern, other in RENAMED:
            name = re.sub(pattern, other, name)
        if not name.startswith(IGNORED):
            renamed[name] = value
    return renamed


def newer_layout(tensors: Mapping[str, Tensor], kind: str = "tensornet") -> dict[str, Tensor]:
    """From the order of releases 1 and 2 to that of release 3.

    The layers that give three factors a channel wrote the three numbers of a channel side by side;
    now all channels' first numbers come first. The messages of TensorNet2 always had it so.
    """
    layers = ["tensor_embedding.linears_scalar.1"]
    layers += [r"layers\.\d+\.linears_scalar\.2"] if kind == "tensornet" else []
    pattern = re.compile(rf"representation_model\.({'|'.join(layers)})\.(weight|bias)")
    changed = dict(tensors)
    for name, value in tensors.items():
        if pattern.fullmatch(name):
            changed[name] = value.reshape(-1, 3, *value.shape[1:]).transpose(0, 1).flatten(0, 1)
    return changed


def _fill(
    model: TensorNet, tensors: dict[str, Tensor], atomref: Sequence[int], factor: float
) -> None:
    tables = {int(row[1] or 0): tensors[k] for k in tensors if (row := ATOMREF.fullmatch(k))}
    missing = [number for number in atomref if number not in tables]
    if missing:
        raise CheckpointError("The checkpoint names an Atomref prior and holds none.")
    rest = {k: v for k, v in tensors.items() if not k.startswith("prior_model.")}
    mean, std = rest.pop("mean", torch.zeros(())), rest.pop("std", torch.ones(()))

    # Weights in float64 stay so until the caller says otherwise.
    double = any(v.dtype == torch.float64 for v in rest.values())
    model.to(torch.float64 if double else torch.float32)
    own = ("references", "scale", "mean")
    model.load_weights({**rest, **{k: getattr(model, k) for k in own}})
    with torch.no_grad():
        model.scale.fill_(float(std) * factor)
        model.mean.fill_(float(mean) * factor)
        for number in atomref:
            column = tables[number].flatten()[1:].double() * factor
            count = min(len(column), len(model.references))
            model.references[:count] += column[:count].to(model.references)
    model.eval()
