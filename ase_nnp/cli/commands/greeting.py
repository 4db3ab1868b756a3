"""``ase-nnp`` without arguments: three things to try, and whether they will work here."""

from __future__ import annotations

from importlib.resources import files

from ase_nnp.cli.commands.doctor import environment_warnings
from ase_nnp.cli.commands.output import say
from ase_nnp.errors import ConfigError

__all__ = ["greet"]

EXAMPLES = (
    ("ase-nnp relax --plot relaxed.png", "relax CO on copper, or your file: relax slab.xyz"),
    ("ase-nnp adsorb Pt CO --miller 111", "where it binds and how strongly, with intervals"),
    ("ase-nnp data info data/oc20_toy", "what a dataset holds: OC20, OC25, or your own file"),
)


def greet() -> None:
    """Print examples, the state of the default model, and warnings in one line."""
    from ase_nnp import __version__

    say(f"ase_nnp {__version__}: neural-network potentials as ASE calculators\n")
    width = max(len(command) for command, _ in EXAMPLES)
    for command, text in EXAMPLES:
        say(f"  {command:{width}}  {text}")

    say(f"\n{default_model()}")
    say(f"Doctor: {'; '.join(problems()) or 'nothing to complain about'} (ase-nnp doctor)")
    say("All commands: ase-nnp --help. Guides by question: docs/index.md")


def default_model() -> str:
    """Return one line on the model that is taken where none is named."""
    from ase_nnp.models.default import default_pretrained

    try:
        family, pretrained = default_pretrained()
    except ConfigError as error:
        return f"Default model: none. {error}"
    there = "://" in pretrained.source or (files(family.package) / pretrained.source).is_file()
    state = "there" if there else f"MISSING ({pretrained.source}): install the package again"
    return f"Default model: {pretrained.name}, {state} (ase-nnp models show {family.name})"


def problems() -> list[str]:
    """Return what hurts, without a look at torch: its import would take longer than all else."""
    from ase_nnp.registry.installed import installed

    broken = [f"plugin '{name}' cannot be used" for name in installed().broken]
    return [*(line.rstrip(".") for line in environment_warnings()), *broken]
