"""Configurations: from what a user gives to exactly the keys a family declares."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Set
from copy import deepcopy
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import AseNnpError, ConfigError, PluginError
from ase_nnp.files.regular import read_regular
from ase_nnp.registry.correction import Correction
from ase_nnp.registry.family import ModelFamily

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["build_from", "changes", "resolve_config"]


def resolve_config(
    family: ModelFamily, config: Mapping[str, Any] | str | Path | None, /, **options: Any
) -> dict[str, Any]:
    """Return the family's defaults updated by ``config`` and then by ``options``.

    ``config`` is a dictionary of hyper-parameters, the path of a JSON file, or a whole published
    configuration with the hyper-parameters under ``"model"``; of the keys beside ``"model"``
    those in ``family.config_extras`` count and the rest is a record of the training.

    Raises
    ------
    ConfigError
        For a key that the family does not have, with the nearest name, or a value that is NaN or
        infinite.
    """
    given = _read(config)
    if isinstance(given.get("model"), Mapping):
        extras = {k: given[k] for k in family.config_extras if k in given}
        given = {**extras, **given["model"]}

    # Published configurations carry keys of their trainers; a misspelt key must still be an error.
    given = {k: v for k, v in given.items() if k not in family.ignored} | options
    unknown = sorted(set(given) - set(family.defaults))
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(family.defaults), n=1)
        meant = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"'{family.name}' has no hyper-parameter {', '.join(map(repr, unknown))}.{meant} "
            f"It takes: {', '.join(sorted(family.defaults))}."
        )
    # Comparisons do not find NaN, which would be in every result, and no file holds either.
    if hollow := [place for place, value in _values(given) if not math.isfinite(value)]:
        raise ConfigError(
            f"'{family.name}': {', '.join(hollow)} is NaN or infinite; a number was wanted."
        )
    return {**family.defaults, **given}


def build_from(family: ModelFamily | Correction, config: Mapping[str, Any]) -> Potential:
    """Return what the family builds from a full configuration; the configuration stays as it is.

    Raises
    ------
    ConfigError
        Also in place of whatever a family, or the package behind it, raises for a wrong value.
    PluginError
        For what is no Potential, or one whose ``elements`` are no atomic numbers.
    """
    try:
        model = family.build(deepcopy(dict(config)))
    except (AseNnpError, ImportError):
        raise
    except Exception as error:
        changed = changes(config, family.defaults)
        if not changed:
            raise  # a fault of the family, and of nobody's configuration
        raise ConfigError(
            f"'{family.name}' cannot be built with {changed}: "
            f"{type(error).__name__}: {_short(str(error))}"
        ) from error
    _check_made(family.name, model)
    return model


def _check_made(name: str, model: Any) -> None:
    """Refuse what a plugin has built and nobody could use; without an import of torch."""
    if isinstance(model, type) or not hasattr(model, "make_graph"):
        raise PluginError(
            f"'{name}': build(config) returned {_short(repr(model))}; a Potential was wanted."
        )
    known = model.elements
    if known is None:
        return
    if not isinstance(known, Set) or not all(isinstance(z, Integral) for z in known):
        raise PluginError(
            f"'{name}': elements of the model is {_short(repr(known))}; a frozenset of atomic "
            "numbers was wanted, or None."
        )


def changes(config: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Name the values that are not the usual ones, and what is usual; empty where all are.

    Of these only those of another kind than the default, where there are any.
    """
    changed = list(_changed(config, usual, ""))
    odd = [(key, value, default) for key, value, default in changed if not _same(value, default)]
    return ", ".join(
        f"{key}={_short(repr(value))} (default {_short(repr(default))})"
        for key, value, default in odd or changed
    )


def _changed(
    config: Mapping[str, Any], usual: Mapping[str, Any], place: str
) -> Iterator[tuple[str, Any, Any]]:
    for key, value in config.items():
        default = usual.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping) and value:
            yield from _changed(value, default, f"{place}{key}.")
        elif key not in usual or repr(value) != repr(default):
            yield f"{place}{key}", value, default


def _values(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number in a configuration, and where it stands."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _values(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner, place)
    elif isinstance(value, float):
        yield place, value


def _same(value: Any, usual: Any) -> bool:
    whole = isinstance(usual, float) and type(value) is int
    return usual is None or whole or isinstance(value, type(usual))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(config: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config)
    try:
        value = json.loads(read_regular(path))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}; a JSON object was expected.")
    return value
