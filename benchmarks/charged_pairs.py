"""Pairs of ions trained at 3 to 6 Angstrom and tested at 8 to 15, with and without learned charges.

    python benchmarks/charged_pairs.py [--steps 2500]

Labels are Coulomb energies between fixed charges: Na and Cl, and rigid ammonium and formate (the
charges below) in random orientations. Errors are relative to the mean of the force between the
two, and to the change of the energy over the scan: what a model without range keeps is 100 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from measurement import record_option, write_measurement
from scipy.spatial.transform import Rotation

import ase_nnp
from ase_nnp.training import Settings, fit

COULOMB = units.Hartree * units.Bohr
SMALL = {
    "hidden_irreps": ["8x0e + 4x1o"],
    "outs_per_node": 8,
    "node_embed": {"embed_dim": 8},
    "edge_embed": {"r_max": 4.0},
    "self_connection": {"polynomial": {"channels": 4}},
}
#: Charges of the atoms of a molecular ion by element, e.
AMMONIUM = {"N": -0.8, "H": 0.45}
FORMATE = {"C": 0.35, "O": -0.75, "H": 0.15}


def ammonium() -> Atoms:
    """NH4+: a tetrahedron with bonds of 1.03 Angstrom."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.03 / np.sqrt(3)
    return Atoms("NH4", np.vstack([np.zeros(3), corners]))


def formate() -> Atoms:
    """HCOO-: formic acid without the hydrogen of its OH group, carbon in the origin."""
    atoms = molecule("HCOOH")
    hydrogens = [i for i, s in enumerate(atoms.symbols) if s == "H"]
    oxygens = [i for i, s in enumerate(atoms.symbols) if s == "O"]
    acid = min(hydrogens, key=lambda h: atoms.get_distances(h, oxygens).min())
    del atoms[acid]
    atoms.positions -= atoms.positions[list(atoms.symbols).index("C")]
    return Atoms(atoms.symbols, atoms.positions)


def joined(one: Atoms, two: Atoms, charges: np.ndarray) -> Atoms:
    """Both, with the Coulomb energy and forces between them as labels."""
    apart = two.positions[None] - one.positions[:, None]
    distances = np.linalg.norm(apart, axis=2)
    product = COULOMB * np.outer(charges[: len(one)], charges[len(one) :])
    pair = (product / distances**3)[:, :, None] * apart
    atoms = one + two
    forces = np.vstack([-pair.sum(1), pair.sum(0)])
    energy = float((product / distances).sum())
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def salt(distance: float, rng: np.random.Generator) -> Atoms:
    """Na+ and Cl-, in any direction."""
    along = Rotation.random(random_state=rng).apply([0, 0, distance])
    return joined(Atoms("Na"), Atoms("Cl", [along]), np.array([1.0, -1.0]))


def molecular_salt(distance: float, rng: np.random.Generator) -> Atoms:
    """Ammonium and formate, both turned at random, N and C at this distance."""
    one, two = ammonium(), formate()
    for atoms in (one, two):
        atoms.positions = Rotation.random(random_state=rng).apply(atoms.positions)
    two.positions += Rotation.random(random_state=rng).apply([0, 0, distance])
    charges = [AMMONIUM[s] for s in one.symbols] + [FORMATE[s] for s in two.symbols]
    return joined(one, two, np.array(charges))


def pull(atoms: Atoms, forces: np.ndarray, first: int) -> float:
    """Force between the two parts along the line from the first's anchor to the second's."""
    along = atoms.positions[first] - atoms.positions[0]
    return float(forces[:first].sum(0) @ along / np.linalg.norm(along))


def errors(model, far: list[Atoms], first: int) -> dict[str, float]:
    """Relative errors of the force and of the energy's change over the scan."""
    results = ase_nnp.predict(model, far, ("energy", "forces"), progress=False)
    force = np.array([pull(a, r["forces"], first) for a, r in zip(far, results, strict=True)])
    true = np.array([pull(a, a.get_forces(), first) for a in far])

    energy = np.array([r["energy"] for r in results])
    wanted = np.array([a.get_potential_energy() for a in far])
    energy, wanted = energy - energy.mean(), wanted - wanted.mean()
    return {
        "force": float(np.abs(force - true).mean() / np.abs(true).mean()),
        "energy": float(np.abs(energy - wanted).mean() / np.abs(wanted).mean()),
    }


def run(make: Callable, first: int, long_range: dict | None, steps: int, seed: int) -> dict:
    """Train one model; its errors beyond the training distances and its CPU time."""
    rng = np.random.default_rng(0)
    train = [make(r, rng) for r in np.linspace(3.0, 6.0, 200)]
    far = [make(r, rng) for r in np.linspace(8.0, 15.0, 60)]
    settings = Settings(
        epochs=max(1, round(steps / 25)),
        batch={"structures": 8},
        optimizer={"lr": 5e-3},
        losses={"energy": {"per_atom": False}},
        seed=seed,
        progress=False,
    )
    config = {**SMALL, "long_range": long_range}
    model = ase_nnp.build_model("facet", config, seed=seed, device="cpu", dtype="float64")
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(model, train, settings=settings, folder=folder).model
    seconds = time.process_time() - began
    return {**errors(fitted, far, first), "cpu_s": round(seconds, 1)}


def main() -> None:
    """Print a line of JSON for each pair and block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=1)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)

    table = []
    for name, make, first in (("NaCl", salt, 1), ("NH4 HCOO", molecular_salt, 5)):
        for block in (None, {"kind": "charges"}):
            for seed in range(args.seeds):
                row = run(make, first, block, args.steps, seed)
                print(json.dumps({"pair": name, "block": block, "seed": seed, **row}), flush=True)
                shares = (100 * row["force"], 100 * row["energy"])
                table.append(
                    [name, block["kind"] if block else "none", seed, *shares, row["cpu_s"]]
                )
    if args.record:
        head = ["pair", "block", "seed", "force, %", "change of the energy, %", "CPU s"]
        write_measurement("charged_pairs", head, table)


if __name__ == "__main__":
    main()
