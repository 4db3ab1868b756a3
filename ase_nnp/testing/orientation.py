"""Structures that are turned as a whole or seen in a mirror, and what turns with them."""

from __future__ import annotations

from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.physics import rotated
from ase_nnp.testing.subject import Subject, check, relative

__all__: list[str] = []


@check(1e-8)
def check_forces_rotate_with_the_atoms(subject: Subject) -> float:
    """Turning the structure turns the forces."""
    if not subject.has_forces:
        raise NotApplicable("no forces")
    atoms = subject.molecule()
    turned, matrix = rotated(atoms)
    one, two = subject.predict(atoms)[0], subject.predict(turned)[0]
    vectors = [name for name in ("forces", "dipole") if name in one]
    return max(relative(two[name], one[name] @ matrix.T) for name in vectors)


@check(1e-8)
def check_stress_rotates_with_the_crystal(subject: Subject) -> float:
    """Turning the crystal turns its stress, a direct one too."""
    if "stress" not in subject.model.outputs:
        raise NotApplicable("no stress")
    turned, matrix = rotated(subject.crystal())
    one, two = (subject.predict(a, stress=True)[0]["stress"] for a in (subject.crystal(), turned))
    return relative(two, matrix @ one @ matrix.T)


@check(1e-8)
def check_energy_is_that_of_the_mirror_image(subject: Subject) -> float:
    """A structure and its mirror image have the same energy."""
    figures = []
    for atoms in (subject.finite(), subject.crystal()):
        image = atoms.copy()
        image.set_cell(-atoms.cell[:])
        image.positions = -atoms.positions
        figures.append(relative(subject.value(image), subject.value(atoms)))
    return max(figures)
