"""The D3 energy of a batch: coordination numbers, C6 by environment, damped pairs and triples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ase import units
from torch import Tensor

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.sums import within

from .parameters import parameters_of
from .triples import triple_energies

__all__ = ["D3"]

#: Steepness of the count of neighbors, and of the weight of reference systems (Grimme 2010).
K1, K3 = 16.0, 4.0


class D3(Conservative):
    r"""Dispersion energy of Grimme et al., doi:10.1063/1.3382344, over any periodicity.

    .. math:: E = -\frac{1}{2} \sum_{ij} C_6^{ij} \left[ s_6 f_6(r_{ij})
              + 3 s_8 q_i q_j f_8(r_{ij}) \right] s(r_{ij})

    with :math:`f_n = 1 / (r^n + (a_1 \sqrt{3 q_i q_j} + a_2)^n)` for Becke-Johnson damping and
    :math:`f_n = r^{-n} / (1 + 6 (r / s_{r,n} R_{ij})^{-\alpha_n})` for zero damping. ``s`` goes
    from 1 to 0 over the last ``width`` before each cutoff, with two continuous derivatives.

    Parameters
    ----------
    damping
        ``"bj"`` or ``"zero"``.
    functional
        A name of :func:`~ase_nnp_d3.parameters.functionals`.
    three_body
        Add the Axilrod-Teller-Muto energy of triples.
    cutoff, coordination_cutoff, three_body_cutoff
        Angstrom: of pairs, of the count of neighbors, of the sides of triples.
    width
        Angstrom; 0 cuts sharply.
    """

    outputs = ("energy", "energies", "forces", "stress")
    reference_cn: Tensor
    reference_c6: Tensor
    moments: Tensor
    covalent: Tensor
    van_der_waals: Tensor

    def __init__(
        self,
        damping: str,
        functional: str,
        three_body: bool,
        cutoff: float,
        coordination_cutoff: float,
        three_body_cutoff: float,
        width: float,
    ) -> None:
        super().__init__()
        reach = {"cutoff": cutoff, "coordination_cutoff": coordination_cutoff}
        reach |= {"three_body_cutoff": three_body_cutoff} if three_body else {}
        wrong = [f"{name}={value}" for name, value in reach.items() if not value > width >= 0]
        if wrong:
            raise ConfigError(f"D3 needs cutoffs beyond the width {width}: {', '.join(wrong)}.")

        self.damping, self.three_body = damping, bool(three_body)
        self.parameters_of_functional = parameters_of(functional, damping)
        self.reach = {name: value / units.Bohr for name, value in reach.items()}
        self.width = width / units.Bohr
        self.cutoff = float(max(*reach.values(), coordination_cutoff + 0.5 * width))
        self._load_tables()

    def _load_tables(self) -> None:
        from tad_dftd3.data import R4R2
        from tad_dftd3.reference import Reference
        from tad_mctc.data import radii

        double: dict[str, Any] = {"dtype": torch.float64}
        reference = Reference(**double)
        size = len(reference.cn)
        tables = {
            "reference_cn": reference.cn,
            "reference_c6": reference.c6,
            "moments": R4R2(**double)[:size],
            "covalent": radii.COV_D3(**double)[:size],
            "van_der_waals": radii.VDW_PAIRWISE(**double)[:size, :size],
        }
        for name, table in tables.items():
            self.register_buffer(name, table.clone(), persistent=False)
        self.elements = frozenset(range(1, size))

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV; a pair is shared by its atoms."""
        pairs = _half(graph)
        one, two = pairs.edge_index
        r = pairs.edge_vectors().norm(dim=1) / units.Bohr

        coordination = self._coordination(graph, one, two, r)
        weights = self._reference_weights(graph.atomic_numbers, coordination)
        near = (r <= self.reach["cutoff"]).nonzero()[:, 0]
        i, j, r = one[near], two[near], r[near]
        damped = self._damped(graph.atomic_numbers[i], graph.atomic_numbers[j], r)
        damped = damped * self._switch(r, self.reach["cutoff"])
        shares = self._pair_shares(graph, weights, i, j, damped)

        if self.three_body:
            reach = self.reach["three_body_cutoff"]
            triples = within(graph, reach * units.Bohr)
            c6 = self._c6_function(graph.atomic_numbers, weights)
            shares = shares + self._triples(triples, c6)
        shares = shares * units.Hartree
        total = shares.new_zeros(graph.num_structures)
        return {"energy": total.index_add(0, graph.batch, shares), "energies": shares}

    def _coordination(self, graph: AtomGraph, one: Tensor, two: Tensor, r: Tensor) -> Tensor:
        """Fractional numbers of neighbors, (N,)."""
        # The count has a tail that never ends (1e-7 a neighbor). Switched off on both sides of the
        # cutoff, it adds up to what the sharp cutoff of the reference program leaves.
        reach = self.reach["coordination_cutoff"] + 0.5 * self.width
        near = (r <= reach).nonzero()[:, 0]
        one, two, r = one[near], two[near], r[near]
        radii = self.covalent[graph.atomic_numbers]
        count = torch.sigmoid(K1 * ((radii[one] + radii[two]) / r - 1.0)) * self._switch(r, reach)
        numbers = count.new_zeros(graph.num_atoms)
        return numbers.index_add(0, one, count).index_add(0, two, count)

    def _reference_weights(self, numbers: Tensor, coordination: Tensor) -> Tensor:
        """Weight of each reference system of an atom, (N, 7)."""
        known = self.reference_cn[numbers]
        # Normalized as a softmax, so that an atom far from all of them takes the nearest.
        exponent = -K3 * (known - coordination[:, None]).square()
        return torch.softmax(exponent.masked_fill(known < 0, -torch.inf), dim=1)

    def _c6_function(self, numbers: Tensor, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function of two index tensors that gives C6 of the pairs."""
        present, kind = numbers.unique(return_inverse=True)
        table = self.reference_c6[present][:, present]  # elements are few, pairs are many
        mixed = torch.einsum("na,neab->neb", weights, table[kind])

        def c6(i: Tensor, j: Tensor) -> Tensor:
            pairs: Tensor = (mixed[i, kind[j]] * weights[j]).sum(dim=1)
            return pairs

        return c6

    def _damped(self, one: Tensor, two: Tensor, r: Tensor) -> Tensor:
        """What C6 of a pair is multiplied by, 1 / Bohr^6."""
        p = self.parameters_of_functional
        ratio = 3.0 * self.moments[one] * self.moments[two]  # C8 / C6
        if self.damping == "bj":
            radius = p["a1"] * ratio.sqrt() + p["a2"]
            six, eight = 1.0 / (r**6 + radius**6), 1.0 / (r**8 + radius**8)
        else:
            scaled = self.van_der_waals[one, two] / r
            six = 1.0 / (1.0 + 6.0 * (p["rs6"] * scaled) ** p["alp"]) / r**6
            eight = 1.0 / (1.0 + 6.0 * (p["rs8"] * scaled) ** (p["alp"] + 2.0)) / r**8
        damped: Tensor = p["s6"] * six + p["s8"] * ratio * eight
        return damped

    def _switch(self, r: Tensor, reach: float) -> Tensor:
        if self.width == 0:
            return torch.ones_like(r)
        t = ((reach - r) / self.width).clamp(0.0, 1.0)
        step: Tensor = t**3 * (10 - 15 * t + 6 * t * t)
        return step

    def _pair_shares(
        self, graph: AtomGraph, weights: Tensor, i: Tensor, j: Tensor, damped: Tensor
    ) -> Tensor:
        """Energies of atoms, Hartree, in double precision."""
        c6 = self._c6_function(graph.atomic_numbers, weights)
        sizes = graph.atoms_per_structure()
        dense = sizes * sizes
        if int(dense.sum()) < len(i):
            # All images of two atoms have one C6: sum over them first.
            first, start = sizes.cumsum(0) - sizes, dense.cumsum(0) - dense
            of = graph.batch[i]
            place = start[of] + (i - first[of]) * sizes[of] + (j - first[of])
            empty = damped.new_zeros(int(dense.sum()), dtype=torch.float64)
            damped = empty.index_add(0, place, damped.double())

            of = torch.arange(len(sizes), device=i.device).repeat_interleave(dense)
            local = torch.arange(len(of), device=i.device) - start[of]
            i, j = first[of] + local // sizes[of], first[of] + local % sizes[of]
        pair = (-0.5 * c6(i, j) * damped).double()
        shares = pair.new_zeros(graph.num_atoms)
        return shares.index_add(0, i, pair).index_add(0, j, pair)

    def _triples(self, graph: AtomGraph, c6: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        p, reach = self.parameters_of_functional, self.reach["three_body_cutoff"]
        numbers = graph.atomic_numbers
        return triple_energies(
            graph,
            c6,
            radius=lambda i, j: 4.0 / 3.0 * self.van_der_waals[numbers[i], numbers[j]],
            switch=lambda r: self._switch(r, reach),
            reach=reach,
            exponent=(p["alp"] + 2.0) / 3.0,
            scale=p.get("s9", 1.0),
        )


def _half(graph: AtomGraph) -> AtomGraph:
    """Return the graph with one of the two edges of each pair."""
    source, target = graph.edge_index
    shift = graph.edge_shift
    # Of an atom and its own images, those whose first offset that is not zero is positive.
    sign = torch.where(shift[:, 0] != 0, shift[:, 0], shift[:, 1])
    sign = torch.where(sign != 0, sign, shift[:, 2])
    kept = (source < target) | ((source == target) & (sign > 0))
    return graph.replace(edge_index=graph.edge_index[:, kept], edge_shift=shift[kept])
