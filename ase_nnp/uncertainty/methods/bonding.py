"""Bonding that training never had: an exact and explainable sign of an unknown structure.

Distances in features compare an atom with all others of its element, and a model that never learned
to tell nitrogen between two oxygen atoms from other nitrogen puts both at one place. Who is bonded
to whom needs no model: an atom whose partners are a set that no training atom of its element had is
new by construction, and so is a molecule of a new formula, free or on a metal. Sets are kept as
hashes, a few thousand numbers of eight bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["LEVELS", "KnownBonding", "bonding_of"]

#: Bonds are shorter than this times the sum of both covalent radii (ASE's, of Cordero et al. 2008):
#: it holds stretched bonds and first neighbors in metals, not second ones.
STRETCH = 1.25
#: Elements whose partners are counted, and that make molecules; a metal's coordination varies.
COVALENT = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 52, 53})
#: Atoms of a molecule with a formula; polymers and networks have none of their own.
LARGEST = 24
#: What of bonding is looked at, from what varies least.
LEVELS = ("molecules", "shells", "partners")
BATCH = 32
#: Training structures with some bonding that are certainly enough to learn it.
MOST = 20


def bonding_of(graph: AtomGraph) -> dict[str, list[str]]:
    """Bonding of each atom in words, (N,) by level; empty where an atom has none.

    Parameters
    ----------
    graph
        Of any model; bonds longer than its cutoff are not seen.

    Returns
    -------
    dict
        ``"partners"``: an atom with what it is bonded to, ``"N-O2,Pd"``: elements that are not
        metals are counted. ``"molecules"``: the formula of the molecule that the atom is in, and
        whether a metal is bonded to it, ``"CHO2 on metal"``. ``"shells"``: an atom of a molecule
        with the partners of its partners, all metals alike, ``"C-H,O2(C-H,O2 H-C O-C,M O-C,M)"``.
    """
    numbers = graph.atomic_numbers.cpu().numpy()
    covalent = np.isin(numbers, list(COVALENT))
    source, target = _bonds(graph, numbers)
    order = np.argsort(target, kind="stable")
    first = np.searchsorted(target[order], np.arange(len(numbers) + 1))
    bonded = [source[order[a:b]] for a, b in pairwise(first)]

    partners = [
        f"{chemical_symbols[z]}-{_partners(numbers[near], counted)}"
        for z, near, counted in zip(numbers, bonded, covalent, strict=True)
    ]
    # One metal is as good as another for what a molecule is.
    short = [
        f"{chemical_symbols[z]}-{_partners(np.where(covalent[near], numbers[near], 0), True)}"
        for z, near in zip(numbers, bonded, strict=True)
    ]
    shells = [
        f"{short[i]}({' '.join(sorted(short[j] for j in near if covalent[j]))})" if inside else ""
        for i, (near, inside) in enumerate(zip(bonded, covalent, strict=True))
    ]
    molecules = [""] * len(numbers)
    for atom, name in _molecules(numbers, source, target):
        molecules[atom] = name
    return dict(zip(LEVELS, (molecules, shells, partners), strict=True))


def _bonds(graph: AtomGraph, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both atoms (E,) of every bond, each bond in both directions."""
    radii = torch.as_tensor(STRETCH * covalent_radii[numbers]).to(graph.positions)
    source, target = graph.edge_index
    near = graph.edge_vectors().detach().norm(dim=1) < radii[source] + radii[target]
    return source[near].cpu().numpy(), target[near].cpu().numpy()


def _partners(numbers: np.ndarray, counted: bool) -> str:
    """Elements and, of those that are not metals, how many; 0 stands for any metal."""
    counts = Counter(numbers.tolist())
    return ",".join(
        f"{chemical_symbols[z] if z else 'M'}"
        f"{counts[z] if counted and z in COVALENT and counts[z] > 1 else ''}"
        for z in sorted(counts, reverse=True)
    )


def _molecules(
    numbers: np.ndarray, source: np.ndarray, target: np.ndarray
) -> Iterable[tuple[int, str]]:
    """Atoms with the name of the molecule that each is in."""
    covalent = np.isin(numbers, list(COVALENT))
    inside = covalent[source] & covalent[target]
    links = coo_array(
        (np.ones(int(inside.sum())), (source[inside], target[inside])), shape=(len(numbers),) * 2
    )
    _, owner = connected_components(links, directed=False)
    on_metal = np.unique(owner[target[covalent[target] & ~covalent[source]]])

    for place in np.unique(owner[covalent]):
        atoms = np.flatnonzero(owner == place)
        if len(atoms) <= LARGEST:
            counts = Counter(chemical_symbols[z] for z in numbers[atoms])
            formula = "".join(f"{s}{n if n > 1 else ''}" for s, n in sorted(counts.items()))
            name = f"{formula} on metal" if place in on_metal else f"{formula} free"
            yield from ((int(atom), name) for atom in atoms)


@dataclass(frozen=True)
class KnownBonding:
    """Bonding that training structures had.

    Attributes
    ----------
    counts
        For each level that is looked at, (2, K) int64: sorted 64-bit digests of what was there, and
        the number of structures that had it.
    least
        What fewer training structures had is called new: a model has hardly learned it.
    false_alarms
        Part of structures like the training structures that is expected to be called new.
    """

    counts: Mapping[str, Tensor]
    least: int = 1
    false_alarms: float = 0.0

    @classmethod
    def fit(cls, model: Potential, train: Sequence[Atoms], *, false_alarms: float = 0.05) -> Self:
        """Note the bonding of training structures and choose the levels.

        Parameters
        ----------
        model
            Its cutoff limits what bonds are seen; nothing is predicted.
        train
            All structures of the training, labeled or not.
        false_alarms
            Part of new structures of a known kind that may be called new, by all levels together:
            a level that would call more is left out, and ``least`` is the largest number, up to
            ``MOST``, with which no more are. The part is that of training structures which would
            be called new if they themselves had not been there (Good 1953, Biometrika 40, 237).
        """
        if not train:
            raise UncertaintyError("Known bonding needs the training structures: train=[...].")
        structures: dict[str, list[set[str]]] = {level: [] for level in LEVELS}
        numbers = np.unique(np.concatenate([atoms.numbers for atoms in train]))
        # A graph of bonds alone has a fifth of the edges of a model's.
        reach = min(model.cutoff, 2 * STRETCH * float(covalent_radii[numbers].max()))
        for start in range(0, len(train), BATCH):
            graph = AtomGraph.from_atoms(
                list(train[start : start + BATCH]), reach, dtype=torch.float64, recenter=True
            )
            owner = graph.batch.cpu().numpy()
            for level, names in bonding_of(graph).items():
                own: list[set[str]] = [set() for _ in range(graph.num_structures)]
                for structure, name in zip(owner, names, strict=True):
                    own[structure].add(name)
                structures[level] += own

        counts: dict[str, Tensor] = {}
        others = np.full(len(train), MOST)
        for level, sets in structures.items():
            seen = Counter(name for own in sets for name in own if name)
            # In how many other structures the rarest of each one's bonding is.
            rarest = [min((seen[name] - 1 for name in own if name), default=MOST) for own in sets]
            fewer = np.minimum(others, rarest)
            if np.mean(fewer < 1) <= false_alarms:
                rows = sorted((_digest(name), count) for name, count in seen.items())
                counts[level] = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T.contiguous()
                others = fewer
        fit = [n for n in range(1, MOST + 1) if np.mean(others < n) <= false_alarms]
        least = fit[-1] if fit else 1
        return cls(counts, least, float(np.mean(others < least)))

    def unknown(self, graph: AtomGraph) -> list[list[str]]:
        """What of each atom's bonding no training structure had, (N,); mostly empty lists."""
        found: list[list[str]] = [[] for _ in range(graph.num_atoms)]
        names_of = bonding_of(graph) if self.counts else {}
        for level, (digests, counts) in self.counts.items():
            names = names_of[level]
            different = sorted(set(names) - {""})
            often = digests[counts >= self.least].cpu().numpy()
            known = np.isin([_digest(name) for name in different], often)
            new = {name for name, there in zip(different, known, strict=True) if not there}
            for atom, name in enumerate(names):
                if name in new:
                    found[atom].append(name)
        return found

    def novel(self, graph: AtomGraph) -> Tensor:
        """Whether an atom's bonding is unknown, (N,), on the device of the graph."""
        flags = [bool(names) for names in self.unknown(graph)]
        return torch.tensor(flags, dtype=torch.bool, device=graph.positions.device)

    def explain(self, model: Potential, atoms: Atoms) -> list[str]:
        """Return a sentence for each kind of bonding in a structure that training never had."""
        where: dict[str, list[int]] = {}
        for atom, names in enumerate(self.unknown(model.make_graph([atoms]))):
            for name in names:
                where.setdefault(name, []).append(atom)
        return [
            f"{_sentence(name)}: {self._how_often(name)} (atoms {', '.join(map(str, who))})"
            for name, who in where.items()
        ]

    def _how_often(self, name: str) -> str:
        digest = _digest(name)
        found = [int(c[1][c[0] == digest].sum()) for c in self.counts.values()]
        times = max(found, default=0)
        return f"in {times} training structure{'s' * (times > 1)} only" if times else "never seen"

    def facts(self) -> dict[str, float]:
        """Plain values that a file keeps beside the tables."""
        return {"least": self.least, "false_alarms": self.false_alarms}


def _sentence(name: str) -> str:
    if "(" in name:
        inner, outer = name.rstrip(")").split("(")
        return f"{_sentence(inner)}, of these {outer.replace(' ', ' and ') or 'no atom'}"
    if "-" not in name:
        return f"a molecule {name}"
    center, partners = name.split("-")
    return f"{center} bonded to {partners.replace(',', ', ') or 'nothing'}"


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
