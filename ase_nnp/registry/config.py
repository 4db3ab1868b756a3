"""Configurations: from what a user gives to exactly the keys a family declares."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_nnp.errors import ConfigError
from ase_nnp.files.regular import read_regular
from ase_nnp.registry.family import ModelFamily

__all__ = ["resolve_config"]


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
        For a key that the family does not have, with the nearest name.
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
    return {**family.defaults, **given}


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
