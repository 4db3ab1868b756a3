"""``ase-nnp doctor``: versions, devices, settings that hurt, plugins and their state."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import typer

from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, say

__all__ = ["add_to", "environment_warnings"]

PACKAGES = (
    "ase_nnp",
    "torch",
    "ase",
    "numpy",
    "scipy",
    "e3nn",
    "vesin",
    "nvalchemi-toolkit-ops",
    "lmdb",
    "h5py",
    "pymatgen",
    "lightning",
    "matplotlib",
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Print what a bug report needs, and warn about settings that slow models down."""
    import torch

    from ase_nnp.registry.installed import broken_state, family_state, installed

    registry = installed()
    plugins = {name: registry.distributions.get(name, "") for name, _ in plugin_names(registry)}
    state = {name: "ok" for name in plugins}
    for family in registry.families.values():
        owner = registry.owners.get(f"ModelFamily:{family.name}", family.name)
        condition = family_state(family, plugins.get(owner, "").partition(" ")[0])
        if condition.kind != "ok":
            state[owner] = str(condition)
    for name, error in registry.broken.items():
        kind, reason, fix = broken_state(error)
        state[name] = f"{kind}: {reason}{f' ({fix})' if fix else ''}"
    report: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "devices": devices(torch),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "plugins": {n: {"state": s, "distribution": plugins.get(n, "")} for n, s in state.items()},
        "warnings": warnings(torch),
    }
    if as_json:
        print_json(report)
        return
    rows = [("python", report["python"]), ("platform", report["platform"])]
    rows += [(k, v or "not installed") for k, v in report["packages"].items()]
    rows += [("devices", ", ".join(report["devices"]))]
    rows += [("threads", f"{report['threads']} of {report['cores']} cores")]
    print_table("Installation", ("", ""), rows)
    print_table(
        "Plugins",
        ("name", "from", "state"),
        [(n, v["distribution"], v["state"]) for n, v in sorted(report["plugins"].items())],
    )
    for line in report["warnings"]:
        say(f"warning: {line}")
    if not report["warnings"]:
        say("no settings that hurt were found")


def plugin_names(registry: Any) -> list[tuple[str, object]]:
    """Return the plugins that registered something."""
    return [(name, plugin) for name, plugin in registry.pm.list_name_plugin() if plugin is not None]


def version(package: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices(torch: Any) -> list[str]:
    """Return the devices torch can use."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    return names


def environment_warnings() -> list[str]:
    """Return settings of the environment that slow models down or weaken safety."""
    lines = []
    cores, threads = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")
    # More threads than cores make small models several times slower.
    if threads.isdecimal() and int(threads) > cores:
        lines.append(
            f"OMP_NUM_THREADS={threads} on {cores} cores; set OMP_NUM_THREADS={cores} or less."
        )

    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        lines.append("PYTHONDONTWRITEBYTECODE is set: every start compiles all modules again.")
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        lines.append(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: torch.load may run code from files. "
            "(ase_nnp's own loaders do not use it.)"
        )
    return lines


def warnings(torch: Any) -> list[str]:
    """Return what :func:`environment_warnings` does, and settings of torch in this process."""
    lines = environment_warnings()
    cores = os.cpu_count() or 1
    if torch.get_num_threads() > cores and not any("OMP_NUM_THREADS" in line for line in lines):
        lines.append(
            f"torch uses {torch.get_num_threads()} threads on {cores} cores; "
            f"set OMP_NUM_THREADS={cores} or less."
        )
    if torch.get_default_dtype() != torch.float32:
        lines.append(f"torch's default dtype is {torch.get_default_dtype()}.")

    return lines
