"""Build, load and save models of any installed family."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ase_nnp import __version__
from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.models.checkpoints import (
    FORMAT_VERSION,
    MODEL_KEY,
    label_model,
    load_checkpoint,
    load_file,
    packaged_file,
)
from ase_nnp.models.corrections import Corrections, add_corrections, stored_corrections
from ase_nnp.models.default import default_pretrained
from ase_nnp.models.devices import pick_device, pick_dtype
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential
from ase_nnp.models.provenance import drawn_hash, note_loaded, present_provenance
from ase_nnp.models.tensors import read_tensors, tensor_hash, write_sealed
from ase_nnp.registry.config import build_from, resolve_config
from ase_nnp.registry.family import ModelFamily, Pretrained
from ase_nnp.registry.installed import installed

__all__ = ["build_model", "hashed_config", "load_model", "model_hash", "save_model"]

#: Keys of families' configurations that files hashed earlier do not have; None stands for absent.
LATER_KEYS = frozenset({"long_range", "radial_splines"})


@usual_default_dtype()
def build_model(
    family: str,
    config: Mapping[str, Any] | str | Path | None = None,
    *,
    seed: int | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> Potential:
    """Return a model with fresh weights, in evaluation mode.

    Parameters
    ----------
    family
        Name of an installed family.
    config
        Hyper-parameters under their published names; the rest are the family's defaults.
    seed
        Makes the initial weights reproducible without touching torch's global generator.
    device, dtype
        ``"auto"``/``"cpu"``/``"cuda"``; ``"float32"`` (default) or ``"float64"``.
    options
        Further configuration keys, e.g. ``frames=8``.

    Raises
    ------
    UnknownModelError, PluginError, ConfigError
    """
    made_by = installed().family(family)
    full = resolve_config(made_by, config, **options)

    # The caller's own random numbers go on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        model = build_from(made_by, full)

    # The hash tells later whether anybody has trained these weights.
    drawn = {"source": "fresh weights", "seed": seed, "drawn": drawn_hash(model)}
    label_model(model, made_by, full, drawn)
    return model.to(pick_dtype(dtype)).to(pick_device(device)).eval()


@usual_default_dtype()
def load_model(
    model: Any = None,
    *,
    checkpoint: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    uncertainty: bool = True,
    corrections: Corrections = (),
    **options: Any,
) -> Potential:
    """Return a model with trained weights, ready for inference.

    Everything in this package that takes a model takes what this function takes.

    Parameters
    ----------
    model
        Any of: a family's name, with ``checkpoint`` or ``config`` and ``weights``, or alone for
        its first pretrained model; ``"FAMILY:CHECKPOINT"``; the name of a pretrained model; the
        path of a file written by :func:`save_model` or of a checkpoint that an installed family
        knows; a :class:`Potential` or one of our calculators, whose model is returned as it is;
        None for the default model.
    checkpoint
        A file that the family's users hold (``*.pt``, ``*.pth.tar``), or the name of one of the
        family's pretrained models.
    config, weights
        Published hyper-parameters, and the reference's own state-dict keys as safetensors or npz.
    device, dtype
        As in :func:`build_model`; a model object stays where it is unless they are given.
    uncertainty
        Whether a pretrained model that comes with a fitted uncertainty has it on.
    corrections
        Terms to add, by name: ``["zbl"]``; a functional follows a colon, ``["d3bj:pbe"]``; or a
        mapping from names to parameters.
    options
        Further configuration keys, or arguments of the family's checkpoint loader.

    Raises
    ------
    UnknownModelError, PluginError, ConfigError, CheckpointError, UnsafeFileError
    """
    details = {"checkpoint": checkpoint, "config": config, "weights": weights}
    given = {name: value for name, value in {**details, **options}.items() if value is not None}

    # A calculator of ours counts as its model.
    held = model if isinstance(model, Potential) else getattr(model, "model", None)
    if isinstance(held, Potential):
        _refuse_details(given, "A model object is complete")
        return add_corrections(_moved(held, device, dtype), corrections)

    if not (model is None or isinstance(model, (str, Path))):
        raise ConfigError(
            f"A model was expected, not {type(model).__name__}: a Potential, an NNPCalculator, a "
            "path, the name of a family or of a pretrained model, or None for the default. "
            "ase_nnp.from_ase makes a Potential of any ASE calculator."
        )

    # Unlike Path.expanduser, this leaves a tilde alone that is nobody's home.
    name = None if model is None else os.path.expanduser(str(model))
    registry = installed()
    if name is not None and name not in registry.families:
        # "FAMILY:CHECKPOINT" is one word for command lines and lists of models.
        head, colon, rest = name.partition(":")
        if colon and head in registry.families and checkpoint is None:
            name, checkpoint = head, rest

    if name in registry.families:
        family = registry.family(str(name))
        loaded, offered = _load_of_family(family, checkpoint, config, weights, options)
    else:
        family, offered = _named_pretrained(name)
        if name is None and given:
            raise ConfigError(
                f"Which model? {', '.join(sorted(given))} goes with a family's name: "
                "'NAME', checkpoint=..."
            )
        if offered is not None:
            _refuse_details(given, f"'{offered.name}' names weights and their family")
            loaded = load_checkpoint(family, offered.name, options)
        else:
            _refuse_details({k: details[k] for k in details if k in given}, "A file is complete")
            loaded = load_file(Path(str(name)), options)

    # Precision before device: MPS knows no float64, which a file may hold.
    loaded = loaded.to(pick_dtype(dtype)).to(pick_device(device)).freeze()
    note_loaded(loaded)
    if uncertainty and offered is not None and offered.uncertainty:
        # The uncertainty room stands after this one: its reader comes through the registry.
        put_on = registry.uncertainties["fitted"].wrap
        loaded = put_on([loaded], path=packaged_file(family, offered.uncertainty))
    return add_corrections(loaded, corrections)


def _refuse_details(given: Mapping[str, Any], why: str) -> None:
    if given:
        raise ConfigError(
            f"{why}: {', '.join(sorted(given))} cannot go with it. They go with a family's name: "
            "'NAME', checkpoint=..."
        )


def _moved(model: Potential, device: str | torch.device, dtype: Any) -> Potential:
    if dtype is not None:
        model = model.to(pick_dtype(dtype))
    return model if device == "auto" else model.to(pick_device(device))


def _named_pretrained(name: str | None) -> tuple[Any, Pretrained | None]:
    """Return a pretrained model by its name, the default one for None; (None, None) for a path."""
    if name is None:
        return default_pretrained()

    # A path that exists is meant as one, whatever pretrained models are called.
    if Path(name).is_file():
        return None, None

    families = installed().families.values()
    for family in families:
        for offered in family.pretrained:
            if name == offered.name:
                return family, offered
    if not _looks_like_path(name):
        installed().family(name)  # neither a family nor a file: raises, saying what was meant
    return None, None


def _load_of_family(
    family: ModelFamily,
    checkpoint: str | Path | None,
    config: Mapping[str, Any] | str | Path | None,
    weights: str | Path | None,
    options: dict[str, Any],
) -> tuple[Potential, Pretrained | None]:
    """Load a model of a named family; beside it what is known of the weights, if published."""
    if checkpoint is not None and (config is not None or weights is not None):
        raise ConfigError("Give either checkpoint=, or config= and weights=, not both.")

    # A family's name alone means its first pretrained model, as in every listing.
    if checkpoint is None and config is None and weights is None and family.pretrained:
        checkpoint = family.pretrained[0].name
    if checkpoint is not None:
        offered = [p for p in family.pretrained if p.name == str(checkpoint)]
        return load_checkpoint(family, checkpoint, options), (offered[0] if offered else None)

    full = resolve_config(family, config, **options)
    loaded = build_from(family, full)
    if weights is None:
        # A formula such as Lennard-Jones has no weights to load; anything else must not pose as
        # trained.
        if any(True for _ in loaded.parameters()):
            raise ConfigError(
                f"'{family.name}' ships no weights. Give checkpoint=PATH, or config= and "
                "weights=; ase_nnp.build_model makes a model with fresh weights."
            )
        label_model(loaded, family, full, {"source": "configuration"})
        return loaded, None

    label_model(loaded, family, full, {"source": Path(weights).name})
    tensors = read_tensors(weights)
    if any(t.dtype == torch.float64 for t in tensors.values()):
        loaded.to(torch.float64)  # or they would be rounded on the way in
    loaded.load_weights(tensors)
    return loaded, None


def _looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text or bool(Path(text).suffix)


@usual_default_dtype()
def save_model(model: Potential, path: str | Path, **provenance: Any) -> None:
    """Write one file that :func:`load_model` reads back: safetensors with a JSON header.

    Parameters
    ----------
    model
        A model made by :func:`build_model` or :func:`load_model`. Of one with error bars the
        model alone is written; :func:`ase_nnp.uncertainty.save_uncertainty` writes the rest.
    path
        Where to; the file appears whole or not at all.
    provenance
        Anything JSON-able worth keeping: data, errors, license.
    """
    # Error bars are saved in a file of their own (*.uq); what is written here is the model within.
    corrections = stored_corrections(model)
    model = model.unwrapped
    if not model.family:
        raise CheckpointError(
            f"This {type(model).__name__} belongs to no registered family, so it could not be "
            "built again. Make models with ase_nnp.build_model or load_model."
        )
    header = {
        "format": FORMAT_VERSION,
        "written_by": f"ase_nnp {__version__}",
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **model.describe(),
        "config": dict(model.config),
        "corrections": corrections,
    }
    # Whoever trains with a loop of their own need not say so for the file to be honest.
    header["provenance"] = {**present_provenance(model), **provenance}
    write_sealed(path, MODEL_KEY, header, model.state_dict())


def hashed_config(model: Potential) -> dict[str, Any]:
    """Return the configuration as it stands in hashes of a model.

    A key that came after files were hashed counts where it is set only; otherwise every file
    written before would belong to a stranger.
    """
    return {k: v for k, v in model.config.items() if k not in LATER_KEYS or v is not None}


def model_hash(model: Potential) -> str:
    """Return the SHA-256 of the model's weights, configuration and corrections."""
    known = getattr(model, "_hash", None)
    if known is None:
        import hashlib

        # Configurations count too: the same weights with another cutoff are another model.
        said = [model.family, hashed_config(model)]
        if model.corrections:
            said += stored_corrections(model)
        text = json.dumps(said, sort_keys=True, default=str)
        known = hashlib.sha256((tensor_hash(model.state_dict()) + text).encode()).hexdigest()
    return str(known)
