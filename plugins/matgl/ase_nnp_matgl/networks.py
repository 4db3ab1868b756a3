"""Which of matgl's classes may be made, and how they are made quietly and in full precision."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

import torch
from torch import nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.quiet import quiet
from ase_nnp.registry.config import changes
from ase_nnp.registry.kinds import check_kinds

__all__ = ["NETWORKS", "make_network"]

#: The classes that a configuration or a file may name; nothing else is ever instantiated.
NETWORKS = ("M3GNet", "CHGNet", "TensorNet", "SO3Net", "QET")
#: What makes a class a potential, where its own default is a property of the crystal.
AS_POTENTIAL: dict[str, dict[str, Any]] = {
    "M3GNet": {"is_intensive": False},
    "CHGNet": {},
    "TensorNet": {"is_intensive": False, "use_warp": False},
    "SO3Net": {"is_intensive": False},
    "QET": {"use_warp": False},
}
#: Arguments that cannot stand in a plain configuration or have no meaning here.
LEFT_OUT = frozenset({"self", "kwargs", "dtype", "element_types", "return_features"})

#: Where more takes minutes: symbolic functions, and parts that repeat.
LARGEST = {"max_l": 8, "lmax": 8, "max_n": 32, "nmax": 32, "max_f": 32} | dict.fromkeys(
    ("nblocks", "num_blocks", "niters_set2set", "nlayers_set2set", "nlayers_readout"), 100
)


def make_network(
    name: str, hyperparameters: Mapping[str, Any], element_types: Sequence[str] | None
) -> nn.Module:
    """Return a network of matgl with fresh weights.

    Parameters
    ----------
    name
        One of :data:`NETWORKS`.
    hyperparameters
        Arguments of that class.
    element_types
        Symbols in the order of the embedding; matgl's 89 elements when None.

    Raises
    ------
    ConfigError
        An unknown class or argument, or a model that is no potential.
    """
    if name not in NETWORKS:
        raise ConfigError(f"model is {name!r}; matgl's potentials are: {', '.join(NETWORKS)}.")
    with quiet():
        import matgl.models

        kind = getattr(matgl.models, name)
    parameters = inspect.signature(kind.__init__).parameters
    usual = {key: p.default for key, p in parameters.items() if key not in LEFT_OUT}
    known = set(usual)
    unknown = sorted(set(hyperparameters) - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], sorted(known), n=1)
        meant = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"matgl's {name} has no argument {', '.join(unknown)}.{meant}")
    full = {**AS_POTENTIAL[name], **hyperparameters}
    # CHGNet's module imports Sequence for type checkers only.
    kinds = get_type_hints(kind.__init__, localns={"Sequence": Sequence})
    check_kinds(f"matgl's {name}", full, kinds, LARGEST)
    for key in ("cutoff", "threebody_cutoff", "width"):
        if not full.get(key, 1.0) > 0:
            raise ConfigError(f"matgl's {name}: {key} is {full[key]!r}; more than 0 was wanted.")
    if full.get("is_intensive") or full.get("target_property", "atomwise") != "atomwise":
        raise ConfigError(
            f"This {name} predicts a property of the whole structure, not an energy: "
            "is_intensive must be False and target_property 'atomwise'."
        )
    if full.get("include_state"):
        raise ConfigError("include_state=True wants state features, which atoms do not have.")
    if element_types is not None:
        full["element_types"] = tuple(element_types)
    with quiet(), double_precision():
        try:
            network = kind(**full)
        except (KeyError, ValueError, TypeError, AssertionError) as error:
            said = changes(hyperparameters, usual)
            raise ConfigError(f"matgl cannot build this {name} with {said}: {error}.") from error
    for parameter in network.parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise ConfigError(f"This {name} has layers of unknown size, which cannot be saved.")
    return network  # type: ignore[no-any-return]


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Let matgl make its constant tables in float64, whatever the weights are later."""
    import matgl

    before = matgl.float_th
    matgl.float_th = torch.float64
    try:
        yield
    finally:
        matgl.float_th = before
