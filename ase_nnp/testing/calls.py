"""What a call may not do beside answering, and that each way of asking gets the same answer."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.subject import Figure, Subject, check, compare

__all__: list[str] = []


@check(1e-10)
def check_calls_leave_no_trace(subject: Subject) -> float:
    """A call changes neither its graph nor torch's random numbers; the next one agrees."""
    model = subject.model.eval()
    graph = model.make_graph([subject.crystal(), subject.slab()])
    before = _tensors(graph.clone())
    # With a stress the model sees a strained copy, and without one the graph itself.
    usual = [p for p in model.outputs if p != "stress"]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_211)  # no seed that a model would set again
        numbers = torch.get_rng_state()
        first, second, _ = (model.compute(graph, p) for p in (usual, usual, model.outputs))
        drawn = not torch.equal(torch.get_rng_state(), numbers)

    after = _tensors(graph)
    changed = [k for k, v in before.items() if not torch.equal(v, after[k])]
    if changed:
        raise AssertionError(f"the graph was changed in place: {', '.join(changed)}")
    # Dynamics and training draw from the same generator.
    if drawn:
        raise AssertionError("torch's global random numbers were drawn or seeded")
    return compare(arrays(second), arrays(first))


def _tensors(graph: AtomGraph) -> dict[str, Tensor]:
    fields = {**vars(graph), **graph.extra}
    return {k: v for k, v in fields.items() if isinstance(v, Tensor)}


def arrays(output: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {k: v.detach().double().numpy() for k, v in output.items()}


@check(1e-9)
def check_reads_only_what_it_declares(subject: Subject) -> float:
    """Tags, fixed atoms, charge and spin change nothing unless the model says it reads them."""
    from ase.constraints import FixAtoms

    atoms = subject.crystal()
    before = subject.predict(atoms)[0]
    read = subject.model.required_inputs
    if "tags" not in read:
        atoms.set_tags(range(len(atoms)))
    if "fixed" not in read:
        atoms.set_constraint(FixAtoms([0]))
    atoms.info |= {key: 1 for key in ("charge", "spin") if key not in read}
    with warnings.catch_warnings():
        # That the charge counts for nothing is what is asked here.
        warnings.filterwarnings("ignore", "A structure has a charge")
        after = subject.predict(atoms)[0]
    return compare(after, before)


@check(1e-8)
def check_requests_agree(subject: Subject) -> float:
    """A property is the same asked for alone, with all others, and as training computes it."""
    model = subject.model
    predictor = Predictor(model, max_edges=10**9, max_atoms=10**9)
    together = predictor([subject.crystal()], model.outputs)[0]
    alone = {p: predictor([subject.crystal()], [p])[0][p] for p in model.outputs}
    figures: list[float] = [compare(alone, together)]

    if hasattr(model, "differentiable"):
        twin = _as_in_training(copy.deepcopy(model))
        trained = arrays(twin.compute(twin.make_graph([subject.crystal()]), model.outputs))
        rows = {k: v if k in model.per_atom else v[0] for k, v in trained.items()}
        figures.append(compare({k: rows[k] for k in together}, together))
    return max(figures)


# ReLU has corners, which finite differences may step across.
@check(1e-4)
def check_gradients_reach_the_weights(subject: Subject) -> float:
    """Gradients of every output in all weights are finite differences, so training learns."""
    if not getattr(subject.family, "trainable", True):
        raise NotApplicable("the family is not for training")
    model = copy.deepcopy(subject.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise NotApplicable("no weights")

    # One direction in the space of all weights: a weight that was forgotten is a part of it.
    generator = torch.Generator().manual_seed(0)
    way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * _size(p) for p in parameters]
    step, moved = 1e-5, []
    for sign in (1, -1):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            own = (p for p in twin.parameters() if p.requires_grad)
            for p, direction in zip(own, way, strict=True):
                p.add_(direction, alpha=sign * step)
        moved.append(_squares(twin, subject))

    figures = [0.0]
    for name, square in _squares(model, subject).items():
        # Relative to the output: a small stress counts like a large energy.
        scale = float(square.detach()) or 1.0
        numeric = float((moved[0][name] - moved[1][name]).detach()) / (2 * step * scale)
        analytic = 0.0
        if square.requires_grad:
            slopes = torch.autograd.grad(square, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(slopes, way, strict=True)
            analytic = sum(float((g * d).sum()) for g, d in pairs if g is not None) / scale
        figures.append(abs(analytic - numeric) / max(abs(analytic), abs(numeric), 1e-3))
    return max(figures)


def _squares(model: Potential, subject: Subject) -> dict[str, Tensor]:
    """Mean square of every float output of one call, as training would differentiate it."""
    model = _as_in_training(model)
    output = model.compute(model.make_graph([subject.crystal()]), model.outputs)
    return {k: v.square().mean() for k, v in output.items() if v.is_floating_point()}


def _as_in_training(model: Potential) -> Any:
    """Make the model keep the graph of its results as in training, without random numbers."""
    made: Any = model.eval()
    if hasattr(made, "differentiable"):
        made.differentiable = True
    else:
        made.training = True  # the model alone: what drops values at random is a part of it
    return made


def _size(parameter: Tensor) -> float:
    return float(parameter.detach().abs().mean()) or 1.0


@check(0.0)
def check_declared_elements_are_answered(subject: Subject) -> float:
    """Every element that the model declares, or any if it declares none, has an energy."""
    from ase.build import bulk

    known = sorted(subject.model.elements or range(1, 119))
    crystals = [bulk("Cu", "fcc", a=5.0) for _ in known]
    for atoms, z in zip(crystals, known, strict=True):
        atoms.numbers[:] = z
    # One batch; one by one where elements are not declared and refused for what they lack.
    batches = [crystals] if subject.model.elements else [[atoms] for atoms in crystals]
    for batch in batches:
        try:
            Predictor(subject.model)(batch, [subject.scalar])
        except Exception as error:
            if isinstance(error, StructureError) and not subject.model.elements:
                continue
            raise AssertionError(
                f"one of {len(known)} elements fails; the model's elements are "
                f"{'not declared' if not subject.model.elements else 'declared'}: {error!r}"
            ) from error
    return 0.0


@check(0.0)
def check_results_depend_on_the_atoms(subject: Subject) -> float:
    """No result is the same whatever the atoms are."""
    model = copy.deepcopy(subject.model)
    generator = torch.Generator().manual_seed(0)
    # Fresh weights may be zero, and then so is what they give.
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.1 * _size(p))

    # Bonds as short as in a molecule: a term may end where atoms begin to touch.
    dense = subject.molecule()
    dense.set_cell([3.6, 3.8, 4.0])
    dense.pbc = True
    other = dense[[1, 0, 4, 2, 3]]
    other.rattle(0.1, seed=1)
    one, two = (
        arrays(model.compute(model.make_graph([atoms]), model.outputs)) for atoms in (dense, other)
    )
    same = [name for name in one if np.array_equal(one[name], two[name])]
    figure = Figure(len(same))
    figure.of = ", ".join(same)
    return figure
