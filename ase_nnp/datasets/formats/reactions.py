"""Reactions on surfaces as JSON: CatBench's files and answers of Catalysis-Hub.

Each structure of a reaction is a record: the clean slab (``star``), the slab with an adsorbate
(``COstar``) and molecules (``COgas``). ``info`` says which: ``reaction``, ``part``, ``role``,
``adsorbate``, ``stoichiometry`` (negative for what goes in) and, with the adsorbate on the slab,
``adsorption_energy`` in eV. ``energy`` is the total energy that the file gives.

CatBench 1.1 keeps a structure that several reactions share once, under ``_structures``; the files
of earlier versions hold each where it is used. Both are read, ``.gz``, ``.bz2``, ``.xz`` too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import first_bytes, read_text
from ase_nnp.datasets.formats.rows import parse_json, row_to_sample, scalar
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import Shard
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "ReactionShard", "open_reactions"]

_PARTS = ("star", "surface", "bulk", "target")
#: Keys of Catalysis-Hub and our names of them.
_METADATA = dict(
    pair.split(":")
    for pair in [
        "facet:miller",
        "surfaceComposition:bulk",
        "dftFunctional:functional",
        "dftCode:code",
        "pubId:source",
        "Equation:equation",
        "activationEnergy:activation_energy",
    ]
)


class ReactionShard(Shard):
    """One JSON file of reactions, parsed as a whole on first use.

    Parameters
    ----------
    path
        The file.
    """

    format = "reactions"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._entries: list[tuple[str, dict[str, Any]]] | None = None
        self._structures: dict[str, Any] = {}
        self._size = len(self._load())
        if not self._size:
            raise DatasetError("no structures of reactions in this JSON", path=self.path)

    def _load(self) -> list[tuple[str, dict[str, Any]]]:
        if self._entries is None:
            try:
                content = parse_json(read_text(self.path, 8 << 30).encode())
                if isinstance(content, dict):
                    self._structures = _mapping(content.get("_structures", {}), "_structures")
                self._entries = list(_entries(content))
            except DatasetError as error:
                if error.path is not None:
                    raise
                raise DatasetError(str(error), path=self.path) from None
        return self._entries

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entries": None, "_structures": {}}

    def __len__(self) -> int:
        return self._size

    def key(self, index: int) -> object:
        """Return ``reaction/part``."""
        return self._load()[index][0]

    def read(self, index: int) -> Sample:
        """Decode one structure."""
        key, entry = self._load()[index]
        sample = self._structure(entry)

        energy = entry["energy"]
        if energy is not None:
            sample["energy"] = scalar(energy, "energy_ref")

        info = sample["info"]
        info |= entry["info"]
        info["sid"] = key

        # Builders of slabs number their layers in the tags; which atoms are the adsorbate, the
        # file says elsewhere.
        if entry["adsorbate_indices"]:
            if "tags" in sample:
                sample["arrays"] = {**sample.get("arrays", {}), "stored_tags": sample["tags"]}
            sample["tags"] = _tags(entry["adsorbate_indices"], len(sample["atomic_numbers"]))

        return sample

    def _structure(self, entry: Mapping[str, Any]) -> Sample:
        text, reference = entry["structure"], entry["ref"]
        if text is None and reference is not None:
            if reference not in self._structures:
                raise DatasetError(f"structure {reference!r} is not under '_structures'")
            text = self._structures[reference]
        if text is None:
            raise DatasetError("no structure: neither 'atoms_json' nor 'ref'")
        rows = parse_json(text.encode()) if isinstance(text, str) else text
        ids = _mapping(rows, "a structure").get("ids", ["1"])
        first = str(ids[0]) if isinstance(ids, list) and ids else "1"
        return row_to_sample(rows.get(first, rows))

    def close(self) -> None:
        """Drop what is held of the file; it is parsed anew when needed."""
        self._entries, self._structures = None, {}


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{name} is {type(value).__name__}, not an object")
    return value


def _tags(inside: Any, n: int) -> np.ndarray[Any, Any]:
    tags = np.ones(n, np.int64)
    indices = np.asarray(inside)
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= n:
        raise DatasetError(f"adsorbate_indices that {n} atoms do not have")
    tags[indices] = 2
    return tags


def _entries(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and entry of every structure, whichever of the two programs wrote the file."""
    nodes = list(_nodes(content))
    if nodes:
        for number, node in enumerate(nodes):
            yield from _cathub(node, number)
        return
    for name, reaction in _mapping(content, "the file").items():
        if name != "_structures" and isinstance(reaction, dict):
            yield from _catbench(name, reaction)


# ---- CatBench


def _catbench(name: str, reaction: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    raw = reaction.get("raw", {k: reaction[k] for k in _PARTS if k in reaction})
    parts = {**_mapping(raw, f"{name}: raw")}
    parts |= _mapping(reaction.get("references", {}), f"{name}: references")

    for part, given in parts.items():
        given = _mapping(given, f"{name}/{part}")
        info = {"reaction": name, "identifier": name, **_role(part)}
        stoichiometry = given.get("stoi")
        if isinstance(stoichiometry, (int, float)):
            info["stoichiometry"] = float(stoichiometry)
        adslab = info["role"] == "adslab"
        if adslab and isinstance(reaction.get("ref_ads_eng"), (int, float)):
            info["adsorption_energy"] = float(reaction["ref_ads_eng"])
        yield (
            f"{name}/{part}",
            {
                "structure": given.get("atoms_json"),
                "ref": given.get("ref"),
                "energy": given.get("energy_ref"),
                "adsorbate_indices": reaction.get("adsorbate_indices") if adslab else None,
                "info": info,
            },
        )


def _role(part: str) -> dict[str, Any]:
    """Return what the name of a structure says: ``star``, ``COstar``, ``COgas``."""
    if part.endswith("gas"):
        return {"part": part, "role": "gas"}
    if part.endswith("star") and part != "star":
        return {"part": part, "role": "adslab", "adsorbate": f"*{part.removesuffix('star')}"}
    role = {"star": "slab", "surface": "slab", "bulk": "bulk"}.get(part)
    return {"part": part, **({"role": role} if role else {})}


# ---- Catalysis-Hub


def _nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Yield reactions of an answer of the server, of its list of edges, or of a list or dict."""
    for _ in range(3):
        for name in ("data", "reactions", "edges"):
            if isinstance(content, dict) and name in content:
                content = content[name]
    listed = content.values() if isinstance(content, dict) else content
    for entry in listed if isinstance(content, (list, dict)) else ():
        node = entry.get("node", entry) if isinstance(entry, dict) else None
        if isinstance(node, dict) and "reactionSystems" in node:
            yield node


def _cathub(node: dict[str, Any], number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    name = str(node.get("id") or node.get("Equation") or number)
    coefficients = _coefficients(node)
    shared = {ours: node[theirs] for theirs, ours in _METADATA.items() if node.get(theirs)}
    adsorbed = [part for part, c in coefficients.items() if part.endswith("star") and c > 0]
    onto_clean = coefficients.get("star", 0) < 0 and len(adsorbed) == 1

    for part, given in _systems(node["reactionSystems"], name):
        info = {**shared, "reaction": name, "identifier": name, **_role(part)}
        if part in coefficients:
            info["stoichiometry"] = coefficients[part]
        # Only X + * -> X* is an adsorption; other reactions have an energy of reaction.
        energy = node.get("reactionEnergy")
        if isinstance(energy, (int, float)):
            is_adsorption = onto_clean and part == adsorbed[0]
            info["adsorption_energy" if is_adsorption else "reaction_energy"] = float(energy)
        inner = _mapping(given.get("systems", given), f"{name}/{part}")
        texts = (inner.get(key) for key in ("InputFile", "Trajdata", "atoms_json", "atoms"))
        yield (
            f"{name}/{part}",
            {
                "structure": next((text for text in texts if text), None),
                "ref": None,
                "energy": inner.get("energy", given.get("energy")),
                "adsorbate_indices": None,
                "info": info,
            },
        )


def _systems(listed: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    pairs: Iterator[tuple[Any, Any]]
    if isinstance(listed, dict):
        pairs = iter(listed.items())
    elif isinstance(listed, list):
        pairs = ((one.get("name") if isinstance(one, dict) else None, one) for one in listed)
    else:
        raise DatasetError(f"{name}: reactionSystems is {type(listed).__name__}")
    for part, given in pairs:
        if not isinstance(part, str):
            raise DatasetError(f"{name}: a system without a name")
        yield part, _mapping(given, f"{name}/{part}")


def _coefficients(node: dict[str, Any]) -> dict[str, float]:
    """Return stoichiometric coefficients: products positive, reactants negative."""
    coefficients: dict[str, float] = {}
    for side, sign in (("reactants", -1.0), ("products", 1.0)):
        given = node.get(side)
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError:
                given = None
        for part, count in (given if isinstance(given, dict) else {}).items():
            if isinstance(count, (int, float)):
                coefficients[str(part)] = coefficients.get(str(part), 0.0) + sign * float(count)
    return coefficients


def sniff(path: Path) -> bool:
    """Whether a file is JSON with reactions near its beginning."""
    if path.is_dir():
        return False
    head = first_bytes(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] not in (b"{", b"["):
        return False
    catbench = b'"raw"' in head and (b'"atoms_json"' in head or b'"ref"' in head)
    return catbench or b'"reactionSystems"' in head


def open_reactions(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open JSON files of reactions as one dataset.

    Parameters
    ----------
    files
        JSON files of CatBench or Catalysis-Hub.
    energy_kind
        Convert to this kind on reading.
    """
    return AtomsDataset([ReactionShard(path) for path in files], energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="reactions",
    summary="reactions on surfaces as JSON: CatBench and Catalysis-Hub",
    sniff=sniff,
    open=open_reactions,
)
