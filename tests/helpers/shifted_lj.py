"""ASE's Lennard-Jones written for our graph: shifted to zero at the cutoff, with no smoothing."""

from __future__ import annotations

from ase.calculators.lj import LennardJones

from ase_nnp import Conservative, NNPCalculator

#: What ASE's calculator is given, and our model too.
PARAMETERS = {"epsilon": 0.4, "sigma": 2.3, "rc": 6.0}


class ShiftedLennardJones(Conservative):
    """``E = 1/2 sum_ij [u(r_ij) - u(rc)]`` with ``u(r) = 4 eps [(s/r)^12 - (s/r)^6]``."""

    def __init__(self, epsilon: float, sigma: float, rc: float) -> None:
        super().__init__()
        self.epsilon, self.sigma, self.cutoff = epsilon, sigma, rc

    def energies(self, graph):
        x = (self.sigma / graph.edge_vectors().norm(dim=-1)) ** 6  # (E,)
        end = (self.sigma / self.cutoff) ** 6
        pair = 2 * self.epsilon * ((x * x - x) - (end * end - end))

        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)


def our_calculator() -> NNPCalculator:
    return NNPCalculator(ShiftedLennardJones(**PARAMETERS), dtype="float64")


def ase_calculator() -> LennardJones:
    return LennardJones(**PARAMETERS)
