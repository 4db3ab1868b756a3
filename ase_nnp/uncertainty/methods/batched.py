"""Running members of one architecture at once, where that is possible and wins."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.energy_gradients import with_strain
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

__all__ = ["Batched"]

MODES = ("auto", "batched", "sequential")


class Batched:
    """Evaluate members on their graphs; stacked outputs, members first.

    ``choice`` says what ``mode="auto"`` settled on, and ``reason`` why.
    """

    def __init__(self, mode: str = "auto") -> None:
        if mode not in MODES:
            raise UncertaintyError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
        self.mode, self.choice, self.reason = mode, "", ""

    def __call__(
        self, members: Sequence[Potential], graphs: Sequence[AtomGraph], properties: Collection[str]
    ) -> dict[str, Tensor]:
        """Return each property of all members."""
        if self.mode == "sequential" or self.choice == "sequential":
            return sequential(members, graphs, properties)
        if self.mode == "batched":
            obstacle = _obstacle(members, graphs)
            if obstacle:
                raise UncertaintyError(f"These members cannot be batched: {obstacle}.")
            return batched(members, graphs[0], properties)
        if self.choice == "batched":
            return batched(members, graphs[0], properties)
        return self._decide(members, graphs, properties)

    def _decide(
        self, members: Sequence[Potential], graphs: Sequence[AtomGraph], properties: Collection[str]
    ) -> dict[str, Tensor]:
        """Time both once, keep the faster; a batch that differs or fails is not used."""
        plain = sequential(members, graphs, properties)
        self.choice, self.reason = "sequential", _obstacle(members, graphs)
        if self.reason:
            return plain
        try:
            joint = batched(members, graphs[0], properties)
        except Exception as error:  # functorch and models raise all sorts
            self.reason = f"torch.func cannot run this model: {type(error).__name__}"
            return plain

        # Joint kernels round differently; what differs by more is another result.
        scale = {k: float(v.abs().max()) + 1e-12 for k, v in plain.items()}
        if any(float((joint[k] - v).abs().max()) > 1e-4 * scale[k] for k, v in plain.items()):
            self.reason = "the batched results differ by more than 1e-4"
            return plain

        device = graphs[0].positions.device
        slow = _time(lambda: sequential(members, graphs, properties), device)
        fast = _time(lambda: batched(members, graphs[0], properties), device)
        # Timing is noisy, and the sequential path needs less memory.
        if fast < 0.97 * slow:
            self.choice = "batched"
        self.reason = f"batched {fast:.2e} s, sequential {slow:.2e} s"
        return plain

    def __getstate__(self) -> dict[str, Any]:
        return {"mode": self.mode, "choice": "", "reason": ""}  # another machine decides anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def sequential(
    members: Sequence[Potential], graphs: Sequence[AtomGraph], properties: Collection[str]
) -> dict[str, Tensor]:
    """One member after the other."""
    results = [m.compute(g, properties) for m, g in zip(members, graphs, strict=True)]
    like = results[0]
    return {k: torch.stack([f[k].detach().to(like[k]) for f in results]) for k in properties}


class _Energies(nn.Module):
    """A conservative model whose forward is its energies alone."""

    def __init__(self, model: Potential) -> None:
        super().__init__()
        self.model = model

    def forward(self, graph: AtomGraph) -> Any:
        return self.model.energies(graph)  # type: ignore[operator]


def batched(
    members: Sequence[Potential], graph: AtomGraph, properties: Collection[str]
) -> dict[str, Tensor]:
    """All members at once by ``torch.func.vmap`` over their stacked weights."""
    from torch.func import functional_call, stack_module_state, vmap

    first = members[0]
    simple = type(first).compute is Conservative.compute
    wrapped = [_Energies(m) if simple else m for m in members]
    weights, buffers = stack_module_state(wrapped)  # type: ignore[arg-type]
    weights = {k: v.detach() for k, v in weights.items()}
    # Each call brings the weights: the module itself needs none.
    hollow = copy.deepcopy(wrapped[0]).to("meta") if weights else wrapped[0]
    if not simple:

        def direct(w: Any, b: Any) -> dict[str, Tensor]:
            result: dict[str, Tensor] = functional_call(hollow, (w, b), (graph,))
            return {k: result[k] for k in properties}

        return vmap(direct)(weights, buffers)  # type: ignore[no-any-return]

    def energies(g: AtomGraph) -> Any:
        return vmap(lambda w, b: functional_call(hollow, (w, b), (g,)))(weights, buffers)

    return _joint_gradients(energies, graph, properties, len(members))


def _joint_gradients(
    energies: Callable[[AtomGraph], Any], graph: AtomGraph, properties: Collection[str], count: int
) -> dict[str, Tensor]:
    """Gradients of every member's energy by one batched backward pass."""
    forces, stress = "forces" in properties, "stress" in properties
    if not forces and not stress:
        return {k: v.detach() for k, v in _named(energies(graph)).items() if k in properties}

    wanted = [graph.positions.detach().requires_grad_(True)]
    with torch.enable_grad():
        moved = graph.replace(positions=wanted[0])
        if stress:
            moved, strain = with_strain(graph, wanted[0])
            wanted.append(strain)
        result = _named(energies(moved))
        total = result["energy"].sum(dim=1)  # (M,)
        # A row for each member: the members' energies do not depend on each other's weights.
        seed = torch.eye(count, dtype=total.dtype, device=total.device)
        grads = torch.autograd.grad(total, wanted, seed, is_grads_batched=True)

    outputs = {k: v.detach() for k, v in result.items() if k in properties}
    if forces:
        outputs["forces"] = -grads[0]
    if stress:
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        # A molecule has no volume, and a stress of zero instead of NaN.
        safe = torch.where(volume > 0, volume, torch.ones_like(volume))
        outputs["stress"] = torch.where(volume > 0, grads[1] / safe, torch.zeros_like(grads[1]))
    return outputs


def _named(result: Any) -> dict[str, Tensor]:
    return dict(result) if isinstance(result, dict) else {"energy": result}


def _obstacle(members: Sequence[Potential], graphs: Sequence[AtomGraph]) -> str:
    first = members[0]
    if any(type(m) is not type(first) for m in members):
        return "they are of different classes"
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in members]
    if any(s != shapes[0] for s in shapes) or not shapes[0]:
        return "their weights differ in shape, or there are none"
    if any(dict(m.config) != dict(first.config) for m in members):
        return "their configurations differ"
    return "" if all(g is graphs[0] for g in graphs) else "they need different graphs"


def _time(run: Callable[[], Any], device: torch.device) -> float:
    # The smallest of three: whatever else runs can only slow it down.
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
