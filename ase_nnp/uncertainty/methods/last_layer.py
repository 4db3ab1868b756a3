r"""Last-layer Laplace approximation (prediction rigidity), with energy and force rows, and POPS.

With a linear read-out :math:`E = w \cdot \Phi + \ldots`, :math:`J_k = -\partial\Phi/\partial x_k`,

.. math:: H = \lambda I + \sum_n \Phi_n \Phi_n^T / s_E^2 + \sum_{n,k} J_{nk} J_{nk}^T / s_F^2,
          \quad \Sigma = H^{-1}

the variance of an energy is :math:`\Phi^T \Sigma \Phi` and that of a force component
:math:`J_k^T \Sigma J_k` (Bigi et al. 2024, arXiv:2403.02251).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.methods.features import (
    LastLayer,
    ParameterLayer,
    find_last_layer,
    layer_from,
)
from ase_nnp.uncertainty.methods.jacobian import feature_jacobian, plain_features
from ase_nnp.uncertainty.progress import tracked

__all__ = ["LastLayerLaplace"]


class LastLayerLaplace(UncertainPotential):
    """Energy, atomic, force and stress stds of a single model, after training.

    Parameters
    ----------
    members
        One potential with a linear last layer.
    train
        Labeled training structures (labels are used by ``covariance="pops"`` only).
    noise
        ``{"energy": eV, "forces": eV/Angstrom}`` expected errors: weights of the two kinds of
        rows. Without ``"forces"`` no force rows are used.
    covariance
        ``"laplace"``, or ``"pops"`` (Swinburne and Perez 2025, arXiv:2502.07104), which spans the
        weights that would fit each training row exactly.
    force_structures
        Structures whose force rows are taken, drawn evenly over ``train``; they stand for the
        others, so their rows count more. A force row of every feature needs a backward pass, and
        64 structures give many more rows than there are features. None takes the rows of all, with
        a progress bar.
    ridge
        lambda over ``trace(H) / d``.
    force_std
        ``"exact"`` (one batched vector-Jacobian product with every feature), ``"sampled"`` (with
        ``samples`` draws of the weights; relative error ``1 / sqrt(2 samples)``) or ``"none"``.
    samples, seed
        Number of sampled read-outs and their seed.
    fitted
        State of an earlier fit, instead of ``train``.
    options
        Of :class:`UncertainPotential`.
    """

    method = "last_layer"

    def __init__(
        self,
        members: Sequence[Potential],
        *,
        train: Sequence[Atoms] | None = None,
        noise: Mapping[str, float] | None = None,
        covariance: str = "laplace",
        force_structures: int | None = 64,
        ridge: float = 1e-8,
        force_std: str = "exact",
        samples: int = 16,
        seed: int = 0,
        fitted: tuple[LastLayer | ParameterLayer, Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(members, **options)
        if covariance not in ("laplace", "pops"):
            raise UncertaintyError(f"covariance must be 'laplace' or 'pops', not {covariance!r}.")
        if force_std not in ("exact", "sampled", "none"):
            raise UncertaintyError(f"force_std: 'exact', 'sampled' or 'none', not {force_std!r}.")
        self.noise = dict({"energy": 0.02, "forces": 0.06} if noise is None else noise)
        self.covariance, self.ridge = covariance, ridge
        self.force_structures = force_structures
        self.force_std, self.samples, self.seed = force_std, samples, seed

        if fitted is not None:
            self.layer, self.factor = fitted
        elif not train:
            raise UncertaintyError("The last layer needs the training structures: train=[...].")
        else:
            self.layer = _locate(self.base, train)
            self.factor = self._fit(train)

        outputs = [*self.base.outputs, "energy_std"]
        outputs += ["energies_std"] if self.layer.rows == "atom" else []
        if force_std != "none" and "forces" in outputs:
            outputs += ["forces_std", "forces_std_norm"]
            outputs += ["stress_std"] if "stress" in outputs else []
        self.outputs = tuple(outputs)

    def _fit(self, train: Sequence[Atoms]) -> Tensor:
        """Return a square root S of the covariance, (d, d) with ``Sigma = S S^T``, float64."""
        chosen = with_force_rows(train, self.force_structures, self.seed)
        precision = accumulate(self.base, self.layer, train, self.noise, chosen)
        width = len(precision)
        scale = float(torch.trace(precision)) / width
        if scale == 0:
            raise UncertaintyError("All features of the training structures are zero.")

        # Over the mean eigenvalue, so that the ridge is a plain number.
        precision += self.ridge * scale * torch.eye(width, dtype=torch.float64)
        lower: Tensor = torch.linalg.cholesky(precision)
        if self.covariance == "laplace":
            eye = torch.eye(width, dtype=torch.float64)
            inverse: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
            return inverse.T.contiguous()

        corrections = pops_corrections(self.base, self.layer, train, self.noise, lower, chosen)

        # Fewer rows than features leave eigenvalues of zero, which rounding makes negative.
        values, vectors = torch.linalg.eigh(corrections)
        root: Tensor = vectors * values.clamp(min=0).sqrt()
        return root

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The model's results and the spreads asked for."""
        plain = [p for p in self.base.outputs if p in properties or p == "energy"]
        slopes = any(p.startswith(("forces_std", "forces_i", "stress_std")) for p in properties)
        root = self.factor.to(graph.positions.device)
        if not slopes or self.force_std == "none":
            result, atoms, total = plain_features(self.base, self.layer, graph, plain)
            return result | self._energy_parts(atoms, total, root)

        directions = root
        if self.force_std == "sampled":
            # The same draws at every call: an error bar must not flicker from step to step.
            generator = torch.Generator().manual_seed(self.seed)
            draws = torch.randn(root.shape[1], self.samples, generator=generator, dtype=root.dtype)
            directions = root @ draws.to(root.device) / self.samples**0.5

        stress = any(p.startswith("stress") for p in properties)
        slope = feature_jacobian(self.base, self.layer, graph, plain, directions, stress=stress)
        result = dict(slope.result) | self._energy_parts(slope.atoms, slope.total, root)
        result["forces_std"] = slope.forces.square().sum(dim=0).sqrt()
        if slope.stress is not None:
            # The order of ASE: xx, yy, zz, yz, xz, xy.
            voigt = slope.stress[:, :, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            result["stress_std"] = voigt.square().sum(dim=0).sqrt()
        return result

    def _energy_parts(self, atoms: Tensor | None, total: Tensor, root: Tensor) -> dict[str, Tensor]:
        rows = total.detach() if atoms is None else torch.cat([total.detach(), atoms.detach()])
        std = torch.linalg.vector_norm(rows.double() @ root, dim=1).to(total.dtype)
        if atoms is None:
            return {"energy_std": std}
        return {"energy_std": std[: len(total)], "energies_std": std[len(total) :]}

    def sample_weights(self, count: int, seed: int = 0) -> Tensor:
        """Draws (count, d) of the last layer's weights about their present value."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, self.factor.shape[1], generator=generator, dtype=torch.float64)
        weight = self.layer.weight(self.base)
        center: Tensor = weight.detach().double().cpu().reshape(1, -1)
        return center + noise @ self.factor.T

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The root of the covariance; no structures."""
        layer = self.layer
        values = {
            **super().state()[1],
            "layer": layer.state(),
            "noise": self.noise,
            "covariance": self.covariance,
            "force_structures": self.force_structures,
            "ridge": self.ridge,
            "force_std": self.force_std,
            "samples": self.samples,
            "seed": self.seed,
        }
        return {"factor": self.factor}, values

    @classmethod
    def from_state(
        cls, base: Potential, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> Self:
        """Read what :meth:`state` gave."""
        options = dict(values)
        return cls([base], fitted=(layer_from(options.pop("layer")), tensors["factor"]), **options)


def _locate(model: Potential, train: Sequence[Atoms]) -> LastLayer | ParameterLayer:
    """Find the layer on a probe of the training structures that holds all their elements."""
    probe: list[Atoms] = []
    seen: set[int] = set()
    for atoms in train:
        if not probe or set(atoms.numbers.tolist()) - seen:
            probe.append(atoms.copy())
            seen |= set(atoms.numbers.tolist())
    second = train[-1].copy()
    # Of another size, so that a sum over atoms is told from a mean.
    second = second[:-1] if len(second) > 1 else second.repeat((2, 1, 1))
    return find_last_layer(model, model.make_graph([*probe, second]))


def with_force_rows(train: Sequence[Atoms], count: int | None, seed: int = 0) -> set[int]:
    """Return the structures whose force rows are taken: one from each of ``count`` equal parts."""
    if count is None or count >= len(train):
        return set(range(len(train)))
    if count < 1:
        raise UncertaintyError(f"force_structures is {count}; at least 1, or None for all.")
    # One of each part, not any: a training set is often ordered by temperature or composition.
    random = np.random.default_rng(seed)
    return {int(random.choice(part)) for part in np.array_split(np.arange(len(train)), count)}


def _rows(
    model: Potential, layer: LastLayer | ParameterLayer, atoms: Atoms, forces: bool
) -> dict[str, Tensor]:
    """Rows (n, d) of the linear problem of one structure, not yet over their noise."""
    graph = model.make_graph(atoms)
    if not forces:
        return {"energy": plain_features(model, layer, graph, ("energy",))[2].double()}
    features = feature_jacobian(model, layer, graph, ("energy",), None, stress=False)
    jacobian = features.forces.reshape(len(features.forces), -1).T
    return {"energy": features.total.detach().double(), "forces": jacobian.double()}


def accumulate(
    model: Potential,
    layer: LastLayer | ParameterLayer,
    train: Sequence[Atoms],
    noise: Mapping[str, float],
    chosen: Collection[int],
) -> Tensor:
    """Sum of the outer products of all rows over their noise variance, (d, d) float64.

    Parameters
    ----------
    chosen
        Structures whose force rows are taken; they are weighted to stand for all.
    model, layer
        The potential and its last layer.
    train
        Structures.
    noise
        Standard deviation of the labels.
    """
    # Added up structure by structure: the rows of all forces at a time are gigabytes.
    total: Tensor | None = None
    weight = {"energy": 1.0, "forces": len(train) / max(1, len(chosen))}
    for number, atoms in enumerate(tracked(train, "rows of the last layer")):
        rows_by_kind = _rows(model, layer, atoms, "forces" in noise and number in chosen)
        for kind, rows in rows_by_kind.items():
            if kind in noise:
                part = (rows.T @ rows * (weight[kind] / noise[kind] ** 2)).cpu()
                total = part if total is None else total + part
    if total is None:
        raise UncertaintyError("noise must give 'energy', 'forces' or both.")
    return total


def linear_problem(
    model: Potential,
    layer: LastLayer | ParameterLayer,
    train: Sequence[Atoms],
    noise: Mapping[str, float],
    chosen: Collection[int] | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows (n, d) of each kind and what the model misses of the labels, (n,), in float64.

    Force rows are those of the structures ``chosen``, default all.
    """
    from ase_nnp.models.predictor import Predictor

    tables: dict[str, tuple[list[Tensor], list[Tensor]]] = {k: ([], []) for k in noise}
    predictions = Predictor(model)(train, tuple(noise), progress=False)
    for number, (atoms, predicted) in enumerate(zip(train, predictions, strict=True)):
        slopes = "forces" in noise and (chosen is None or number in chosen)
        rows = _rows(model, layer, atoms, slopes)
        for kind in noise:
            if kind not in rows:
                continue
            try:
                if kind == "energy":
                    true = torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)
                else:
                    true = torch.as_tensor(atoms.get_forces(apply_constraint=False)).reshape(-1)
            except Exception as error:  # a calculator may raise anything
                raise UncertaintyError(f"This needs labeled structures: {error}") from error

            missed = true.double() - torch.as_tensor(predicted[kind]).double().reshape(-1)
            tables[kind][0].append(rows[kind].cpu())
            tables[kind][1].append(missed)
    return {k: (torch.cat(rows), torch.cat(missed)) for k, (rows, missed) in tables.items()}


def pops_corrections(
    model: Potential,
    layer: LastLayer | ParameterLayer,
    train: Sequence[Atoms],
    noise: Mapping[str, float],
    lower: Tensor,
    chosen: Collection[int],
) -> Tensor:
    """Mean outer product of ``dw_n = H^-1 J_n e_n / (J_n^T H^-1 J_n)`` over all rows."""
    total, count = torch.zeros_like(lower), 0.0
    problem = linear_problem(model, layer, train, noise, chosen)
    for kind, (rows, missed) in problem.items():
        solved = torch.cholesky_solve(rows.T, lower).T
        leverage = (rows * solved).sum(dim=1)
        # A row that no weights can move has no correction; its quotient would be infinite.
        seen = leverage > 1e-12 * float(leverage.max())
        step = solved[seen] * (missed[seen] / leverage[seen])[:, None]

        weight = len(train) / max(1, len(chosen)) if kind == "forces" else 1.0
        total, count = total + weight * (step.T @ step), count + weight * int(seen.sum())
    return total / max(count, 1.0)
