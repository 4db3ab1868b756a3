"""The built-in methods, registered through the same hook as anybody's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.registry.family import RegisterUncertainty, UncertaintyMethod
from ase_nnp.registry.hookspecs import hookimpl

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["METHODS", "register_uncertainties"]


def _method(name: str, place: str, summary: str, cite: str = "") -> UncertaintyMethod:
    module, cls = place.split(":")

    def wrap(potentials: Sequence[Potential], **options: Any) -> Potential:
        # torch is imported here, not when methods are listed
        kind: Callable[..., Potential] = getattr(
            import_module(f"ase_nnp.uncertainty.methods.{module}"), cls
        )
        return kind(list(potentials), **options)

    return UncertaintyMethod(name=name, summary=summary, wrap=wrap, cite=cite)


def _fitted(potentials: Sequence[Potential], path: str | Path, **options: Any) -> Potential:
    """Put a fitted uncertainty from a file on the model that it was fitted for."""
    from ase_nnp.uncertainty.files import load_uncertainty

    (model,) = potentials
    return load_uncertainty(path, model, **options)


def _auto(
    potentials: Sequence[Potential],
    *,
    train: Sequence[Atoms] | None = None,
    calibration: Sequence[Atoms] | None = None,
    **options: Any,
) -> Potential:
    """Error bars by environment around one potential, or around the ensemble of several."""
    from ase_nnp.uncertainty.methods.ensemble import DeepEnsemble
    from ase_nnp.uncertainty.methods.environment_fit import fit_environment

    several = len(potentials) > 1
    inner = DeepEnsemble(potentials, mode="sequential") if several else potentials[0]
    return fit_environment(inner, train or [], calibration, **options)


METHODS = (
    UncertaintyMethod(
        name="auto",
        summary="the one to begin with: how novel an atom and its neighbors are, and a committee's "
        "spread, calibrated by leaving kinds out",
        wrap=_auto,
        cite="https://arxiv.org/abs/2510.00721",
    ),
    UncertaintyMethod(
        name="fitted",
        summary="a fitted uncertainty from a file (path=...), on the model that it was fitted for",
        wrap=_fitted,
    ),
    _method(
        "ensemble",
        "ensemble:DeepEnsemble",
        "spread of several models of one kind",
        "https://arxiv.org/abs/1612.01474",
    ),
    _method(
        "pool",
        "ensemble:Pool",
        "spread of models of different families, element offsets fitted away",
        "https://arxiv.org/abs/2507.21297",
    ),
    _method(
        "last_layer",
        "last_layer:LastLayerLaplace",
        "Laplace approximation of the last layer (LLPR) with energy and force rows, or POPS",
        "https://arxiv.org/abs/2403.02251",
    ),
    _method(
        "shallow",
        "shallow:ShallowEnsemble",
        "many read-outs on one backbone",
        "https://arxiv.org/abs/2402.16621",
    ),
    _method(
        "latent",
        "latent:LatentDistanceMethod",
        "distance from the training atoms in the model's features, per element",
        "https://arxiv.org/abs/2407.10844",
    ),
    _method(
        "dropout",
        "stochastic:MonteCarloDropout",
        "dropout left on, for models that have it",
        "https://arxiv.org/abs/1506.02142",
    ),
    _method(
        "rotation",
        "stochastic:RotationSpread",
        "spread over rotated copies, for models that are not equivariant",
    ),
    _method(
        "native",
        "native:NativeUncertainty",
        "what the model states itself: mean-variance and confidence heads, committees",
    ),
)


@hookimpl
def register_uncertainties(register: RegisterUncertainty) -> None:
    """Offer the built-in methods."""
    for method in METHODS:
        register(method)
