"""Training and evaluation mode: what each switches, and what neither may change."""

from __future__ import annotations

import copy

import torch

from ase_nnp.testing.calls import arrays
from ase_nnp.testing.subject import Subject, check, compare

__all__: list[str] = []


@check(1e-10)
def check_training_mode_comes_and_goes(subject: Subject) -> float:
    """train() makes weights learn, eval() brings the answers back; no other answer changes."""
    twin = copy.deepcopy(subject.model).eval()
    graph = twin.make_graph([subject.crystal(), subject.crystal()])
    learning = {name for name, p in twin.named_parameters() if p.requires_grad}
    state = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    before = arrays(twin.compute(graph, twin.outputs))

    # Loaded models are frozen, and training one further begins with train().
    twin.freeze().train()
    lost = learning - {name for name, p in twin.named_parameters() if p.requires_grad}
    if lost or not twin.training:
        raise AssertionError(f"train() after freeze() does not bring back {sorted(lost) or 'it'}")
    with torch.random.fork_rng(devices=[]):
        numbers = torch.get_rng_state()
        first, second = (arrays(twin.compute(graph, twin.outputs)) for _ in range(2))
        drawn = not torch.equal(torch.get_rng_state(), numbers)

    # Dropout draws numbers and BatchNorm counts what it sees: answers in training are their own.
    counted = any(not torch.equal(t, state[name]) for name, t in twin.state_dict().items())
    own = drawn or counted or compare(first, second) > 0
    figures = [0.0 if own else compare(first, before)]
    twin.load_state_dict(state)
    left = [name or "the model" for name, m in twin.eval().named_modules() if m.training]
    if left:
        raise AssertionError(f"after eval() these are in training mode: {', '.join(left)}")
    return max(*figures, compare(arrays(twin.compute(graph, twin.outputs)), before))
