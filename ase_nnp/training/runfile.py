"""The run file of a training: YAML or TOML, every key also a command-line option, all checked.

Paths are relative to where the command is run; a tilde is the home folder.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ase_nnp.errors import ConfigError
from ase_nnp.files.regular import read_regular
from ase_nnp.training.settings import Settings

__all__ = ["RunFile", "parse_options", "read_run_file", "write_run_file"]

MAX_BYTES, MAX_DOTS = 1 << 18, 500  # of a run file, and of a line in it
MAX_DEPTH = 100  # of lists and mappings in each other
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

# No shell looks at a run file: a folder called "~" was made beside it.
_Path = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelPart(_Part):
    """What is trained: ``family`` with ``config`` for fresh weights, or ``start`` from a model
    file or checkpoint (with ``family``, one that the family reads, or one of its pretrained names).
    """

    family: str | None = None
    config: dict[str, Any] | _Path = Field(default_factory=dict)
    start: _Path | None = None
    dtype: Literal["float32", "float64"] = "float32"


class DataPart(_Part):
    """Labeled structures: anything that ``ase-nnp data info`` opens.

    Without ``valid``, ``valid_fraction`` of the training set is held back, drawn with the seed of
    the run. ``isolated_atoms`` holds free atoms, whose energies become the references.
    """

    train: _Path
    valid: _Path | None = None
    valid_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    test: _Path | None = None
    isolated_atoms: _Path | None = None


class FineTune(_Part):
    """How to change a trained model without spoiling it; see :mod:`ase_nnp.training.finetune`.

    ``add_elements`` names chemical symbols that are new to the model; ``new_elements_only`` trains
    nothing but their rows, so that all else stays as it was.
    """

    freeze: list[str] = Field(default_factory=list)
    lora_rank: int | None = Field(default=None, ge=1)
    lora_alpha: float = 1.0
    lora_on: list[str] = Field(default_factory=lambda: ["*"])
    refit_references: bool = False
    add_elements: list[str] = Field(default_factory=list)
    new_elements_only: bool = False
    replay: _Path | None = None
    replay_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    keep_close: float = Field(default=0.0, ge=0.0)
    ewc: float = Field(default=0.0, ge=0.0)


class RunFile(Settings):
    """A whole run: the settings of :class:`Settings`, the model, the data, and where to.

    ``corrections`` are terms by name (``[zbl, "d3bj:pbe"]``), or a mapping from names to their
    parameters; they are subtracted from the labels, and added again by the model that is saved.
    """

    model: ModelPart
    data: DataPart
    corrections: list[str] | dict[str, dict[str, Any]] = Field(default_factory=list)
    finetune: FineTune = FineTune()
    output: _Path = "run"

    def settings(self) -> Settings:
        """Return the part that :func:`ase_nnp.training.fit` takes."""
        # Settings know nothing of files: the function fit() takes them without a run file.
        return Settings(**{name: getattr(self, name) for name in Settings.model_fields})


def read_run_file(path: str | Path, options: Mapping[str, Any] | None = None) -> RunFile:
    """Read a run file and put options of the command line over it.

    Parameters
    ----------
    path
        ``*.toml``, or YAML.
    options
        Values by dotted name, such as ``{"optimizer.lr": "1e-3"}``.

    Raises
    ------
    ConfigError
        Not readable, an unknown key (with the nearest name), or a value that does not fit.
    """
    path = Path(path)
    try:
        text = read_regular(path, MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the run file {path}: {error}.") from error

    content = _toml(text, path) if path.suffix == ".toml" else _yaml(text, path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; keys with values were wanted.")

    try:
        content = _numbers(content)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply.") from None

    for name, value in (options or {}).items():
        _put(content, name, _numbers(_yaml(str(value), f"--{name}")))
    return check_run_file(content, path)


def check_run_file(content: Mapping[str, Any], path: object = "the run") -> RunFile:
    """Return the run of a dictionary; raises ConfigError as :func:`read_run_file`."""
    try:
        return RunFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(map(_say, error.errors()[:4]))) from error


def _say(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        given = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
        return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}{given}"

    known = list(_names(RunFile))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # the right key under the wrong parent
        ends = {k.split(".")[-1]: k for k in known}
        last = name.split(".")[-1]

        # `lr` at the top level is the usual slip for `optimizer.lr`.
        close = [ends[k] for k in difflib.get_close_matches(last, list(ends), n=1)]
    return f"no key is called '{name}'" + (f"; did you mean '{close[0]}'?" if close else "")


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        parts = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                names += _names(part, f"{prefix}{name}.")
    return names


def parse_options(words: Sequence[str]) -> dict[str, str]:
    """Turn ``--optimizer.lr 1e-3 --batch.atoms=500`` into values by dotted name.

    Raises
    ------
    ConfigError
        A word that is neither a name nor its value.
    """
    options: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"'{word}' follows no option; keys are given as --optimizer.lr 1e-3.")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"--{name} needs a value.")
            value = rest.pop(0)
        options[name.replace("-", "_")] = value
    return options


def write_run_file(run: RunFile, path: str | Path) -> None:
    """Write every key of a run as YAML; the file appears whole or not at all."""
    import yaml

    from ase_nnp.files.atomic import whole_file

    with whole_file(path) as beside:
        text = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False)
        beside.write_text(text, encoding="utf-8")


def _put(content: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    place = content
    for parent in parents:
        inner = place.get(parent)
        if not isinstance(inner, dict):
            inner = place[parent] = {}
        place = inner
    place[last] = value


def _numbers(value: Any) -> Any:
    """``1e-3`` is a string to YAML 1.1 and a number to everyone else."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _yaml(text: str, path: object) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError("A YAML file needs PyYAML: pip install ase_nnp[train]") from error

    try:
        depth = 0
        for event in yaml.parse(text):  # one at a time, so what is refused is not read to its end
            # Thirty anchors, each twice in the next, are a billion values; no run file needs one.
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{path} uses an anchor (*name). Write the values out.")
            # The time of the scanner grows with the square of the depth.
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ConfigError(f"{path}: nested too deeply, in more than {MAX_DEPTH} levels.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error


def _toml(text: str, path: Path) -> Any:
    # The standard library takes hours for a name of 20,000 parts.
    if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
        raise ConfigError(f"{path}: a line of more than {MAX_DOTS} dots.")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from error
