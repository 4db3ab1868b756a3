"""Build, load and save models of any installed family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ase_nnp import __version__
from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError, UnknownModelError
from ase_nnp.models.download import download_bar, fetch, is_remote
from ase_nnp.models.potential import Potential
from ase_nnp.models.tensors import read_header, read_tensors, tensor_hash, write_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily, Pretrained
from ase_nnp.registry.installed import first_line, installed

__all__ = ["build_model", "load_model", "model_hash", "pick_device", "save_model"]

FORMAT_VERSION = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the named device; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises
    ------
    ConfigError
        A device that this machine or this torch does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{device!r} is no device; say 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("No CUDA device can be used here; say device='cpu' or 'auto'.")
    return chosen


def pick_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """Return a torch dtype for ``"float32"`` (the default) or ``"float64"``."""
    if dtype is None:
        return torch.float32
    chosen = DTYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise ConfigError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
    return chosen


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
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        model = made_by.build(full)
    _label(model, made_by, full, {"source": "fresh weights", "seed": seed})
    return model.to(pick_dtype(dtype)).to(pick_device(device)).eval()


def load_model(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> Potential:
    """Return a model with trained weights, ready for inference.

    Parameters
    ----------
    model
        A family's name, with ``checkpoint`` or ``config`` and ``weights``; or the path of a file
        written by :func:`save_model` or of a checkpoint that one of the installed families knows.
    checkpoint
        A file that the family's users hold (``*.pt``, ``*.pth.tar``), or the name of one of the
        family's pretrained models.
    config, weights
        Published hyper-parameters, and the reference's own state-dict keys as safetensors or npz.
    device, dtype
        As in :func:`build_model`.
    options
        Further configuration keys, or arguments of the family's checkpoint loader.

    Raises
    ------
    UnknownModelError, PluginError, ConfigError, CheckpointError, UnsafeFileError
    """
    registry = installed()
    given = {"checkpoint": checkpoint, "config": config, "weights": weights}
    text = str(model)
    if text not in registry.families and _is_path(text):
        if any(v is not None for v in given.values()):
            raise ConfigError("Give either a model file, or a family with checkpoint= or weights=.")
        loaded = _load_file(Path(model), options)
    else:
        family = registry.family(text)
        if checkpoint is not None:
            if config is not None or weights is not None:
                raise ConfigError("Give either checkpoint=, or config= and weights=, not both.")
            loaded = _load_checkpoint(family, checkpoint, options)
        elif weights is not None:
            full = resolve_config(family, config, **options)
            loaded = family.build(full)
            _label(loaded, family, full, {"source": Path(weights).name})
            tensors = read_tensors(weights)
            if any(t.dtype == torch.float64 for t in tensors.values()):
                loaded.to(torch.float64)  # or they would be rounded on the way in
            loaded.load_weights(tensors)
        elif family.pretrained:
            loaded = _load_checkpoint(family, family.pretrained[0].name, options)
        else:
            raise ConfigError(
                f"'{text}' ships no weights. Give checkpoint=PATH, or config= and weights=; "
                "ase_nnp.build_model makes a model with fresh weights."
            )
    return loaded.to(pick_dtype(dtype)).to(pick_device(device)).freeze()


def save_model(model: Potential, path: str | Path, **provenance: Any) -> None:
    """Write one file that :func:`load_model` reads back: safetensors with a JSON header.

    Parameters
    ----------
    model
        A model made by :func:`build_model` or :func:`load_model`.
    path
        Where to; the file appears whole or not at all.
    provenance
        Anything JSON-able worth keeping: data, errors, licence.
    """
    if not model.family:
        raise CheckpointError(
            f"This {type(model).__name__} belongs to no registered family, so it could not be "
            "built again. Make models with ase_nnp.build_model or load_model."
        )
    state = model.state_dict()
    header = {
        "format": FORMAT_VERSION,
        "written_by": f"ase_nnp {__version__}",
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **model.describe(),
        "config": dict(model.config),
        "sha256": tensor_hash(state),
    }
    header["provenance"] = {**dict(model.provenance), **provenance}
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The model's configuration is not plain JSON: {error}.") from error
    write_tensors(path, state, {"ase_nnp": text})


def model_hash(model: Potential) -> str:
    """Return the SHA-256 of the model's weights and configuration."""
    known = getattr(model, "_hash", None)
    if known is None:
        import hashlib

        text = json.dumps([model.family, dict(model.config)], sort_keys=True, default=str)
        known = hashlib.sha256((tensor_hash(model.state_dict()) + text).encode()).hexdigest()
    return str(known)


def _label(
    model: Potential, family: ModelFamily, config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    model.family = model.family or family.name
    # A family may fill in nested defaults itself; what it built from is what must be saved.
    model.config = dict(model.config) or dict(config)
    model.provenance = {**dict(model.provenance), **provenance}


def _is_path(text: str) -> bool:
    return Path(text).is_file() or "/" in text or "\\" in text or bool(Path(text).suffix)


def _load_checkpoint(
    family: ModelFamily, checkpoint: str | Path, options: dict[str, Any]
) -> Potential:
    path, known = Path(checkpoint), {}
    for offered in family.pretrained:
        if str(checkpoint) == offered.name:
            path, known = _weights_of(family, offered), {"pretrained": offered.name}
    if family.locate is not None and not path.exists():
        path = family.locate(str(checkpoint))
    if not path.is_file() and (family.locate is None or not path.is_dir()):
        names = ", ".join(p.name for p in family.pretrained) or "none"
        raise CheckpointError(
            f"There is no file {path}. Pretrained models of '{family.name}': {names}."
        )
    if path.is_file() and "ase_nnp" in read_header(path):
        model = _load_own(path, options, expected=family.name)
        model.provenance = {**dict(model.provenance), **known}
        return model
    if family.load is None:
        raise CheckpointError(f"'{family.name}' cannot read foreign checkpoints such as {path}.")
    model = family.load(path, **options)
    _label(model, family, model.config, {"source": path.name, **known})
    return model


def _weights_of(family: ModelFamily, offered: Pretrained) -> Path:
    """Return the file of pretrained weights: of an installed package, or from the network."""
    if is_remote(offered.source):
        with download_bar(offered.name) as progress:
            return fetch(offered, progress)
    return _packaged(family, offered.source)


def _packaged(family: ModelFamily, source: str) -> Path:
    """Where a file beside the plugin's modules is, or one of another package: "package:path"."""
    from importlib.util import find_spec

    package, colon, inside = source.partition(":")
    if not colon:
        package, inside = family.package, source
    spec = find_spec(package)  # found, not imported
    if spec is None or spec.origin is None:
        raise CheckpointError(f"The package '{package}', which holds {inside}, is not installed.")
    return Path(spec.origin).parent / inside


def _load_file(path: Path, options: dict[str, Any]) -> Potential:
    if not path.is_file():
        raise UnknownModelError(
            f"There is no file '{path}', and no model family of that name.\n"
            f"Installed: {', '.join(sorted(installed().families))}."
        )
    if "ase_nnp" in read_header(path):
        return _load_own(path, options)
    reasons = []
    for family in installed().families.values():
        if family.load is None:
            continue
        try:
            return _load_checkpoint(family, path, options)
        except (AseNnpError, ImportError) as error:  # a family's own package may be missing
            reasons.append(f"{family.name}: {first_line(error)}")
    raise CheckpointError(f"No installed family can read {path}.\n" + "\n".join(reasons))


def _load_own(path: Path, options: dict[str, Any], expected: str | None = None) -> Potential:
    try:
        header = json.loads(read_header(path)["ase_nnp"])
        version, name, config = header["format"], header["family"], header["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the model header is damaged ({error!r}).") from error
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}; this ase_nnp reads up to {FORMAT_VERSION}. Upgrade it."
        )
    if expected is not None and name != expected:
        raise CheckpointError(f"{path} holds a '{name}' model, not '{expected}'.")
    family = installed().family(name)
    full = resolve_config(family, config, **options)
    model = family.build(full)
    _label(model, family, full, header.get("provenance", {}))
    tensors = read_tensors(path)
    if "sha256" in header and tensor_hash(tensors) != header["sha256"]:
        raise CheckpointError(f"{path}: the weights do not match the header's SHA-256.")
    own = model.state_dict()
    if set(own) != set(tensors) or any(own[k].shape != tensors[k].shape for k in own):
        Potential.load_weights(model, tensors)  # raises, naming the differences
    for kind in {t.dtype for t in tensors.values() if t.is_floating_point()} & {torch.float64}:
        model.to(kind)
    model.load_state_dict(tensors)
    if header.get("elements") and model.elements is not None:
        model.elements &= frozenset(header["elements"])  # what it was trained for, not what it may
    return model
