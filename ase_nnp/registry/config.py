"""Configurations: from what a user gives to exactly the keys a family declares."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.files.regular import read_regular
from ase_nnp.registry.correction import Correction
from ase_nnp.registry.family import ModelFamily

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["build_from", "resolve_config"]


def resolve_config(
    family: ModelFamily, config: Mapping[str, Any] | str | Path | None, **options: Any
) -> dict[str, Any]:
    """Return the family's defaults updated by ``config`` and then by ``options``.

    ``config`` is a dictionary of hyper-parameters, the path of a JSON file, or a whole published
    configuration with the hyper-parameters under ``"model"``; of the keys beside ``"model"``
    those in ``family.config_extras`` count and the rest is a record of the training.

    Raises
    ------
    ConfigError
        For a key that the family does not have, with the nearest name, or a value that is NaN.
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
    # No hyper-parameter is NaN, and comparisons do not find it: it would be in every result.
    if hollow := [place for place, value in _values(given) if value != value]:
        raise ConfigError(f"'{family.name}': {', '.join(hollow)} is NaN; a number was wanted.")
    return {**family.defaults, **given}


def build_from(family: ModelFamily | Correction, config: Mapping[str, Any]) -> Potential:
    """Return what the family builds from a full configuration; the configuration stays as it is.

    Raises
    ------
    ConfigError
        Also in place of whatever a family, or the package behind it, raises for a wrong value.
    """
    try:
        return family.build(deepcopy(dict(config)))
    except (AseNnpError, ImportError):
        raise
    except Exception as error:
        usual = family.defaults
        changed = [k for k in config if k not in usual or repr(config[k]) != repr(usual[k])]
        if not changed:
            raise  # a fault of the family, and of nobody's configuration
        # Those of another kind than the default, where there are any.
        odd = [k for k in changed if not _same_kind(config[k], usual.get(k))]
        said = [
            f"{k}={_short(repr(config[k]))} (default {_short(repr(usual.get(k)))})"
            for k in odd or changed
        ]
        raise ConfigError(
            f"'{family.name}' cannot be built with {', '.join(said)}: "
            f"{type(error).__name__}: {_short(str(error))}"
        ) from error


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


def _same_kind(value: Any, usual: Any) -> bool:
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
