"""Environments of their own for models whose packages cannot share ours.

Each is a virtual environment in a folder of its own with a file ``environment.json``, which is
written last: without it there is no environment, so one appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ase_nnp.errors import ConfigError, WorkerError
from ase_nnp.files.atomic import write_whole

__all__ = [
    "Environment",
    "create_environment",
    "environment_folder",
    "find_environment",
    "list_environments",
    "remove_environment",
]

ABOUT = "environment.json"
#: What the worker itself needs beside the model.
BASE = ("ase", "numpy")


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the calculator that it is for.

    ``calculator`` is ``"module:factory"``, called with ``arguments``; empty if none was declared.
    """

    name: str
    folder: Path
    packages: tuple[str, ...] = ()
    calculator: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    energy_kind: str = "total"
    conservative: bool = True

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"


def environment_folder() -> Path:
    """Return where environments are kept: ``ASE_NNP_ENVIRONMENTS``, or in the user's data."""
    own = os.environ.get("ASE_NNP_ENVIRONMENTS")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "ase_nnp" / "environments"


def list_environments() -> list[Environment]:
    """Return the environments that are complete, by name."""
    return [read_about(p) for p in sorted(environment_folder().glob(f"*/{ABOUT}"))]


def read_about(path: Path) -> Environment:
    """Return the environment that a file describes."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return Environment(
            name=path.parent.name,
            folder=path.parent,
            packages=tuple(about["packages"]),
            calculator=str(about["calculator"]),
            arguments=dict(about["arguments"]),
            energy_kind=str(about["energy_kind"]),
            conservative=bool(about["conservative"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error!r}). Remove the folder {path.parent} and create the "
            "environment again."
        ) from error


def find_environment(name: str) -> Environment:
    """Return one environment.

    Raises
    ------
    ConfigError
        There is none of that name.
    """
    for known in list_environments():
        if known.name == name:
            return known
    names = ", ".join(e.name for e in list_environments()) or "none"
    raise ConfigError(
        f"No environment is named '{name}'. There are: {names}. Make one with: "
        f"ase-nnp env create {name} --package PACKAGE"
    )


def create_environment(
    name: str,
    packages: Sequence[str] = (),
    *,
    calculator: str = "",
    arguments: Mapping[str, Any] | None = None,
    energy_kind: str = "total",
    conservative: bool = True,
    python: str | Path | None = None,
    pip_arguments: Sequence[str] = (),
    base: Sequence[str] = BASE,
    say: Callable[[str], None] = lambda line: None,
) -> Environment:
    """Make a virtual environment, install packages with pip, and note what it is for.

    Parameters
    ----------
    name
        Letters, digits, ``-`` and ``_``.
    packages
        What pip is to install beside ``base``.
    calculator, arguments
        ``"module:factory"`` of the calculator, and its keyword arguments (JSON values).
    energy_kind, conservative
        What the model's energies are, and whether its forces are their gradient.
    python
        Interpreter to make it with; the present one by default.
    pip_arguments
        Further arguments for ``pip install``.
    say
        Gets each line of the log.
    base
        Folder that holds the environments; the cache by default.

    Raises
    ------
    ConfigError
        The name is none or taken, or the arguments are not JSON.
    WorkerError
        venv or pip failed; nothing is left behind but the log's last lines in the message.
    """
    # The name becomes a folder: no dots or slashes may lead elsewhere.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ConfigError(f"{name!r} cannot name an environment: letters, digits, - and _, please.")
    folder = environment_folder() / name
    if (folder / ABOUT).exists():
        raise ConfigError(f"There is an environment '{name}' already, in {folder}.")
    made = Environment(
        name, folder, tuple(packages), calculator, dict(arguments or {}), energy_kind, conservative
    )
    about = {k: v for k, v in asdict(made).items() if k not in ("name", "folder")}
    try:
        text = json.dumps(about, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The arguments are not plain JSON: {error}.") from error
    wanted = [*base, *packages]
    try:
        shutil.rmtree(folder, ignore_errors=True)  # left by an attempt that was killed
        folder.parent.mkdir(parents=True, exist_ok=True)
        flags = [] if wanted else ["--without-pip"]
        _run([str(python or sys.executable), "-m", "venv", *flags, str(folder)], say)
        if wanted:
            _run([str(made.python), "-m", "pip", "install", *pip_arguments, *wanted], say)

        # Last: an environment without this file is unfinished and not listed.
        write_whole(folder / ABOUT, text)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return made


def remove_environment(name: str) -> Environment:
    """Remove an environment from the disk; raises ConfigError if there is none."""
    gone = find_environment(name)
    (gone.folder / ABOUT).unlink()  # from here on it is not there
    shutil.rmtree(gone.folder)
    return gone


def _run(command: list[str], say: Callable[[str], None]) -> None:
    """Run a command, hand on its log, and raise with the end of it if it fails."""
    say(f"$ {' '.join(command)}")
    last: list[str] = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    )
    assert process.stdout is not None

    try:
        with process.stdout:
            for line in process.stdout:
                say(line.rstrip())
                last = [*last[-4:], line.strip()]
    except BaseException:
        process.kill()
        process.wait()
        raise

    if process.wait():
        raise WorkerError(
            f"{command[0]} {' '.join(command[1:4])} failed with exit code {process.returncode}; "
            f"nothing was kept. It said: {' | '.join(last)}"
        )


def clean_environment() -> dict[str, str]:
    """Return the environment variables without those that point into our own installation."""
    # With these the other interpreter would import our packages in place of its own.
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP", "PYTHONWARNINGS")
    return {k: v for k, v in os.environ.items() if k not in ours}
