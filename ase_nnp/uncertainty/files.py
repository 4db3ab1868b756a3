"""One file that holds a fitted uncertainty and loads beside its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ase_nnp import __version__
from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError
from ase_nnp.models.files import hashed_config, model_hash
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential
from ase_nnp.models.size_limit import no_larger_than
from ase_nnp.models.tensors import read_sealed, tensor_hash, write_sealed
from ase_nnp.uncertainty.methods.base import NOT_COVERED, UncertainPotential
from ase_nnp.uncertainty.methods.bonding import KnownBonding
from ase_nnp.uncertainty.statistics.calibrated import Calibration

__all__ = ["check_model", "load_uncertainty", "save_uncertainty", "uncertainty_info"]

KEY = "ase_nnp_uncertainty"
FORMAT = 1
#: Begins the names of tables of known bonding.
BONDING = "bonding."
UNITS = {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}


def fingerprint(model: Potential) -> str:
    """Hash of weights, rounded to single precision so that a change of dtype is no mismatch."""
    state = {k: v.float() for k, v in model.state_dict().items()}
    if not state:
        return model_hash(model)
    config = json.dumps([model.family, hashed_config(model)], sort_keys=True, default=str)
    return tensor_hash(state) + config


def check_model(fitted_for: Potential, model: Potential) -> None:
    """Refuse a model that is not the one an uncertainty was fitted for."""
    inner = fitted_for
    while isinstance(inner, UncertainPotential):
        inner = inner.base
    if inner is not model and model is not fitted_for and _hash(inner) != _hash(model):
        raise CheckpointError(
            "This uncertainty was fitted for another model (the weights differ). Fit it again."
        )


def _hash(model: Potential) -> str:
    import hashlib

    return hashlib.sha256(fingerprint(model).encode()).hexdigest()


def save_uncertainty(model: UncertainPotential, path: str | Path, **notes: Any) -> None:
    """Write a fitted uncertainty: method, calibration, hashes of data and model, units.

    The model itself is not in the file, nor is any structure; further members of an ensemble are.

    Parameters
    ----------
    model
        What :func:`ase_nnp.uncertainty.fit` returned.
    path
        Usually ``*.uq``; it appears whole or not at all.
    notes
        Anything JSON-able worth keeping.
    """
    # From the outside in: an uncertainty may be around another, down to the model.
    tensors: dict[str, torch.Tensor] = {}
    layers: list[dict[str, Any]] = []
    layer: Potential = model
    # Uncertainties wrap each other; the outermost is written first.
    while isinstance(layer, UncertainPotential):
        own, values = layer.state()
        tensors |= {f"{len(layers)}.{k}": v for k, v in own.items()}
        known = layer.bonding
        if known is not None:
            tensors |= {f"{len(layers)}.{BONDING}{k}": v for k, v in known.counts.items()}
        layers.append(
            {
                "method": layer.method,
                "values": values,
                "calibration": layer.calibration.to_json(),
                "aliases": layer.aliases,
                **({"bonding": known.facts()} if known is not None else {}),
            }
        )
        layer = layer.base

    tensors["format"] = torch.tensor(FORMAT)
    header = {
        "format": FORMAT,
        "written_by": f"ase_nnp {__version__}",
        "layers": layers,
        "model": {
            "family": layer.family,
            "hash": _hash(layer),
            "provenance": model.provenance,
        },
        "units": UNITS,
        "data_hash": model.uq["calibration_hash"],
        "not_covered": NOT_COVERED,
        "notes": notes,
    }
    write_sealed(path, KEY, header, tensors)


def uncertainty_info(path: str | Path) -> dict[str, Any]:
    """Return the header of a file: method, calibration, hashes, units, notes.

    Raises
    ------
    CheckpointError
        There is no such file, it holds something else, or it is damaged.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not Path(path).is_file():
        raise CheckpointError(f"There is no uncertainty file {path}.")
    content = read_sealed(path, KEY)
    if content is None:
        raise CheckpointError(f"{path} holds no fitted uncertainty.")
    version = content[0].get("format")
    if not isinstance(version, int):
        raise CheckpointError(f"{path}: the header is damaged (format {version!r}).")
    if version > FORMAT:
        raise CheckpointError(f"{path} has format {version}; this ase_nnp reads up to {FORMAT}.")
    return content


@usual_default_dtype()
def load_uncertainty(path: str | Path, model: Potential, **options: Any) -> UncertainPotential:
    """Put a fitted uncertainty on the model that it was fitted for.

    Parameters
    ----------
    path
        A file that :func:`save_uncertainty` wrote.
    model
        The potential that it was fitted for.
    options
        Of the method, instead of those in the file: ``force_std="exact"`` for the heads of a
        training, which are kept with a spread of energies alone.

    Raises
    ------
    CheckpointError
        The file is damaged, or belongs to another model.
    ConfigError
        An option that the method of the file does not have.
    """
    header, tensors = _read(path)
    try:
        outer = header["layers"][0]
        strange = sorted(set(options) - set(outer["values"]))
        if strange:
            raise ConfigError(
                f"{path}: '{outer['method']}' has no option {', '.join(strange)}. It has: "
                f"{', '.join(outer['values'])}."
            )
        outer["values"].update(options)
        with no_larger_than(Path(path)):
            return _on_model(model, header, tensors, path)
    except AseNnpError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the header is damaged ({error!r}).") from error


def _on_model(
    model: Potential, header: dict[str, Any], tensors: dict[str, torch.Tensor], path: str | Path
) -> UncertainPotential:
    if header["model"]["hash"] != _hash(model):
        raise CheckpointError(
            f"{path} was fitted for another model: family '{header['model']['family']}', hash "
            f"{header['model']['hash'][:12]}, not {_hash(model)[:12]}. Error bars belong to the "
            "weights that they were fitted for, also after fine-tuning: fit them for this one."
        )

    current = model

    # The innermost first: each wraps what stands already.
    for number in reversed(range(len(header["layers"]))):
        layer, prefix = header["layers"][number], f"{number}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        levels = {k.removeprefix(BONDING): own.pop(k) for k in list(own) if k.startswith(BONDING)}
        current = _class_of(layer["method"]).from_state(current, own, layer["values"])
        current.set_calibration(Calibration.from_json(layer["calibration"]))
        # Files of earlier versions know nothing of bonding.
        if "bonding" in layer:
            current.bonding = KnownBonding(levels, **layer["bonding"])
            current.outputs = tuple(dict.fromkeys([*current.outputs, "ood_score", "ood_flag"]))
        if layer["aliases"]:
            current.with_aliases(layer["aliases"])
    assert isinstance(current, UncertainPotential)
    return current


def _class_of(method: str) -> type[UncertainPotential]:
    """The class of a method, by its name; subclasses that plugins define count."""
    import importlib

    for module in (
        "ensemble",
        "environment",
        "last_layer",
        "latent",
        "native",
        "shallow",
        "stochastic",
    ):
        importlib.import_module(f"ase_nnp.uncertainty.methods.{module}")
    from ase_nnp.registry.installed import installed

    installed()  # plugins may define more
    waiting = [UncertainPotential]
    while waiting:
        kind = waiting.pop()
        if kind.method == method:
            return kind
        waiting += kind.__subclasses__()
    raise CheckpointError(f"No installed plugin has the uncertainty method '{method}'.")
