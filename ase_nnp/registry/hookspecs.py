"""The hooks a plugin may implement. This file is the plugin interface.

A plugin is a module named by an entry point of the group ``ase_nnp``. All hooks collect: every
plugin is called, and each calls ``register`` once per thing it offers. A module that needs a
newer interface than this release has says so with ``ase_nnp_api = 2``.
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

from ase_nnp.registry.correction import RegisterCorrection
from ase_nnp.registry.family import RegisterDataset, RegisterModel, RegisterUncertainty

__all__ = ["GROUP", "hookimpl", "hookspec"]

GROUP = "ase_nnp"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec(historic=True)
def register_models(register: RegisterModel) -> None:
    """Call ``register(family)`` once for each :class:`~ase_nnp.ModelFamily` of this plugin."""


@hookspec(historic=True)
def register_datasets(register: RegisterDataset) -> None:
    """Call ``register(format)`` once for each :class:`~ase_nnp.DatasetFormat` of this plugin."""


@hookspec(historic=True)
def register_uncertainties(register: RegisterUncertainty) -> None:
    """Call ``register(method)`` once for each :class:`~ase_nnp.UncertaintyMethod`."""


@hookspec(historic=True)
def register_corrections(register: RegisterCorrection) -> None:
    """Call ``register(correction)`` once for each :class:`~ase_nnp.Correction`."""


@hookspec(historic=True)
def register_commands(register: Callable[[str, Callable[..., None]], None]) -> None:
    """Call ``register(name, function)``; the function becomes ``ase-nnp NAME`` (typer)."""
