"""Normal modes as ASE's VibrationsData, with rigid motions taken out of the Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from ase.vibrations.data import VibrationsData
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError
from ase_nnp.models.files import load_model
from ase_nnp.models.predictor import Predictor
from ase_nnp.workflows.doubts import unknown_places
from ase_nnp.workflows.surfaces import vacuum_gaps, whole_molecule
from ase_nnp.workflows.vibrations.hessian import free_atoms, hessian
from ase_nnp.workflows.vibrations.imaginary import ModeTreatment, treat_modes

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["RIGID", "Vibrations", "rigid_motions", "vibrations"]

RIGID = ("auto", "none", "translations", "all")
#: Angstrom of vacuum on every side beyond which a molecule in a periodic box turns freely.
ISOLATED = 5.0


class Vibrations(VibrationsData):  # type: ignore[misc]
    """ASE's VibrationsData, which also knows the rigid motions that were taken out.

    Modes, animations, tables and the zero-point energy are ASE's. The Hessian is the projected
    one, so rigid motions appear there with energies of zero.

    Attributes
    ----------
    rigid
        (r, n, 3) orthonormal mass-weighted rigid motions: 6 of a molecule, 5 of a linear one, 3 of
        a crystal, none where atoms are held.
    residual
        Largest |force constant| that the projection removed, eV/Angstrom^2: what the model's rigid
        motions cost, and how far the structure is from rest.
    fmax
        Largest force on an atom that moves, eV/Angstrom: modes are of a structure at rest.
    unknown
        Whether the model's own flag calls the structure outside of what the model knows.
    """

    def __init__(
        self,
        atoms: Atoms,
        hessian: Any,
        indices: Sequence[int] | None = None,
        *,
        rigid: NDArray[np.float64] | None = None,
        residual: float = 0.0,
        fmax: float = 0.0,
        unknown: bool = False,
    ) -> None:
        super().__init__(atoms, hessian, indices=indices)
        count = len(self.get_indices())
        self.rigid = np.zeros((0, count, 3)) if rigid is None else rigid
        self.residual = residual
        self.fmax, self.unknown = fmax, unknown

    @property
    def rigid_modes(self) -> int:
        """How many rigid motions were taken out."""
        return len(self.rigid)

    def get_internal_energies(self) -> NDArray[np.complex128]:
        """Return the energies of the other modes, (3 n - r,) complex eV, imaginary ones first."""
        count = len(self.get_indices())
        masses = self.get_atoms().get_masses()[self.get_indices()]
        weights = np.repeat(masses**-0.5, 3)
        weighted = weights * self.get_hessian_2d() * weights[:, None]

        # Within the complement of the rigid motions: none can be taken for a soft vibration.
        basis = _complement(self.rigid.reshape(-1, 3 * count), 3 * count)
        squares = np.linalg.eigvalsh(basis.T @ weighted @ basis)
        unit = units._hbar * units.m / sqrt(units._e * units._amu)
        return np.asarray(unit * squares.astype(complex) ** 0.5)

    def treated(self, policy: str = "invert", **options: Any) -> ModeTreatment:
        """Return the energies for thermochemistry; see :func:`treat_modes`."""
        return treat_modes(self.get_internal_energies(), policy, **options)

    def get_zero_point_energy(self) -> float:
        """Return half the sum of the real vibrational energies, eV."""
        return float(self.get_internal_energies().real.sum() / 2)


def vibrations(
    atoms: Atoms,
    model: Any = None,
    *,
    free: Sequence[int] | None = None,
    method: str = "auto",
    displacement: float = 0.01,
    rigid: str = "auto",
) -> Vibrations:
    """Compute the normal modes of a structure at rest.

    Parameters
    ----------
    atoms
        A relaxed structure; left as it is.
    model, free, method, displacement
        As for :func:`hessian`.
    rigid
        What is taken out: ``"all"`` translations and rotations, ``"translations"``, ``"none"``, or
        by itself: all of a free molecule, also one in a periodic box with vacuum around it;
        translations of a crystal; nothing where atoms are held.

    Returns
    -------
    Vibrations
        An :class:`ase.vibrations.VibrationsData`.

    Raises
    ------
    ConfigError, StructureError
        As :func:`hessian`.
    """
    if rigid not in RIGID:
        raise ConfigError(f"rigid = {rigid!r}: one of {', '.join(RIGID)}.")
    potential, moving = load_model(model), free_atoms(atoms, free)
    square = hessian(atoms, potential, free=moving, method=method, displacement=displacement)
    motions = rigid_motions(atoms[moving], _kind(atoms, moving) if rigid == "auto" else rigid)

    count = 3 * len(moving)
    flat = square.reshape(count, count)
    weights = np.repeat(np.sqrt(atoms.get_masses()[moving]), 3)
    across = motions.reshape(-1, count)
    keep = np.eye(count) - across.T @ across
    forces = Predictor(potential)([atoms], ("forces",), progress=False)[0]["forces"]
    projected = keep @ (flat / np.outer(weights, weights)) @ keep * np.outer(weights, weights)
    return Vibrations(
        atoms,
        projected.reshape(square.shape),
        moving,
        rigid=motions,
        residual=float(np.abs(projected - flat).max()),
        fmax=float(np.linalg.norm(forces[moving], axis=1).max()),
        unknown=bool(unknown_places(potential, [atoms])),
    )


def _kind(atoms: Atoms, moving: Sequence[int]) -> str:
    if len(moving) < len(atoms):
        return "none"
    gaps = [gap for gap, periodic in zip(vacuum_gaps(atoms), atoms.pbc, strict=True) if periodic]
    return "all" if all(gap > ISOLATED for gap in gaps) else "translations"


def rigid_motions(atoms: Atoms, kind: str) -> NDArray[np.float64]:
    """Return orthonormal mass-weighted translations and rotations, (r, n, 3).

    A motion that is none (about the axis of a linear molecule, of a single atom) is left out.
    """
    if kind == "none":
        return np.zeros((0, len(atoms), 3))
    roots = np.sqrt(atoms.get_masses())[:, None]
    motions = [roots * axis for axis in np.eye(3)]
    if kind == "all":
        whole = whole_molecule(atoms)
        arms = whole.positions - whole.get_center_of_mass()
        motions += [roots * np.cross(axis, arms) for axis in np.eye(3)]

    _, sizes, rows = np.linalg.svd(np.reshape(motions, (len(motions), -1)), full_matrices=False)
    # Relaxed molecules are linear to a few thousandths of their length only.
    return np.asarray(rows[sizes > 1e-2 * sizes[0]]).reshape(-1, len(atoms), 3)


def _complement(rows: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return orthonormal columns (size, size - r) at right angles to orthonormal rows (r, size)."""
    if not len(rows):
        return np.eye(size)
    return np.asarray(np.linalg.svd(rows, full_matrices=True)[2][len(rows) :].T)
