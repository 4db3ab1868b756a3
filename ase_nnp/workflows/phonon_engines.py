"""Phonon frequencies from the forces of displaced atoms, by phonopy or by ASE."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.units import _amu, _e
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Frequencies", "frequencies_by_ase", "frequencies_by_phonopy"]

#: Frequencies in THz: q-points (Q, 3) in reciprocal lattice vectors -> (Q, 3 N).
Frequencies = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def frequencies_by_ase(
    atoms: Atoms, calculator: Any, supercell: tuple[int, int, int], displacement: float
) -> Frequencies:
    """Forces and force constants by ASE, all in a folder that goes away."""
    from ase.phonons import Phonons as Engine

    with TemporaryDirectory() as folder:
        engine = Engine(
            atoms, calculator, supercell=supercell, delta=displacement, name=f"{folder}/phonons"
        )
        engine.run()
        engine.read(acoustic=True)
    constants = engine.get_force_constant()
    cells, blocks = _shared_images(
        constants, engine.compute_lattice_vectors().T, atoms, np.array(supercell)
    )
    weights = np.repeat(atoms.get_masses() ** -0.5, 3)
    blocks = blocks * np.outer(weights, weights)

    def frequencies(points: NDArray[np.float64]) -> NDArray[np.float64]:
        waves = np.exp(2j * np.pi * (points @ cells.T))
        squares = np.linalg.eigvalsh(np.einsum("qn,nab->qab", waves, blocks))
        # sqrt(eV / Angstrom^2 / amu) as rad/s, and to THz; imaginary ones negative
        unit = np.sqrt(_e * 1e20 / _amu) / (2 * np.pi * 1e12)
        return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) * unit)

    return frequencies


def _shared_images(
    constants: NDArray[np.float64],
    cells: NDArray[np.float64],
    atoms: Atoms,
    supercell: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share a force constant among the nearest images of a pair across the supercell.

    ASE gives it to one of them, which breaks the crystal's symmetry between the q-points that fit
    the supercell (by 2 THz in aluminum's 2 x 2 x 2); all nearest ones must have an equal part
    (Parlinski, Li and Kawazoe, Phys. Rev. Lett. 78, 4063 (1997)).

    Returns
    -------
    cells (K, 3), blocks (K, 3 N, 3 N)
        Lattice vectors and the constants between the first cell and the one there.
    """
    reach = [(-1, 0, 1) if periodic else (0,) for periodic in atoms.pbc]
    shifts = np.array(list(product(*reach))) * supercell
    between = atoms.positions[None, :] - atoms.positions[:, None]  # (N, N, 3), to the second
    where, blocks = [], []
    for cell, block in zip(cells, constants, strict=True):
        images = cell + shifts
        lengths = np.linalg.norm((images @ atoms.cell[:])[:, None, None] + between, axis=-1)
        nearest = lengths < lengths.min(axis=0) + 1e-3
        parts = nearest / nearest.sum(axis=0)
        for image, part in zip(images, parts, strict=True):
            if part.any():
                where.append(image)
                blocks.append(block * np.repeat(np.repeat(part, 3, axis=0), 3, axis=1))
    return np.array(where, dtype=float), np.array(blocks)


def frequencies_by_phonopy(
    atoms: Atoms, calculator: Any, supercell: tuple[int, int, int], displacement: float
) -> Frequencies:
    """Displacements and force constants by phonopy, forces here."""
    from ase import Atoms
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell[:],
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )
    engine = Phonopy(cell, np.diag(supercell), primitive_matrix=np.eye(3))
    engine.generate_displacements(distance=displacement)
    forces = []
    for moved in engine.supercells_with_displacements:
        twin = Atoms(
            moved.symbols, scaled_positions=moved.scaled_positions, cell=moved.cell, pbc=atoms.pbc
        )
        twin.calc = calculator
        forces.append(twin.get_forces())
    engine.forces = forces
    engine.produce_force_constants()
    engine.symmetrize_force_constants()

    def frequencies(points: NDArray[np.float64]) -> NDArray[np.float64]:
        engine.run_qpoints(points)
        return np.asarray(engine.qpoints.frequencies)

    return frequencies
