"""Evaluator: a model called for results, as it is, in lower precision or compiled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, PredictionError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.modes import compiled, evaluating, lowered
from ase_nnp.models.potential import Potential, model_name

__all__ = ["Evaluator"]


class Evaluator:
    """A model in evaluation mode; it is left as it was.

    Parameters
    ----------
    model
        Any potential.
    precision, compile
        As in :class:`ase_nnp.Predictor`.

    Raises
    ------
    ConfigError
        For options that are none or exclude each other, and a model that cannot be compiled.
    """

    def __init__(self, model: Potential, precision: str | None, compile: bool | str) -> None:
        if precision not in (None, "tf32", "bf16"):
            raise ConfigError(f"precision must be None, 'tf32' or 'bf16', not {precision!r}.")
        if compile is True and precision is not None:
            raise ConfigError(
                f"compile=True has the model's own precision, not {precision!r}: leave one out."
            )
        self.model, self.precision, self.compile = model, precision, compile
        self._energies: Callable[..., Any] | None = None
        self._code: Any = None
        if isinstance(compile, str):
            # Only the energies are compiled: torch.compile cannot trace through autograd.grad.
            function = getattr(model, "energies", None) or model.forward
            self._energies = torch.compile(function, dynamic=True, backend=compile)
        elif compile:
            from ase_nnp.models.compiled import CompiledModel

            self._code = CompiledModel(model)

    def __call__(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``, and the stress where it is one of them.

        Raises
        ------
        PredictionError
            The model does not give what it declares.
        """
        if self._code is not None:
            self._code.check_weights()
        if self._code is not None and self._code.pays(graph):
            output = self._code.compute(graph)
        else:
            with (
                torch.no_grad(),
                evaluating(self.model),
                lowered(self.precision, graph.positions.device),
                compiled(self.model, self._energies),
            ):
                output = self.model.compute(graph, properties)

        missing = [p for p in properties if p not in output]
        if missing:
            raise PredictionError(
                f"'{model_name(self.model)}' declares {', '.join(missing)} and did not return it."
            )
        return {k: v for k, v in output.items() if not k.startswith("stress") or k in properties}
