"""What client programs ask of a calculator beyond results: the Hessian, features of atoms.

The names ``get_hessian`` and ``get_descriptors`` and the shapes are those that janus-core, matcalc
and other users of machine-learned potentials expect.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from torch import Tensor

from ase_nnp.models.conservative import Conservative
from ase_nnp.models.modes import evaluating, usual_default_dtype
from ase_nnp.models.potential import Potential, model_name
from ase_nnp.models.sums import SumPotential
from ase_nnp.uncertainty.methods.descriptors import atom_features
from ase_nnp.uncertainty.methods.latent import FeatureReader

__all__ = ["descriptors", "hessian"]


@usual_default_dtype()
def hessian(
    model: Potential, atoms: Atoms, rows: Sequence[int] | None = None
) -> NDArray[np.float64]:
    r"""Return the second derivatives of the energy in the positions, by automatic differentiation.

    .. math:: H_{(n\alpha), m, \beta} =
              \frac{\partial^2 E}{\partial r_{n\alpha} \, \partial r_{m\beta}}

    Evaluated in float64 whatever the model's precision. Of an ensemble, the mean of the members'.

    Parameters
    ----------
    model
        A potential whose forces are the gradient of its energy.
    atoms
        One structure; constraints are not applied.
    rows
        Atoms whose rows are wanted; all by default. A row costs one backward pass.

    Returns
    -------
    numpy.ndarray
        (3 n, N, 3) in eV/Angstrom^2, of the n atoms of ``rows``.

    Raises
    ------
    PropertyNotImplementedError
        The forces are no gradient, or the model cannot be differentiated twice.
    """
    if isinstance(model, Conservative):
        return _hessian_of(model, atoms, range(len(atoms)) if rows is None else rows)
    if isinstance(model, SumPotential):
        parts = [weight * hessian(term, atoms, rows) for _, _, weight, term in model.terms()]
        return np.sum(parts, axis=0)  # type: ignore[no-any-return]

    members = list(getattr(model, "potentials", ()))
    if not members:
        raise PropertyNotImplementedError(
            f"'{model_name(model)}' has no Hessian: its forces are not the gradient of an energy "
            "that can be differentiated. ase.vibrations takes finite differences of its forces."
        )
    return np.mean([hessian(one, atoms, rows) for one in members], axis=0)  # type: ignore[no-any-return]


def _hessian_of(model: Conservative, atoms: Atoms, wanted: Sequence[int]) -> NDArray[np.float64]:
    # A copy: second derivatives in float32 keep three digits, and the model stays as it was.
    double = copy.deepcopy(model).to(torch.float64)
    double.differentiable = True
    graph = double.make_graph([atoms])
    positions = graph.positions.clone().requires_grad_(True)

    with evaluating(double), torch.enable_grad():
        results = double.compute(graph.replace(positions=positions), ("energy", "forces"))
        forces = results["forces"]
        if not forces.requires_grad:  # no atom sees another
            return np.zeros((3 * len(wanted), len(atoms), 3))

        # One backward pass a component: vmap over them would hold all of their graphs at a time.
        rows = [_row(force, positions) for force in forces[list(wanted)].reshape(-1)]
    return torch.stack(rows).cpu().numpy()


def _row(force: Tensor, positions: Tensor) -> Tensor:
    """Minus the gradient of one component of the forces, (N, 3)."""
    try:
        (gradient,) = torch.autograd.grad(force, positions, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise PropertyNotImplementedError(
            f"The model cannot be differentiated twice: {error}"
        ) from error
    return torch.zeros_like(positions) if gradient is None else -gradient


@usual_default_dtype()
def descriptors(
    model: Potential, atoms: Atoms, invariants_only: bool = True, num_layers: int = -1
) -> NDArray[np.float64]:
    """Return features of atoms in the model that do not turn with the structure.

    Parameters
    ----------
    model
        Any potential.
    atoms
        One structure.
    invariants_only, num_layers
        Accepted for programs that pass them; only invariant features of the last layer exist.

    Returns
    -------
    numpy.ndarray
        (N, F): the input of the last layer that has one invariant row per atom; for a model
        without one, Gaussians of the neighbor distances.

    Raises
    ------
    PropertyNotImplementedError
        Features that are not invariant, or of a certain number of layers, were asked for.
    """
    if not invariants_only or num_layers not in (-1, None):
        raise PropertyNotImplementedError(
            "Only invariant features of the last layer are given: invariants_only=True and "
            "num_layers=-1."
        )

    # Error bars change no feature of the network within.
    inner = model.unwrapped
    graph = inner.make_graph([atoms])
    with evaluating(inner):
        reader = FeatureReader(atom_features(inner, graph))
        _, features = reader.run(inner, graph, ("energy",))
    return features.double().cpu().numpy()  # type: ignore[no-any-return]
