"""Options that several commands have in common, stated once as fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ase_nnp.cli.commands.model_argument import (
    CheckpointOption,
    CorrectionOption,
    DeviceOption,
    DtypeOption,
    model_from,
)
from ase_nnp.cli.commands.output import JsonOption

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["EnsembleOptions", "ModelOptions", "PropertyOptions", "takes", "with_uncertainty"]


def with_uncertainty(potential: Potential, path: Path | None) -> Potential:
    """Attach a fitted uncertainty, if one is named."""
    if path is None:
        return potential
    from ase_nnp.uncertainty import attach

    return attach(potential, path)


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded, and whether the command prints JSON."""

    checkpoint: CheckpointOption = None
    correction: CorrectionOption = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = "float32"
    as_json: JsonOption = False

    def load(self, model: str | Path | None) -> Potential:
        """Load the model that the command line names, or the default one."""
        return model_from(model, self.checkpoint, self.device, self.dtype, self.correction)


@dataclass(frozen=True)
class EnsembleOptions(ModelOptions):
    """Also a fitted ensemble, whose members give each number a ±."""

    uncertainty: Annotated[
        Path | None,
        typer.Option(help="A fitted ensemble of this model: each number gets a ±."),
    ] = None

    def load(self, model: str | Path | None) -> Potential:
        """Load the model with its fitted ensemble."""
        return with_uncertainty(super().load(model), self.uncertainty)


@dataclass(frozen=True)
class PropertyOptions(EnsembleOptions):
    """Also a picture."""

    plot: Annotated[
        Path | None, typer.Option(help="Draw to this .png, .pdf, .svg or .jpg (redrawn).")
    ] = None

    def check_plot(self) -> None:
        """Refuse, before anything runs, a picture that could not be drawn."""
        if self.plot is not None:
            from ase_nnp.workflows.picture import check_picture

            check_picture(self.plot)


def takes(
    options: type[Any], **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Spread the fields of a dataclass over a command's options; it gets them as ``options``.

    Parameters
    ----------
    options
        A dataclass whose fields typer understands.
    **defaults
        Defaults that differ for this command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        names = [field.name for field in fields(options)]
        own_hints = get_type_hints(command, include_extras=True)
        hints = own_hints | get_type_hints(options, include_extras=True)
        hints.pop("options")

        @functools.wraps(command)
        def spread(**values: Any) -> None:
            shared = options(**{name: values.pop(name) for name in names})
            command(options=shared, **values)

        own = [p for n, p in inspect.signature(command).parameters.items() if n != "options"]
        values = {field.name: field.default for field in fields(options)} | defaults
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=values[name])
            for name in names
        ]
        # typer reads both: the order and the defaults here, the types in the annotations.
        spread.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(annotation=hints[p.name]) for p in [*own, *added]]
        )
        spread.__annotations__ = hints
        return spread

    return decorate
