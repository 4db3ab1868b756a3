"""Calculators of ours and ASE's calculators of the same potentials."""

from __future__ import annotations

from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from ase_nnp import Conservative, NNPCalculator, from_ase

#: Of the Lennard-Jones potential: eV, Angstrom, Angstrom.
PARAMETERS = {"epsilon": 0.4, "sigma": 2.3, "rc": 6.0}


class ShiftedLennardJones(Conservative):
    """ASE's Lennard-Jones written for our graph, shifted to zero at the cutoff.

    ``E = 1/2 sum_ij [u(r_ij) - u(rc)]`` with ``u(r) = 4 eps [(s/r)^12 - (s/r)^6]``.
    """

    def __init__(self, epsilon: float, sigma: float, rc: float) -> None:
        super().__init__()
        self.epsilon, self.sigma, self.cutoff = epsilon, sigma, rc

    def energies(self, graph):
        x = (self.sigma / graph.edge_vectors().norm(dim=-1)) ** 6  # (E,)
        end = (self.sigma / self.cutoff) ** 6
        pair = 2 * self.epsilon * ((x * x - x) - (end * end - end))

        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)


def our_lj() -> NNPCalculator:
    return NNPCalculator(ShiftedLennardJones(**PARAMETERS), dtype="float64")


def ase_lj() -> LennardJones:
    return LennardJones(**PARAMETERS)


def our_emt() -> NNPCalculator:
    return NNPCalculator(from_ase(EMT()))


#: Functions that make a calculator: ours, and ASE's own, which gives the right values.
CALCULATORS = {"lj": (our_lj, ase_lj), "emt": (our_emt, EMT)}
