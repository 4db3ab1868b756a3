"""Bonding that training never had: an exact and explainable sign of an unknown structure.

Distances in features compare an atom with all others of its element, and a model that never learned
to tell nitrogen between two oxygen atoms from other nitrogen puts both at one place. Who is bonded
to whom needs no model: an atom whose partners are a set that no training atom of its element had is
new by construction, and so is a molecule of a new formula, free or on a metal. Sets are kept as
hashes, a few thousand numbers of eight bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
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
IS_COVALENT = np.isin(np.arange(len(covalent_radii)), list(COVALENT))
#: Atoms of a molecule with a formula; polymers and networks have none of their own.
LARGEST = 24
#: What of bonding is looked at, from what varies least.
LEVELS = ("molecules", "shells", "partners")
Coded = dict[str, tuple[list[str], np.ndarray]]
BATCH = 32
#: Answers that are kept. A structure that moves has the same bonds for many steps.
REMEMBERED = 256
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
    return {level: [words[c] for c in codes] for level, (words, codes) in _coded(graph).items()}


def _coded(graph: AtomGraph) -> Coded:
    """Different words of every level, and which of them (N,) is each atom's."""
    return _words(graph.atomic_numbers.cpu().numpy(), *_bonds(graph))


def _words(numbers: np.ndarray, source: np.ndarray, target: np.ndarray) -> Coded:
    """The same from atomic numbers (N,) and bonds.

    Atoms of one kind of bonding are rows that agree: words are made once for each kind.
    """
    covalent = IS_COVALENT[numbers]

    # One metal is as good as another for what a molecule is: they are element 0 there.
    alike = np.where(covalent, numbers, 0)
    own = _partners(numbers, numbers, source, target, covalent)
    short = _partners(numbers, alike, source, target, np.ones_like(covalent))
    return {
        "molecules": _molecules(numbers, covalent, source, target),
        "shells": _shells(*short, covalent, source, target),
        "partners": own,
    }


def _bonds(graph: AtomGraph, lengths: Tensor | None = None) -> np.ndarray:
    """Both atoms (2, E) of every bond, each bond in both directions, in the order of edges."""
    if lengths is None:
        lengths = torch.linalg.vector_norm(graph.edge_vectors().detach(), dim=1)
    reach = _radii(lengths.dtype, lengths.device).index_select(0, graph.atomic_numbers)
    source, target = graph.edge_index
    near = lengths < reach.index_select(0, source) + reach.index_select(0, target)
    return graph.edge_index[:, near].cpu().numpy()


@lru_cache(maxsize=16)
def _radii(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Covalent radii by atomic number, stretched, as all devices want them."""
    return torch.as_tensor(STRETCH * covalent_radii, dtype=dtype, device=device)


def _partners(
    numbers: np.ndarray,
    seen: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    counted: np.ndarray,
) -> tuple[list[str], np.ndarray]:
    """Each atom with the elements ``seen`` (N,) of its partners; 0 stands for any metal.

    Atoms that are ``counted`` (N,) say how many of each element that is not a metal.
    """
    elements, column = np.unique(seen, return_inverse=True)
    shape = (len(numbers), len(elements))
    counts = np.bincount(target * shape[1] + column[source], minlength=shape[0] * shape[1])
    counts = counts.reshape(shape)
    several = counted[:, None] & IS_COVALENT[elements]
    rows, codes = _different(np.column_stack([numbers, np.where(several, counts, counts > 0)]))

    names = ["M" if z == 0 else chemical_symbols[z] for z in elements]
    words = []
    for center, *row in rows.tolist():
        # From heavy to light, so that metals which are all alike come last.
        parts = [f"{s}{n if n > 1 else ''}" for s, n in zip(names, row, strict=True) if n]
        words.append(f"{chemical_symbols[center]}-{','.join(reversed(parts))}")
    return words, codes


def _shells(
    short: list[str],
    codes: np.ndarray,
    covalent: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
) -> tuple[list[str], np.ndarray]:
    """Each atom that is no metal with the words of its partners that are none."""
    inside = covalent[source] & covalent[target]
    near, center = codes[source[inside]], target[inside]
    order = np.lexsort((near, center))
    near, center = near[order], center[order]

    # A row an atom: its own word and its partners' in order, filled up with -1.
    first = np.searchsorted(center, np.arange(len(codes)))
    place = np.arange(len(center)) - first[center]
    table = np.full((len(codes), 2 + (int(place.max()) if len(place) else 0)), -1)
    table[:, 0] = np.where(covalent, codes, -1)
    table[center, 1 + place] = near

    rows, own = _different(table)
    words = []
    for row in rows.tolist():
        around = " ".join(sorted(short[k] for k in row[1:] if k >= 0))
        words.append(f"{short[row[0]]}({around})" if row[0] >= 0 else "")
    return words, own


def _molecules(
    numbers: np.ndarray, covalent: np.ndarray, source: np.ndarray, target: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Each atom with the name of the molecule that it is in."""
    inside = covalent[source] & covalent[target]
    links = coo_array(
        (np.ones(int(inside.sum())), (source[inside], target[inside])), shape=(len(numbers),) * 2
    )
    count, owner = connected_components(links, directed=False)
    on_metal = np.zeros(count, dtype=int)
    on_metal[owner[target[covalent[target] & ~covalent[source]]]] = 1

    elements, column = np.unique(numbers, return_inverse=True)
    formulas = np.bincount(owner * len(elements) + column, minlength=count * len(elements))
    formulas = formulas.reshape(count, len(elements))
    # Metals, polymers and networks have no formula.
    named = (formulas.sum(axis=1) <= LARGEST) & ~np.isin(np.arange(count), owner[~covalent])
    rows, codes = _different(np.column_stack([named, on_metal, formulas * named[:, None]]))

    symbols = [chemical_symbols[z] for z in elements]
    words = []
    for is_named, bound, *row in rows.tolist():
        parts = sorted((s, n) for s, n in zip(symbols, row, strict=True) if n)
        formula = "".join(f"{s}{n if n > 1 else ''}" for s, n in parts)
        words.append(f"{formula} {'on metal' if bound else 'free'}" if is_named else "")
    return words, codes[owner]


def _different(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that differ, and which of them each row is."""
    # One 64-bit number a row is sorted ten times as fast; that two rows share one by chance is as
    # unlikely as that their digests agree.
    keys = rows @ _factors(rows.shape[1])
    _, first, codes = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], codes


@lru_cache(maxsize=256)
def _factors(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 2**62, count) * 2 + 1


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
    _answers: dict[bytes, Tensor] = field(default_factory=dict, repr=False, compare=False)

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
            for level, (words, codes) in _coded(graph).items():
                own: list[set[str]] = [set() for _ in range(graph.num_structures)]
                for structure, code in _different(np.column_stack([owner, codes]))[0].tolist():
                    own[structure].add(words[code])
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
        unknown: list[list[str]] = [[] for _ in range(graph.num_atoms)]
        for words, codes, new in self._judged(_coded(graph)):
            for atom in np.flatnonzero(new[codes]):
                unknown[atom].append(words[codes[atom]])
        return unknown

    def novel(self, graph: AtomGraph, lengths: Tensor | None = None) -> Tensor:
        """Whether an atom's bonding is unknown, (N,), on the host.

        ``lengths`` (E,) are those of the edges, where they are known already.
        """
        if not self.counts:
            return torch.zeros(graph.num_atoms, dtype=torch.bool)
        bonds, numbers = _bonds(graph, lengths), graph.atomic_numbers.cpu().numpy()
        # Edges have one order, so that the same bonds are the same bytes; their number goes with
        # them, or the bonds of few atoms could be read as numbers of more.
        size = np.int64(len(numbers)).tobytes()
        name = blake2b(size + numbers.tobytes() + bonds.tobytes(), digest_size=16).digest()
        known = self._answers.get(name)
        if known is not None:
            return known

        flags = np.zeros(graph.num_atoms, dtype=bool)
        for _, codes, new in self._judged(_words(numbers, *bonds)):
            flags |= new[codes]
        if len(self._answers) >= REMEMBERED:
            self._answers.clear()
        return self._answers.setdefault(name, torch.as_tensor(flags))

    def _judged(self, coded: Coded) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Words, those of the atoms, and which words are new, of every level looked at."""
        for level, (digests, counts) in self.counts.items():
            words, codes = coded[level]
            own = np.array([_digest(word) for word in words], dtype=np.int64)
            table, times = digests.cpu().numpy(), counts.cpu().numpy()
            # The table is sorted; a digest beyond its end is at no place of it.
            place = np.searchsorted(table, own)
            there = place < len(table)
            there[there] = table[place[there]] == own[there]
            known = there.copy()
            known[there] = times[place[there]] >= self.least
            yield words, codes, ~known & np.array([bool(word) for word in words], dtype=bool)

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


@lru_cache(maxsize=4096)
def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
