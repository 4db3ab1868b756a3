"""Saddle points: found from a guess, and judged by their modes and by where they lead down to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import invcm
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.files import load_model
from ase_nnp.models.predictor import Predictor
from ase_nnp.workflows.doubts import unknown_places
from ase_nnp.workflows.paths.ends import match_atoms
from ase_nnp.workflows.paths.follow import ModeFollower
from ase_nnp.workflows.vibrations import Vibrations, vibrations
from ase_nnp.workflows.vibrations.hessian import free_atoms, hessian

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SaddleCheck", "SaddlePoint", "check_saddle", "saddle"]


@dataclass(frozen=True)
class SaddlePoint:
    """A structure at the end of the way uphill.

    Attributes
    ----------
    atoms
        With energy and forces attached.
    converged
        Whether the largest force came below the threshold.
    steps, evaluations
        Evaluations count those of a first Hessian too.
    fmax
        Largest force, eV/Angstrom.
    mode
        (n, 3) of the free atoms: the direction that was followed, normalized.
    unknown
        Whether the model's own flag calls it outside of what the model knows.
    """

    atoms: Atoms
    converged: bool
    steps: int
    evaluations: int
    fmax: float
    mode: NDArray[np.float64]
    unknown: bool = False


def saddle(
    atoms: Atoms,
    model: Any = None,
    *,
    mode: NDArray[np.float64] | None = None,
    fmax: float = 0.01,
    steps: int = 200,
    max_step: float = 0.1,
) -> SaddlePoint:
    """Find the saddle point that a structure near it leads to, uphill along one mode.

    Parameters
    ----------
    atoms
        A guess, such as an image of a band; left as it is. What FixAtoms holds stays.
    model
        Anything that :func:`~ase_nnp.load_model` takes.
    mode
        (N, 3) or (n, 3) of the free atoms: the direction to go up. Without it the softest mode of
        a Hessian, which costs 6 n evaluations where the model cannot be differentiated.
    fmax
        eV/Angstrom.
    steps
        At most so many, one evaluation each.
    max_step
        Angstrom, that an atom may move at once.

    Raises
    ------
    ConfigError
        Settings that cannot be meant, or a mode of another shape.
    """
    if not fmax > 0 or steps < 0 or not max_step > 0:
        raise ConfigError(f"fmax = {fmax}, steps = {steps}, max_step = {max_step}: positive.")
    potential, free = load_model(model), free_atoms(atoms)
    predictor = Predictor(potential)
    follower, spent = _follower(atoms, potential, free, mode, max_step)

    moving: Atoms = atoms.copy()
    force = np.inf
    for taken in range(steps + 1):
        row = predictor([moving], ("energy", "forces"), progress=False)[0]
        gradient = -np.asarray(row["forces"])[free]
        force = float(np.linalg.norm(gradient, axis=1).max())
        if force < fmax or taken == steps:
            break
        step = follower.step(moving.positions[free].ravel(), gradient.ravel())
        moving.positions[free] += step.reshape(-1, 3)
    moving.calc = SinglePointCalculator(moving, energy=row["energy"], forces=row["forces"])
    spent += taken + 1
    direction = follower.mode.reshape(-1, 3)
    unknown = bool(unknown_places(potential, [moving]))
    return SaddlePoint(moving, force < fmax, taken, spent, force, direction, unknown)


def _follower(
    atoms: Atoms, model: Any, free: list[int], mode: Any, max_step: float
) -> tuple[ModeFollower, int]:
    count = 3 * len(free)
    if mode is not None:
        given = np.asarray(mode, dtype=np.float64)
        given = given[free] if given.shape == (len(atoms), 3) else given
        if given.shape != (len(free), 3) or not np.linalg.norm(given) > 0:
            raise ConfigError(
                f"mode has shape {given.shape}: a row for each of {len(atoms)} atoms, or of the "
                f"{len(free)} free ones, not all zero."
            )
        return ModeFollower(given.ravel(), max_step=max_step), 0
    square = hessian(atoms, model, free=free).reshape(count, count)
    _, vectors = np.linalg.eigh(square)
    # Two evaluations a coordinate, unless the rows were differentiated.
    return ModeFollower(vectors[:, 0], square, max_step), 2 * count


@dataclass(frozen=True)
class SaddleCheck:
    """Whether a structure is the saddle point between two minima.

    Attributes
    ----------
    vibrations
        Modes at the saddle point.
    imaginary
        Wave numbers of imaginary modes, cm^-1, largest first.
    ends
        The minima that the two ways down lead to, as structures.
    distances
        (2, 2) Angstrom: the largest displacement of an atom between each minimum and each of the
        two structures that it was compared with; NaN where there was nothing to compare with.
    problems
        What is wrong, a phrase each; empty for a saddle point as it should be.
    """

    vibrations: Vibrations
    imaginary: NDArray[np.float64]
    ends: list[Atoms]
    distances: NDArray[np.float64]
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check_saddle(
    atoms: Atoms,
    model: Any = None,
    between: Sequence[Atoms] | None = None,
    *,
    small: float = 50.0,
    push: float = 0.1,
    fmax: float = 0.02,
    steps: int = 500,
    near: float = 0.3,
) -> SaddleCheck:
    """Judge a saddle point: one imaginary mode, and both minima found by going down.

    Parameters
    ----------
    atoms
        The saddle point, such as :attr:`ReactionPath.saddle`.
    model
        Anything that :func:`~ase_nnp.load_model` takes.
    between
        The two minima that it should connect; without them only the modes count.
    small
        cm^-1; a second imaginary mode below this is taken for noise.
    push
        Angstrom, how far the fastest atom is moved along the mode before going down; two or four
        times as far where the mode is so soft that nothing falls from there.
    fmax, steps
        Of the two relaxations.
    near
        Angstrom; a minimum is the expected one if no atom is further away.
    """
    from ase_nnp.workflows.batched import relax_many

    potential, free = load_model(model), free_atoms(atoms)
    result = vibrations(atoms, potential, free=free)
    energies = result.get_internal_energies()
    imaginary = np.sort(energies.imag[energies.imag > 0] / invcm)[::-1]
    problems = []
    # The reaction coordinate of a heavy atom may itself be soft.
    counted = [*imaginary[:1], *(wave for wave in imaginary[1:] if wave >= small)]
    if len(counted) != 1:
        listed = ", ".join(f"{wave:.0f}i" for wave in imaginary) or "none"
        problems.append(f"{len(counted)} imaginary modes instead of one ({listed} cm^-1)")
    if not len(imaginary):
        return SaddleCheck(result, imaginary, [], np.full((2, 2), np.nan), problems)

    # ASE sorts modes by the square of their frequency: the most imaginary one is the first.
    mode = result.get_modes()[0]
    mode = mode / np.linalg.norm(mode, axis=1).max()
    pushed = [_pushed(atoms, free, sign * mode, potential, push, fmax) for sign in (-1, 1)]
    outcomes = relax_many(potential, pushed, optimizer="FIRE", fmax=fmax, steps=steps)
    ends = [outcome.atoms for outcome in outcomes]
    problems += [
        f"the way down {side} does not end in a minimum ({outcome.status})"
        for side, outcome in zip(("backward", "forward"), outcomes, strict=True)
        if outcome.status != "converged"
    ]
    distances = np.full((2, 2), np.nan)
    if between is not None:
        distances, wrong = _compared(ends, list(between), near)
        problems += wrong
    return SaddleCheck(result, imaginary, ends, distances, problems)


def _pushed(
    atoms: Atoms,
    free: list[int],
    direction: NDArray[np.float64],
    model: Any,
    push: float,
    fmax: float,
) -> Atoms:
    """Push a saddle point until it falls: a force downhill that a relaxation goes on from.

    The force that is left at a saddle point may be as large as that of a soft mode after a push,
    and then a relaxation would end where it begins.
    """
    predictor = Predictor(model)
    for length in (push, 2 * push, 4 * push):
        moved: Atoms = atoms.copy()
        moved.positions[free] += length * direction
        forces = np.asarray(predictor([moved], ("forces",), progress=False)[0]["forces"])[free]
        # Along the way only: forces across it relax, and leave the atoms on the top.
        if float((forces * direction).sum()) > 2 * fmax * np.linalg.norm(direction):
            break
    return moved


def _compared(
    ends: Sequence[Atoms], minima: Sequence[Atoms], near: float
) -> tuple[NDArray[np.float64], list[str]]:
    if len(minima) != 2:
        raise ConfigError(f"between holds {len(minima)} structures: the two minima were expected.")
    distances = np.array([[_distance(end, minimum) for minimum in minima] for end in ends])
    straight, crossed = np.diag(distances).max(), np.diag(distances[::-1]).max()
    if min(straight, crossed) <= near:
        return distances, []

    missed = [k for k in (0, 1) if distances[:, k].min() > near]
    names = ("the first minimum", "the second minimum")
    if missed:
        said = [
            f"{names[k]} is not reached by going down (nearest {distances[:, k].min():.2f} Å away)"
            for k in missed
        ]
        return distances, said

    return distances, ["both ways down lead to the same minimum"]


def _distance(one: Atoms, two: Atoms) -> float:
    """Return the largest displacement of an atom; equal atoms may have changed places."""
    try:
        matched, _ = match_atoms(one, two)
    except StructureError:
        return float("inf")
    return float(np.linalg.norm(matched.positions - one.positions, axis=1).max())
