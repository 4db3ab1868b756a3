"""The model of the Lennard-Jones plugin."""

from __future__ import annotations

from ase_nnp.models.conservative import Conservative


class LennardJones(Conservative):
    r"""``E = 2 eps sum_ij [(s/r)^12 - (s/r)^6] f(r)``, each pair counted from both ends."""

    def __init__(self, epsilon: float, sigma: float, cutoff: float) -> None:
        super().__init__()
        self.epsilon, self.sigma, self.cutoff = epsilon, sigma, cutoff

    def energies(self, graph):
        r = graph.edge_vectors().norm(dim=-1)  # (E,)
        x = (self.sigma / r) ** 6
        pair = 2 * self.epsilon * (x * x - x) * (1 - (r / self.cutoff) ** 2) ** 3
        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)
