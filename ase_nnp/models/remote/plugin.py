"""Environments with a calculator as model families ``env:NAME``, so that every command takes them.

``load`` reads the environment's own description and nothing else: which code a worker runs is said
when the environment is created, never by a file that somebody hands on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.models.remote.environments import ABOUT, Environment, list_environments
from ase_nnp.registry.family import ModelFamily, Pretrained, RegisterModel
from ase_nnp.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["register_models"]


def _family(environment: Environment) -> ModelFamily:
    about = environment.folder / ABOUT

    def build(config: dict[str, Any]) -> Potential:
        from ase_nnp.models.remote.potential import remote

        return remote(environment.name)

    def load(path: str | Path, **options: Any) -> Potential:
        if Path(path).resolve() != about.resolve():
            raise CheckpointError("A worker's environment reads no checkpoints.")
        if options:
            raise ConfigError(f"'env:{environment.name}' takes no options.")
        return build({})

    return ModelFamily(
        name=f"env:{environment.name}",
        summary=f"{environment.calculator} in an environment of its own",
        build=build,
        load=load,
        pretrained=(
            Pretrained(
                name=f"env:{environment.name}:calculator",
                summary="what the environment was made for",
                source=str(about),
            ),
        ),
        outputs=("energy", "forces"),
        energy_kind=environment.energy_kind,
        conservative=environment.conservative,
        trainable=False,
        license="that of the installed packages",
        weights_license="that of the installed packages",
        notes="A worker process answers; its packages are not those of this installation: "
        + ", ".join(environment.packages),
    )


@hookimpl
def register_models(register: RegisterModel) -> None:
    """Offer each environment that says which calculator it is for."""
    for environment in list_environments():
        if environment.calculator:
            register(_family(environment))
