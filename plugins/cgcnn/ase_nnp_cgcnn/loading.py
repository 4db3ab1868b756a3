"""Read the checkpoints that users of the two models hold, without running code in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import CheckpointError
from ase_nnp.files.fairchem import TrainerCheckpoint, read_fairchem
from ase_nnp.files.unpickle import load_torch
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config

from . import CRYSTAL, OC20, crystal, oc20
from .properties import Property, find_property
from .scaling import oc20_scales, read_scale

__all__ = ["load_crystal", "load_oc20"]

METAL = "semi-metal-classification"
#: Ends of the names of tensors that are no parameters.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "offset")


def load_crystal(path: str | Path, **options: Any) -> crystal.CrystalModel:
    """Read a ``*.pth.tar`` of the 2018 model, published or written by its training script.

    The sizes follow from the tensors. The file does not say what it predicts: that follows from
    ``property=``, or from its name where that is a published one, or from the data it was trained
    on; failing these, the output is called ``property``.

    Parameters
    ----------
    path
        The file.
    options
        Configuration keys: ``property``, ``radius``, ...

    Raises
    ------
    CheckpointError
        For a file of another kind.
    """
    content = _content(path)
    state = _unwrapped(content.get("state_dict"), path)
    if not {"embedding.weight", "conv_to_fc.weight", "fc_out.weight"} <= set(state):
        raise CheckpointError(
            f"{path} is no checkpoint of the 2018 CGCNN: its state_dict has no layers "
            "'embedding', 'conv_to_fc' and 'fc_out'."
        )

    # Sizes are read off the weights: the files' arguments are missing or wrong in some.
    classes, hidden = _matrix(state, "fc_out.weight", path)
    if classes > 2:
        raise CheckpointError(
            f"{path} sorts into {classes} classes; one number or two classes were expected."
        )
    atoms, features = _matrix(state, "embedding.weight", path)
    convs = [k for k in state if k.endswith(".fc_full.weight")]
    task = "regression" if classes == 1 else "classification"
    known = _guess_property(Path(path), content.get("args"), task)
    scale = content.get("normalizer")
    config = {
        "property": None if known is None else known.name,
        "task": task,
        "orig_atom_fea_len": features,
        "atom_fea_len": atoms,
        "nbr_fea_len": _matrix(state, convs[0], path)[1] - 2 * atoms if convs else None,
        "n_conv": len(convs),
        "h_fea_len": hidden,
        "n_h": 1 + sum(k.startswith("fcs.") and k.endswith(".weight") for k in state),
        "normalizer": read_scale(scale) if scale and classes == 1 else None,
    }
    full = resolve_config(CRYSTAL, config, **options)
    model = crystal.from_config(full)
    model.config = full
    model.load_weights(as_tensors(state, path))
    model.provenance = {
        key: float(np.asarray(content[key]).item())
        for key in ("epoch", "best_mae_error")
        if np.size(content.get(key, ())) == 1
    }
    return model


def _guess_property(path: Path, args: Any, task: str) -> Property | None:
    """The property by the file's published name, else by the data options it was trained with."""
    names = [path.name.split(".")[0]]
    if isinstance(args, Mapping) and isinstance(args.get("data_options"), (list, tuple)):
        names += [str(option) for option in args["data_options"]]
    for name in names:
        known = find_property(name)

        # A user's own classifier in a file named band-gap gives no band gap.
        if known is not None and (known.name == METAL) == (task == "classification"):
            return known
    return None


def load_oc20(path: str | Path, *, ema: bool = True, **options: Any) -> oc20.AdsorptionModel:
    """Read a ``*.pt`` of the OC20 trainers (2020 and later) that holds a ``cgcnn``.

    Parameters
    ----------
    path
        The file.
    ema
        Take the running average of the weights where the file has one, as the trainer's own
        evaluation does; False takes the last weights.
    options
        Configuration keys: ``pbc``, ...

    Raises
    ------
    CheckpointError
        For a file of another kind or of another model.
    """
    content = read_fairchem(path)
    if not isinstance(content, TrainerCheckpoint) or content.model != "cgcnn":
        raise CheckpointError(f"{path} holds a model called {content.model!r}, not a 'cgcnn'.")
    if content.element_references is not None:
        raise CheckpointError(f"{path} has element references, which cgcnn_oc20 does not read.")

    state = content.weights
    if ema and content.averages is not None:
        state = state | content.averaged(lambda name: not name.endswith(BUFFERS))
    given = content.attributes
    if isinstance(content.config["model"], Mapping):
        # The newer trainers repeat along all three vectors unless told otherwise.
        given = {"pbc": [True, True, True], **given}
    config: dict[str, Any] = {
        "regress_forces": content.config.get("trainer") != "energy",
        **{k: v for k, v in given.items() if k in OC20.defaults},
        **_oc20_sizes(state, path),
        "normalizer": oc20_scales(content.normalizers) or None,
    }
    full = resolve_config(OC20, config, **options)
    model = oc20.from_config(full)
    model.config = full
    model.load_weights(as_tensors(state, path))
    return model


def _oc20_sizes(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    return {
        "atom_embedding_size": _matrix(state, "embedding_fc.weight", path)[0],
        "fc_feat_size": _matrix(state, "conv_to_fc.0.weight", path)[0],
        "num_gaussians": np.size(state.get("distance_expansion.offset", ())),
        "num_graph_conv_layers": sum(k.endswith(".lin1.weight") for k in state),
        "num_fc_layers": 1 + sum(k.startswith("fcs.") and k.endswith(".weight") for k in state),
    }


def _content(path: str | Path) -> Mapping[str, Any]:
    content = load_torch(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary.")
    return content


def _unwrapped(state: Any, path: str | Path) -> dict[str, np.ndarray]:
    """The state dict without the ``module.`` that each wrapper put before its names."""
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} has no state_dict.")
    first = str(next(iter(state)))

    # DataParallel and the averaged model each put one there, so there may be two.
    prefix = "module." * first.split(".").count("module")
    strange = [k for k, v in state.items() if not isinstance(v, np.ndarray)]
    if strange:
        raise CheckpointError(f"{path}: '{strange[0]}' in the state_dict is no tensor.")
    return {str(k).removeprefix(prefix): v for k, v in state.items()}


def _matrix(state: Mapping[str, Any], name: str, path: str | Path) -> tuple[int, int]:
    """Shape of a weight, after which the sizes of the model are guessed."""
    shape: tuple[int, ...] = np.shape(state[name]) if name in state else ()
    if len(shape) != 2:
        problem = f"has shape {shape}" if name in state else "is missing"
        raise CheckpointError(f"{path}: the matrix '{name}' {problem}.")
    return shape
