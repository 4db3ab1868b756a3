"""Which model a word of the command line names, and the options that go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase_nnp.models.potential import Potential

__all__ = [
    "CheckpointOption",
    "CorrectionOption",
    "DeviceOption",
    "DtypeOption",
    "InputsArgument",
    "is_model",
    "model_and_structures",
    "model_from",
]

InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] STRUCTURES",
        help="A model (a file, a family, FAMILY:CHECKPOINT, a pretrained model's name or "
        "ase:MODULE:NAME; the default model without it), and any dataset or file that ASE reads.",
    ),
]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="With a family's name: its checkpoint file.")
]
CorrectionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--correction",
        metavar="NAME[:FUNCTIONAL]",
        help="Add a term to the model, such as zbl or d3bj:pbe; again for a further one.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DtypeOption = Annotated[str, typer.Option(help="float32 or float64.")]


def model_from(
    model: str | Path | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    corrections: Sequence[str] | None = None,
) -> Potential:
    """Load what the command line names, or the default model, with corrections added.

    Raises
    ------
    AseNnpError
        In words for the command line: an environment that is not there, a file of structures in
        the model's place, a file that no family reads.
    """
    from ase_nnp.models.corrections import add_corrections
    from ase_nnp.models.files import load_model

    added = corrections or ()
    text = "" if model is None else str(model)
    if model is None and checkpoint is not None:
        raise ConfigError("--checkpoint goes with a family's name: give MODEL too.")
    _check_environment(text)
    if text.startswith("ase:"):
        return add_corrections(_ase_calculator(text.removeprefix("ase:")), added)
    try:
        loaded = load_model(model, checkpoint=checkpoint, device=device, dtype=dtype)
    except UnsafeFileError:
        raise
    except CheckpointError as error:
        raise _shorter(text, error) from error
    return add_corrections(loaded, added)


def model_and_structures(
    words: Sequence[str], command: str, most: int = 1
) -> tuple[str | None, list[Path]]:
    """Tell ``[MODEL] STRUCTURES...`` apart: as many files as wanted are structures alone.

    Parameters
    ----------
    words
        Of the command line.
    command
        Its name, for errors.
    most
        Files of structures that the command takes.
    """
    wanted = "STRUCTURES" if most == 1 else " ".join(["STRUCTURES"] * most)
    if len(words) > most + 1:
        raise ConfigError(
            f"{command} takes [MODEL] {wanted}; found {len(words)} names: {' '.join(words)}."
        )
    if len(words) == most + 1:
        return words[0], [Path(word) for word in words[1:]]
    lone = [word for word in words if not Path(word).exists() and is_model(word)]
    if lone or any(word.endswith(".nnp") for word in words):
        name = (lone or list(words))[0]
        raise ConfigError(f"'{name}' is a model; which structures? {command} MODEL {wanted}.")
    return None, [Path(word) for word in words]


def model_name(potential: Potential) -> str:
    """Return what a model is called in a table's title: its pretrained name, else its family."""
    from ase_nnp.models import checkpoints

    return checkpoints.model_name(potential)


def is_model(text: str) -> bool:
    """Whether a word names an installed family, one of its checkpoints or pretrained models."""
    from ase_nnp.registry.installed import installed

    families = installed().families
    if text.startswith("ase:"):
        return True
    if text in families or text.partition(":")[0] in families:
        return True
    return any(text == offered.name for f in families.values() for offered in f.pretrained)


def _ase_calculator(place: str) -> Potential:
    from importlib import import_module

    from ase_nnp.models.from_ase import from_ase

    module, _, name = place.partition(":")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"ase:{place} names no calculator ({error}). Say ase:MODULE:NAME, such as "
            "ase:ase.calculators.emt:EMT."
        ) from error
    return from_ase(made, name=name)


def _check_environment(text: str) -> None:
    from ase_nnp.registry.installed import installed

    families = installed().families
    if not text.startswith("env:") or text in families:
        return
    there = sorted(name for name in families if name.startswith("env:"))
    name = text.split(":")[1] or "NAME"
    raise ConfigError(
        f"There is no environment '{name}' with a calculator"
        f"{f' (there are {chr(44).join(there)})' if there else ''}. Make it with: ase-nnp env "
        f"create {name} --package PACKAGE --calculator MODULE:FACTORY."
    )


def _shorter(text: str, error: CheckpointError) -> AseNnpError:
    """One reason instead of one a family, for a file that none of them reads."""
    path = Path(text)
    if not str(error).startswith("No installed family can read"):
        return error
    try:
        from ase.io.formats import filetype, ioformats

        kind = filetype(str(path))
        known = kind in ioformats and ioformats[kind].can_read and kind != "json"
    except Exception:  # ASE's detection may raise anything on bytes that are no text
        known = False
    if known:
        return ConfigError(f"{path} is no model: it seems to hold structures ({kind}).")
    refused = [line for line in str(error).splitlines() if "UnsafeFileError" in line]
    reason = f" {refused[0].strip()}" if refused else ""
    return CheckpointError(f"{path} is no model file that an installed family reads.{reason}")
