"""A model on a device with memory of its own: a GPU, or the stand-in for one."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.devices import pick_device
from ase_nnp.models.potential import Potential
from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.standin import NAME, Standin
from ase_nnp.testing.subject import Subject, check, compare, relative

__all__: list[str] = []


@check(1e-6)
def check_runs_on_a_device(subject: Subject) -> float:
    """On a device with memory of its own a model gives the same answers and gradients."""
    try:
        standin = Standin() if subject.device == NAME else None
    except ConfigError as reason:
        raise NotApplicable(str(reason)) from reason

    before = subject.predict(subject.crystal(), subject.slab())
    slopes = parameter_gradients(subject.model, subject)
    with standin or nullcontext():
        device = pick_device(subject.device)
        moved = Subject(subject.family, copy.deepcopy(subject.model).to(device))
        after = moved.predict(subject.crystal(), subject.slab())
        steps = parameter_gradients(moved.model, subject)
        if standin is not None:
            subject.remarks["runs_on_a_device"] = _cost(moved, standin)

    figures = [compare(one, two) for one, two in zip(after, before, strict=True)]
    return max(*figures, relative(steps.cpu(), slopes.cpu()))


def parameter_gradients(model: Potential, subject: Subject) -> torch.Tensor:
    """Return the gradient of a loss on every float output of one call, as one row."""
    model = copy.deepcopy(model).eval()
    if isinstance(model, Conservative):
        model.differentiable = True  # as in training, without its random numbers
    output = model.compute(model.make_graph([subject.crystal()]), model.outputs)

    # Squares, so that no sum of forces cancels by symmetry.
    values = [v for v in output.values() if v.is_floating_point() and v.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not values or not parameters:
        return torch.zeros(0)
    loss = torch.stack([v.square().mean() for v in values]).sum()
    slopes: Any = torch.autograd.grad(loss, parameters, allow_unused=True)
    rows = [
        torch.zeros_like(p) if s is None else s for s, p in zip(slopes, parameters, strict=True)
    ]
    return torch.cat([row.detach().flatten() for row in rows])


def _cost(subject: Subject, standin: Standin) -> str:
    """Count what one evaluation of a ready graph asks of the device."""
    model = subject.model.eval()
    graph = model.make_graph([subject.crystal()])
    wanted = [p for p in model.outputs if p != "stress"]

    # Once before: tables that a model makes at its first call are no cost of a call.
    model.compute(graph, wanted)
    standin.clear()
    model.compute(graph, wanted)
    return f"{standin.operations.total()} operations, {standin.waits.total()} waits a call"
