"""Make the project's own example data: adsorbates on metal slabs, labeled by ASE's EMT.

    python data/make_data.py [FOLDER]

EMT is a fast classical model. Its numbers look like DFT data and are not: they are for trying the
software. Everything follows from the seed, so the script gives the same structures again.

``oc20_toy/``
    Two shards in the layout of the original OC20 downloads: an LMDB of pickled graph records,
    float32 positions; ``y`` is the adsorption energy (total minus clean slab minus the free
    adsorbate, both as built). The records are pickled objects of a class that is
    called like the one in those downloads; nothing of that library is needed to write or read.
``oc25_toy/``
    The same structures as ASE-LMDB (``.aselmdb``) in double precision, with total energies; what
    the adsorption energy refers to is in ``info["reference_energy"]``.
"""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import lmdb
import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

METALS = ("Cu", "Ni", "Pd", "Pt")
ADSORBATES = ("O", "H", "CO", "N", "C")
PER_SHARD = 20


def adsorbate(name: str) -> Atoms:
    """The atom or molecule, with the atom that binds first."""
    if len(name) == 1:
        return Atoms(name)
    atoms = molecule(name)
    order = [1, 0] if name == "CO" else [0, 1]
    return atoms[order] if atoms.symbols[order[0]] == name[0] else atoms[order[::-1]]


def structures(count: int, rng: np.random.Generator) -> list[Atoms]:
    """Slabs with one adsorbate, rattled, with OC20's tags and constraints."""
    made = []
    for number in range(count):
        metal, name = METALS[number % len(METALS)], ADSORBATES[number % len(ADSORBATES)]
        facet = (fcc111, fcc100)[number % 2]
        slab = facet(metal, size=(2, 2, 3), vacuum=8.0)
        layers = slab.get_tags()
        site = ("ontop", "bridge")[number // 2 % 2]
        add_adsorbate(slab, adsorbate(name), height=1.7, position=site)
        tags = np.full(len(slab), 2)
        tags[: len(layers)] = np.where(layers == 1, 1, 0)
        slab.set_tags(tags)
        slab.set_constraint(FixAtoms(np.flatnonzero(tags == 0)))
        slab.pbc = True
        reference = emt_energy(slab[tags < 2]) + emt_energy(slab[tags == 2])
        free = tags > 0
        slab.positions[free] += rng.normal(scale=0.08, size=(int(free.sum()), 3))
        slab.info.update(sid=1000 + number, fid=0, reference_energy=reference)
        slab.calc = EMT()
        energy = slab.get_potential_energy()
        forces = slab.get_forces(apply_constraint=False)
        slab.calc = SinglePointCalculator(slab, energy=energy, forces=forces)
        made.append(slab)
    return made


def emt_energy(atoms: Atoms) -> float:
    """EMT energy of a part, as built."""
    part = atoms.copy()
    part.set_constraint()
    part.calc = EMT()
    return float(part.get_potential_energy())


def graph_class() -> type:
    """A class under the dotted name that OC20's records carry, with nothing in it."""
    names = ["torch_geometric", "torch_geometric.data", "torch_geometric.data.data"]
    for name in names:
        sys.modules.setdefault(name, types.ModuleType(name))
    data = type("Data", (), {"__module__": names[-1]})
    sys.modules[names[-1]].Data = data
    return data


def record(atoms: Atoms, data: type) -> object:
    """One structure as the OC20 writers stored it."""
    fixed = np.zeros(len(atoms), dtype=np.float32)
    fixed[atoms.constraints[0].index] = 1
    made = data()
    made.__dict__.update(
        x=None,
        edge_index=None,
        edge_attr=None,
        y=float(atoms.get_potential_energy()) - atoms.info["reference_energy"],
        pos=torch.tensor(atoms.positions, dtype=torch.float32),
        normal=None,
        face=None,
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.float32),
        cell=torch.tensor(np.array(atoms.cell)[None], dtype=torch.float32),
        natoms=len(atoms),
        tags=torch.tensor(atoms.get_tags()),
        fixed=torch.tensor(fixed),
        force=torch.tensor(atoms.calc.results["forces"], dtype=torch.float32),
        sid=atoms.info["sid"],
        fid=atoms.info["fid"],
    )
    return made


def write_legacy(folder: Path, made: list[Atoms]) -> None:
    """Write shards as OC20's S2EF downloads have them."""
    data = graph_class()
    for shard in range(0, len(made), PER_SHARD):
        path = folder / f"data.{shard // PER_SHARD:04d}.lmdb"
        path.unlink(missing_ok=True)
        env = lmdb.open(str(path), subdir=False, map_size=2**26, lock=False, meminit=False)
        with env.begin(write=True) as transaction:
            part = made[shard : shard + PER_SHARD]
            for k, atoms in enumerate(part):
                transaction.put(str(k).encode(), pickle.dumps(record(atoms, data), protocol=4))
            transaction.put(b"length", pickle.dumps(len(part), protocol=4))
        env.close()
        # LMDB leaves the file as long as its map on some systems; cut it at its last page.
        env = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
        size = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        env.close()
        with open(path, "r+b") as file:
            file.truncate(size)


def main(folder: Path) -> None:
    """Write both datasets below ``folder``."""
    import ase_nnp

    made = structures(2 * PER_SHARD, np.random.default_rng(20))
    for name in ("oc20_toy", "oc25_toy"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_legacy(folder / "oc20_toy", made)
    for shard in range(0, len(made), PER_SHARD):
        path = folder / "oc25_toy" / f"data.{shard // PER_SHARD:04d}.aselmdb"
        path.unlink(missing_ok=True)
        ase_nnp.write_dataset(path, made[shard : shard + PER_SHARD])
    print(f"wrote {len(made)} structures to {folder}/oc20_toy and {folder}/oc25_toy")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
