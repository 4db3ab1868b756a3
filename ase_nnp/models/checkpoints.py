"""Model files and checkpoints: our own, those of families, and the pretrained ones by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError, UnknownModelError
from ase_nnp.files.outline import checkpoint_words
from ase_nnp.models.corrections import with_stored_corrections
from ase_nnp.models.download import download_bar, fetch, is_remote
from ase_nnp.models.potential import Potential, model_name
from ase_nnp.models.size_limit import no_larger_than
from ase_nnp.models.tensors import read_sealed
from ase_nnp.registry.config import build_from, resolve_config
from ase_nnp.registry.family import ModelFamily, Pretrained
from ase_nnp.registry.installed import first_line, installed

__all__ = [
    "FORMAT_VERSION",
    "MODEL_KEY",
    "label_model",
    "load_checkpoint",
    "load_file",
    "model_name",
    "packaged_file",
]

FORMAT_VERSION = 1
MODEL_KEY = "ase_nnp"  # of the header among a file's metadata


def label_model(
    model: Potential, family: ModelFamily, config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Note on a model which family and configuration it is, and where its weights are from."""
    model.family = model.family or family.name
    # A family may fill in nested defaults itself; what it built from is what must be saved.
    model.config = dict(model.config) or dict(config)
    # Of a sum, its first term's: a checkpoint may bring terms to be added.
    inner = model.unwrapped
    inner.provenance = {**dict(inner.provenance), **provenance}


def load_checkpoint(
    family: ModelFamily, checkpoint: str | Path, options: dict[str, Any]
) -> Potential:
    """Return a family's model from a file, or from pretrained weights by their name.

    Raises
    ------
    CheckpointError
        There is no such file, or the family cannot read it.
    """
    # Names come before files: a file in the working folder that happens to be called like a
    # pretrained model must not change what the name means.
    path, known = Path(checkpoint), {}
    for offered in family.pretrained:
        if str(checkpoint) == offered.name:
            path, known = _weights_of(family, offered), {"pretrained": offered.name}
            if offered.license != "not stated":
                known["license"] = offered.license  # it goes on with whatever is made of them
    if family.locate is not None and not path.exists():
        path = family.locate(str(checkpoint))
    if not path.is_file() and (family.locate is None or not path.is_dir()):
        names = ", ".join(p.name for p in family.pretrained) or "none"
        raise CheckpointError(
            f"There is no file {path}. Pretrained models of '{family.name}': {names}."
        )

    # The file's own header counts more than the family that was named: it knows its configuration.
    own = read_sealed(path, MODEL_KEY) if path.is_file() else None
    if own is not None:
        model = _load_own(path, *own, options, expected=family.name)
        inner = model.unwrapped
        inner.provenance = {**dict(inner.provenance), **known}
        return model
    if family.load is None:
        raise CheckpointError(f"'{family.name}' cannot read foreign checkpoints such as {path}.")
    with no_larger_than(path):
        model = _read_by(family, path, options)
    label_model(model, family, model.config, {"source": path.name, **known})
    return model


def _read_by(family: ModelFamily, path: Path, options: Mapping[str, Any]) -> Potential:
    """What the family's loader makes of a file; an option that it does not take is named."""
    assert family.load is not None
    try:
        return family.load(path, **options)
    except TypeError as error:
        # A loader may hand its options on, so that its own signature says nothing.
        refused = [key for key in options if f"argument '{key}'" in str(error)]
        if not refused:
            raise
        raise ConfigError(
            f"{path.name} is read as '{family.name}', which takes no option {refused[0]!r} beside "
            "a checkpoint. Leave it out."
        ) from error


def _weights_of(family: ModelFamily, offered: Pretrained) -> Path:
    """Return the file of pretrained weights: of an installed package, or from the network."""
    if is_remote(offered.source):
        with download_bar(offered.name) as progress:
            return fetch(offered, progress)
    return packaged_file(family, offered.source)


def packaged_file(family: ModelFamily, source: str) -> Path:
    """Where a file beside the plugin's modules is, or one of another package: "package:path"."""
    from importlib.util import find_spec

    package, colon, inside = source.partition(":")
    if not colon:
        package, inside = family.package, source
    spec = find_spec(package)  # found, not imported
    if spec is None or spec.origin is None:
        raise CheckpointError(f"The package '{package}', which holds {inside}, is not installed.")
    return Path(spec.origin).parent / inside


def load_file(path: Path, options: dict[str, Any]) -> Potential:
    """Return the model in a file of our own format, or of the family that knows the file.

    Raises
    ------
    UnknownModelError
        There is no such file.
    CheckpointError
        No installed family can read it.
    """
    if not path.is_file():
        raise UnknownModelError(
            f"There is no file '{path}', and no model family of that name.\n"
            f"Installed: {', '.join(sorted(installed().families))}."
        )
    own = read_sealed(path, MODEL_KEY)
    if own is not None:
        return _load_own(path, *own, options)

    # Read once, without unpickling: each family looks at the words, and only the one that knows
    # them opens the file.
    words = checkpoint_words(path)
    reasons = []
    for family in installed().families.values():
        if family.load is None:
            continue
        if family.knows is not None and not family.knows(words):
            reasons.append(f"{family.name}: not a checkpoint of this family")
            continue
        try:
            return load_checkpoint(family, path, options)
        except (AseNnpError, ImportError) as error:  # a family's own package may be missing
            reasons.append(f"{family.name}: {first_line(error)}")
    raise CheckpointError(f"No installed family can read {path}.\n" + "\n".join(reasons))


def _load_own(
    path: Path,
    header: Mapping[str, Any],
    tensors: dict[str, Tensor],
    options: dict[str, Any],
    expected: str | None = None,
) -> Potential:
    version, name, config = (header.get(key) for key in ("format", "family", "config"))
    # A configuration given as text would be the path of a file: a header names no path.
    if not (isinstance(version, int) and isinstance(name, str) and isinstance(config, dict)):
        raise CheckpointError(f"{path}: the model header is damaged.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}; this ase_nnp reads up to {FORMAT_VERSION}. Upgrade it."
        )
    if expected is not None and name != expected:
        raise CheckpointError(f"{path} holds a '{name}' model, not '{expected}'.")

    # The header names a family and no module: what runs is what the user has installed.
    family = installed().family(name)
    try:
        with no_larger_than(path):
            return _built(family, path, header, tensors, options)
    except (AseNnpError, ImportError):
        raise
    except Exception as error:  # a family is a plugin, and a header may be made by anybody
        raise CheckpointError(f"{path}: '{name}' cannot be built from it: {error!r}.") from error


def _built(
    family: ModelFamily,
    path: Path,
    header: Mapping[str, Any],
    tensors: dict[str, Tensor],
    options: dict[str, Any],
) -> Potential:
    full = resolve_config(family, header["config"], **options)
    model = build_from(family, full)
    # What a file holds is not fresh any more, whatever its maker once began with.
    label_model(model, family, full, {**header.get("provenance", {}), "source": path.name})

    # Compared before anything is copied, so that a file that does not fit leaves no half-loaded
    # model.
    own = model.state_dict()
    if set(own) != set(tensors) or any(own[k].shape != tensors[k].shape for k in own):
        Potential.load_weights(model, tensors)  # raises, naming the differences

    # load_state_dict casts to the model's precision without a word: a file in float64 must not be
    # rounded.
    for kind in {t.dtype for t in tensors.values() if t.is_floating_point()} & {torch.float64}:
        model.to(kind)
    model.load_state_dict(tensors)
    if header.get("elements") and model.elements is not None:
        model.elements &= frozenset(header["elements"])  # what it was trained for, not what it may
    return with_stored_corrections(model, header.get("corrections", []))
