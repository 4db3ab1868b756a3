"""States for free energies: gases, adsorbates and rigid solids, from structures and a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import AseNnpError, ConfigError, StructureError
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.observables import Observable, as_observable
from ase_nnp.workflows.surfaces import clean_slab, whole_molecule
from ase_nnp.workflows.vibrations import vibrations

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["State", "adsorbate", "gas", "solid", "spin_of", "symmetry_number"]

KINDS = ("gas", "adsorbate", "solid")
#: Total spins of ground states that an even number of electrons does not tell, by Hill's formula
#: (SO and NH are OS and HN there).
SPINS: Mapping[str, float] = {"O2": 1.0, "S2": 1.0, "OS": 1.0, "O": 1.0, "S": 1.0, "C": 1.0}
SPINS = {**SPINS, "N": 1.5, "P": 1.5, "CH2": 1.0, "HN": 1.0}


@dataclass(frozen=True)
class State:
    """What a free energy is computed of.

    Attributes
    ----------
    energy
        eV; an observable with its error bar, or a plain number.
    kind
        ``"gas"`` (ideal gas), ``"adsorbate"`` (localized) or ``"solid"`` (no motion counts).
    modes
        Complex eV, vibrational energies without rigid motions; imaginary ones as ASE gives them.
    atoms
        The atoms that move, without periodicity, in the geometry that moments of inertia are of.
    symmetry, spin
        Of a gas: rotational symmetry number and total spin.
    saddle
        The structure is a transition state: its largest imaginary mode is no vibration.
    member_modes
        The modes of each member of an ensemble, where the energy is one of its observables.
    name
        For tables.
    unknown
        Whether the model's own flag calls the structure outside of what the model knows.
    """

    energy: Observable | float
    kind: str = "adsorbate"
    modes: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=complex))
    atoms: Atoms | None = None
    symmetry: int = 1
    spin: float = 0.0
    saddle: bool = False
    member_modes: tuple[NDArray[Any], ...] = ()
    name: str = ""
    unknown: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind = {self.kind!r}: one of {', '.join(KINDS)}.")
        if self.kind == "gas" and (self.atoms is None or self.symmetry < 1 or self.spin < 0):
            raise ConfigError(
                f"A gas needs atoms, a symmetry number of at least 1 (not {self.symmetry}) and a "
                f"spin that is not negative (not {self.spin})."
            )
        if self.kind == "gas":
            _check_spin(self.atoms, self.spin)

    @property
    def observable(self) -> Observable:
        """The energy as an observable."""
        return as_observable(self.energy)


def gas(
    atoms: Atoms,
    model: Any = None,
    *,
    relax: bool = True,
    fmax: float = 0.005,
    symmetry: int | None = None,
    spin: float | None = None,
    name: str = "",
) -> State:
    """Return the state of a free molecule.

    Parameters
    ----------
    atoms
        The molecule; left as it is.
    model
        Anything that :func:`~ase_nnp.load_model` takes.
    relax, fmax
        Relax it first, to this force in eV/Angstrom.
    symmetry, spin
        By default from the geometry, and from the number of electrons with the exceptions in
        :data:`SPINS`.
    name
        By default the formula.

    Raises
    ------
    StructureError
        It does not relax.
    """
    potential = load_model(model)
    settled = _relaxed(atoms, potential, fmax) if relax else atoms
    # A molecule in a box is the same gas: all its motion is of the molecule.
    alone = whole_molecule(settled)
    alone.set_constraint()
    modes = _modes(alone, potential, None, "all")
    alone.pbc = False

    (energy,) = energies(potential, [settled])
    return State(
        energy,
        "gas",
        modes[0],
        alone,
        symmetry_number(alone) if symmetry is None else symmetry,
        spin_of(alone) if spin is None else spin,
        member_modes=modes[1:],
        name=name or f"{alone.get_chemical_formula('hill')}(g)",
        unknown=bool(energy.unknown),
    )


def adsorbate(
    atoms: Atoms,
    model: Any = None,
    *,
    free: Sequence[int] | None = None,
    relax: bool = True,
    fmax: float = 0.01,
    saddle: bool = False,
    name: str = "",
) -> State:
    """Return the state of atoms on a surface, which vibrate while the surface stands still.

    Parameters
    ----------
    atoms
        Surface with adsorbate; left as it is.
    model
        Anything that :func:`~ase_nnp.load_model` takes.
    free
        Atoms that vibrate; by default the adsorbate, where one is plain to see on a slab, else all
        that no FixAtoms holds.
    relax, fmax
        Relax it first, to this force in eV/Angstrom.
    saddle
        A transition state: never relaxed.
    name
        By default the adsorbate's formula behind a star.

    Raises
    ------
    StructureError
        It does not relax.
    """
    potential = load_model(model)
    if free is None:
        parts = clean_slab(atoms)
        free = None if parts is None else parts[1]
    settled = _relaxed(atoms, potential, fmax) if relax and not saddle else atoms
    modes = _modes(settled, potential, free, "auto")

    moving = whole_molecule(settled if free is None else settled[list(free)])
    moving.set_constraint()
    moving.pbc = False
    (energy,) = energies(potential, [settled])
    return State(
        energy,
        "adsorbate",
        modes[0],
        moving,
        saddle=saddle,
        member_modes=modes[1:],
        name=name or f"*{moving.get_chemical_formula('hill')}",
        unknown=bool(energy.unknown),
    )


def solid(atoms: Atoms, model: Any = None, *, relax: bool = True, fmax: float = 0.01) -> State:
    """Return the state of a clean slab or crystal, whose own motion is left out.

    It cancels against that of the covered slab as far as it can be left out there.
    """
    potential = load_model(model)
    settled = _relaxed(atoms, potential, fmax) if relax else atoms
    (energy,) = energies(potential, [settled])
    return State(energy, "solid", name="*", unknown=bool(energy.unknown))


def _relaxed(atoms: Atoms, model: Potential, fmax: float) -> Atoms:
    from ase_nnp.workflows.batched import relax_many

    # BFGS ends closer to the minimum than FIRE does at the same force.
    outcome = relax_many(model, [atoms], optimizer="BFGS", fmax=fmax, steps=500)[0]
    if outcome.status != "converged":
        raise StructureError(
            f"{atoms.get_chemical_formula()} did not relax to {fmax} eV/Å: {outcome.status} after "
            f"{outcome.steps} steps. {outcome.reason or ''}".strip()
        )
    return outcome.atoms


def _modes(
    atoms: Atoms, model: Potential, free: Sequence[int] | None, rigid: str
) -> tuple[NDArray[Any], ...]:
    """Return the modes of the model, then those of each member of an ensemble."""
    members = list(getattr(model, "potentials", ()))
    models = [model, *(members if len(members) > 1 else ())]
    if len(atoms) == 1 and rigid == "all":
        return tuple(np.zeros(0, dtype=complex) for _ in models)
    return tuple(
        vibrations(atoms, one, free=free, rigid=rigid).get_internal_energies() for one in models
    )


def _check_spin(atoms: Any, spin: float) -> None:
    """Refuse a spin that the electrons cannot have: its entropy would be that of no molecule."""
    charge = round(float(atoms.get_initial_charges().sum()))
    electrons = int(atoms.numbers.sum()) - charge
    if (2 * spin - electrons) % 2 == 0 and 2 * spin <= electrons:
        return
    parity = "whole: 0, 1, ..." if electrons % 2 == 0 else "half: 0.5, 1.5, ..."
    raise ConfigError(
        f"spin = {spin:g}: {atoms.get_chemical_formula()} has {electrons} electrons, and its total "
        f"spin is {parity}. (Initial charges of the atoms count, for an ion.)"
    )


def symmetry_number(atoms: Atoms) -> int:
    """Return how many proper rotations map a molecule onto itself, by pymatgen's analysis.

    Raises
    ------
    AseNnpError
        pymatgen is not installed.
    """
    if len(atoms) == 1:
        return 1
    try:
        from pymatgen.core.structure import Molecule
        from pymatgen.symmetry.analyzer import PointGroupAnalyzer
    except ImportError as error:
        raise AseNnpError(
            "Symmetry numbers need pymatgen (pip install ase_nnp[pymatgen]); or say symmetry=..."
        ) from error
    molecule = Molecule(atoms.get_chemical_symbols(), whole_molecule(atoms).positions)
    return int(PointGroupAnalyzer(molecule, tolerance=0.1).get_rotational_symmetry_number())


def spin_of(atoms: Atoms) -> float:
    """Return the total spin of a molecule's ground state: from :data:`SPINS`, else the lowest."""
    known = SPINS.get(atoms.get_chemical_formula("hill"))
    return known if known is not None else 0.5 * (int(atoms.numbers.sum()) % 2)
