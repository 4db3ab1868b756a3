"""Fit what :class:`ase_nnp_facet.doubt.Doubt` needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch.nn import functional as F

from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.descriptors import radial_descriptor

from .doubt import WRONG_ENERGY, WRONG_FORCE, Doubt, features, with_one

__all__ = ["add_points", "errors_and_signs", "fit"]

#: Training atoms kept of each element, chosen so that they spread over all there are.
POINTS = 400
BATCH = 16


def fit(
    model: Potential,
    train: Sequence[Atoms],
    held: Sequence[Atoms],
    kinds: Sequence[str],
    groups: Sequence[str],
    choose: Sequence[Atoms],
    *,
    recall: float = 0.9,
    coverage: float = 0.9,
) -> Doubt:
    """Return a :class:`Doubt` for the model.

    Parameters
    ----------
    model
        The Facet model.
    train
        Structures that the model was trained on, unlabeled or not.
    held, kinds, groups
        Labeled structures that trained nothing, the kind of each and the group of kinds it is in:
        every group counts alike, and every kind within it.
    choose
        Labeled structures of kinds that are neither trained nor tested on: of those that are very
        wrong the flag must mark the part ``recall``.
    recall
        That part.
    coverage
        Of the intervals: 1.645 std for 0.9.
    """
    doubt = Doubt([model], tables=_train_tables(model, train))
    wrong, atom_wrong, signs, atom_signs, owner = errors_and_signs(doubt, held)
    weight = _even(kinds, groups)
    energy = _formula(signs, wrong[:, 1], weight, coverage)
    force = _formula(atom_signs, atom_wrong, weight[owner], coverage)
    doubt.tables |= {"energy": energy, "force": force, "threshold": torch.tensor(1.0)}

    # The highest threshold that still finds enough of what is very wrong.
    wrong, _, _, _, _ = errors_and_signs(doubt, choose)
    very = (wrong[:, 0] > WRONG_FORCE) | (wrong[:, 1] > WRONG_ENERGY)
    score = _scores(doubt, choose)
    doubt.tables["threshold"] = torch.quantile(score[very], 1 - recall)
    return doubt


def add_points(doubt: Doubt, structures: Sequence[Atoms]) -> None:
    """Keep every atom of these training structures, beside those that spread over all there are.

    Points that spread leave gaps in which even a training structure lies far from the next one.
    What a model has learned most closely, such as the molecules that adsorption energies refer to,
    is then said to be unknown.
    """
    latent, radial, numbers, _ = _seen(doubt.base, structures)
    for kind, rows in (("latent", latent), ("radial", radial)):
        rows = rows - doubt.tables[f"{kind}.mean"].to(rows)
        for number in numbers.unique().tolist():
            own = rows[numbers == number] @ doubt.tables[f"{kind}.white.{number}"].to(rows)
            points = doubt.tables[f"{kind}.points.{number}"]
            doubt.tables[f"{kind}.points.{number}"] = torch.cat([points, own.to(points)])


def errors_and_signs(
    doubt: Doubt, structures: Sequence[Atoms]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Errors and signs of labeled structures.

    Returns errors of structures (B, 2: force root mean square, energy an atom), errors of atoms
    (N,), signs of structures, signs of atoms and the structure of each atom.
    """
    wrong, atom_wrong, signs, atom_signs, owner = [], [], [], [], []
    for start in range(0, len(structures), BATCH):
        part = list(structures[start : start + BATCH])
        graph = doubt.base.make_graph(part)
        result, seen = doubt.look(graph, ("energy", "forces"))
        label = np.concatenate([a.get_forces(apply_constraint=False) for a in part])
        square = (result["forces"].detach().double() - torch.as_tensor(label)).square().mean(dim=1)
        energy = torch.tensor([a.get_potential_energy() for a in part], dtype=torch.float64)
        count = graph.atoms_per_structure().double()
        mean = torch.zeros_like(count).index_add(0, graph.batch, square) / count
        gap = (result["energy"].detach().double() - energy).abs() / count
        wrong.append(torch.stack([mean.sqrt(), gap], dim=1))
        atom_wrong.append(square.sqrt())
        signs.append(seen.structures)
        atom_signs.append(seen.atoms)
        owner.append(graph.batch + start)
    return tuple(torch.cat(x) for x in (wrong, atom_wrong, signs, atom_signs, owner))  # type: ignore[return-value]


def _scores(doubt: Doubt, structures: Sequence[Atoms]) -> Tensor:
    graphs = [
        doubt.make_graph(list(structures[k : k + BATCH])) for k in range(0, len(structures), BATCH)
    ]
    return torch.cat([doubt.compute(g, ("ood_score",))["ood_score"].double() for g in graphs])


def _even(kinds: Sequence[str], groups: Sequence[str]) -> Tensor:
    """Weights of mean 1 under which every group counts alike, and every kind within its group."""
    pairs = [f"{g}|{k}" for g, k in zip(groups, kinds, strict=True)]
    _, place, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    sizes = {g: len({p for p in pairs if p.startswith(f"{g}|")}) for g in set(groups)}
    weight = 1.0 / (counts[place] * np.array([sizes[g] for g in groups]))
    return torch.as_tensor(weight / weight.mean())


def _formula(signs: Tensor, wrong: Tensor, weight: Tensor, coverage: float) -> Tensor:
    """Weights of log(std) so that, whatever the signs, the part ``coverage`` of errors is inside.

    Quantile regression: least squares and one factor would make the intervals of what is known as
    much too wide as those of what is unknown need it.
    """
    a = with_one(signs)
    middle, width = a[:, 1:].mean(dim=0), a[:, 1:].std(dim=0).clamp(min=1e-6)
    scaled = with_one((a[:, 1:] - middle) / width)
    y = wrong.clamp(min=1e-3 * float(wrong.median())).log()
    coefficients = torch.zeros(a.shape[1], dtype=a.dtype, requires_grad=True)
    search = torch.optim.LBFGS([coefficients], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        gap = y - scaled @ coefficients
        # The corner of the loss is rounded over a twentieth of a factor e.
        pinball = 0.05 * F.softplus(gap / 0.05) - (1 - coverage) * gap
        value = (weight * pinball).mean() + 1e-4 * coefficients[1:].square().sum()
        value.backward()
        return value

    search.step(loss)
    slopes = coefficients.detach()[1:] / width
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 + 0.5 * coverage))
    first = coefficients.detach()[0] - (slopes * middle).sum() - torch.log(normal)
    return torch.cat([first[None], slopes])


def _seen(model: Potential, structures: Sequence[Atoms]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (N, d), radial descriptors (N, r), atomic numbers (N,) and sums of features."""
    latent, radial, numbers, totals = [], [], [], []
    for start in range(0, len(structures), BATCH):
        graph = model.make_graph(list(structures[start : start + BATCH]))
        x = features(model, graph, ("energy",))[1]
        latent.append(x)
        radial.append(radial_descriptor(graph, min(model.cutoff, 6.0)).detach().double())
        numbers.append(graph.atomic_numbers)
        total = x.new_zeros((graph.num_structures, x.shape[1]))
        totals.append(total.index_add(0, graph.batch, x))
    return torch.cat(latent), torch.cat(radial), torch.cat(numbers), torch.cat(totals)


def _train_tables(model: Potential, train: Sequence[Atoms]) -> dict[str, Tensor]:
    """Points of each element in whitened features, and the factor of the energy's covariance."""
    latent, radial, z, phi = _seen(model, train)
    tables: dict[str, Tensor] = {}
    for kind, rows in (("latent", latent), ("radial", radial)):
        tables[f"{kind}.mean"] = rows.mean(dim=0)
        apart = rows - tables[f"{kind}.mean"]
        for number in z.unique().tolist():
            own = apart[z == number]
            tables[f"{kind}.white.{number}"] = white = _whitening(own, apart)
            tables[f"{kind}.points.{number}"] = _spread_out((own @ white).float())

    precision = phi.T @ phi
    precision += 1e-8 * torch.trace(precision) / len(precision) * torch.eye(len(precision)).to(phi)
    inverse = torch.linalg.inv(torch.linalg.cholesky(precision))
    tables["rigidity"] = inverse.T.contiguous()
    return tables


def _whitening(own: Tensor, all_rows: Tensor) -> Tensor:
    """Matrix after which the element's features have unit covariance; flat directions are held.

    A direction in which the element never varied would count without limit.
    """
    values, vectors = torch.linalg.eigh(torch.cov(own.T))
    floor = 1e-3 * float(torch.cov(all_rows.T).diagonal().mean())
    white: Tensor = vectors * values.clamp(min=floor).rsqrt()
    return white


def _spread_out(rows: Tensor) -> Tensor:
    """At most POINTS rows, each next one the farthest from those chosen."""
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20000]]
    if len(rows) <= POINTS:
        return rows
    chosen = [0]
    gap = (rows - rows[0]).norm(dim=1)
    while len(chosen) < POINTS:
        chosen.append(int(gap.argmax()))
        gap = torch.minimum(gap, (rows - rows[chosen[-1]]).norm(dim=1))
    return rows[chosen].clone()
