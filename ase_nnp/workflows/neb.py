"""Minimum-energy path between two minima by ASE's nudged elastic band, and its barrier."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.structures import with_labels
from ase_nnp.workflows.doubts import flagged

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["MinimumEnergyPath", "draw_neb", "energies_of_members", "heights", "minimum_energy_path"]

METHODS = ("improvedtangent", "aseneb", "eb", "spline", "string")


@dataclass(frozen=True)
class MinimumEnergyPath:
    """A band of images between two minima.

    Attributes
    ----------
    images
        With energies and forces attached; the first and the last are the minima.
    energies
        eV.
    distances
        Length of the path to each image, Angstrom, by minimum image.
    converged
        Whether the band's forces came below the threshold.
    steps
        Steps that the band took.
    fmax
        Largest force of the band at the end, eV/Angstrom.
    unknown_images
        Images that the model's own flag calls outside of what it knows.
    """

    images: list[Atoms]
    energies: NDArray[np.float64]
    distances: NDArray[np.float64]
    converged: bool
    steps: int
    fmax: float
    unknown_images: tuple[int, ...] = ()

    @property
    def barrier(self) -> float:
        """Energy of the highest image above the first, eV."""
        return float(self.energies.max() - self.energies[0])

    @property
    def reverse_barrier(self) -> float:
        """Energy of the highest image above the last, eV."""
        return float(self.energies.max() - self.energies[-1])

    @property
    def reaction_energy(self) -> float:
        """Energy of the last image above the first, eV."""
        return float(self.energies[-1] - self.energies[0])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values without the structures."""
        return {
            "barrier": self.barrier,
            "reverse_barrier": self.reverse_barrier,
            "reaction_energy": self.reaction_energy,
            "converged": self.converged,
            "steps": self.steps,
            "fmax": self.fmax,
            "unknown_images": list(self.unknown_images),
            "energies": self.energies.tolist(),
            "distances": self.distances.tolist(),
        }


def minimum_energy_path(
    initial: Atoms,
    final: Atoms,
    calculator: Any,
    *,
    images: int = 5,
    fmax: float = 0.05,
    steps: int = 300,
    climb: bool = True,
    method: str = "improvedtangent",
    relax_ends: bool = True,
    callback: Callable[[int, float, float], None] | None = None,
) -> MinimumEnergyPath:
    """Find the path between two structures of the same atoms in the same order.

    Parameters
    ----------
    initial, final
        The minima; left as they are. Constraints of the first hold for all.
    calculator
        Any ASE calculator; the images share it.
    images
        Between the ends.
    fmax
        Convergence of ends and band, eV/Angstrom.
    steps
        At most so many, of the band and of each end.
    climb
        The highest image climbs to the saddle point (Henkelman et al. 2000, doi:10.1063/1.1329672),
        after the band has come to five times ``fmax`` without.
    method
        ASE's name for the tangents.
    relax_ends
        Relax the ends first; a band between points that are no minima has no barrier.
    callback
        Called as ``callback(step, barrier, fmax)``.

    Raises
    ------
    ConfigError
        Settings that cannot be.
    StructureError
        Ends of different atoms or cells, or that do not relax.
    """
    if images < 1 or steps < 0 or not fmax > 0 or method not in METHODS:
        raise ConfigError(
            f"images = {images}, steps = {steps}, fmax = {fmax}, method = {method!r}: at least 1 "
            f"image, 0 steps, a positive force, and one of {', '.join(METHODS)}."
        )
    _check_ends(initial, final)
    from ase.mep import NEB
    from ase.optimize import FIRE

    ends = [_end(a, initial, calculator, fmax, steps, relax_ends) for a in (initial, final)]
    band = [ends[0], *(ends[0].copy() for _ in range(images)), ends[1]]
    for image in band[1:-1]:
        image.calc = calculator
    chain = NEB(band, climb=False, method=method, allow_shared_calculator=True)
    chain.interpolate("idpp", mic=bool(initial.pbc.any()), apply_constraint=False)

    # A band that climbs from the start may climb the wrong hill.
    taken, converged = 0, False
    for climbing, threshold in ((False, 5 * fmax if climb else fmax), (True, fmax)):
        if climbing and not climb:
            break
        chain.climb = climbing
        with FIRE(chain, logfile=None) as optimizer:
            for done in optimizer.irun(fmax=threshold, steps=steps - taken):
                converged = bool(done)
                if callback is not None:
                    energies = [image.get_potential_energy() for image in band]
                    step, barrier = taken + optimizer.nsteps, max(energies) - energies[0]
                    callback(step, barrier, _force(chain))
            taken += optimizer.nsteps
        if not converged:
            break
    return _result(band, calculator, converged, taken, _force(chain))


def _check_ends(initial: Atoms, final: Atoms) -> None:
    if len(initial) != len(final) or (initial.numbers != final.numbers).any():
        raise StructureError(
            f"The ends have different atoms ({initial.get_chemical_formula()} and "
            f"{final.get_chemical_formula()}), or the same in another order."
        )
    if (
        not np.allclose(initial.cell[:], final.cell[:], atol=1e-3)
        or (initial.pbc != final.pbc).any()
    ):
        raise StructureError("The ends have different cells or periodicity.")


def _end(
    atoms: Atoms, first: Atoms, calculator: Any, fmax: float, steps: int, relax: bool
) -> Atoms:
    """Return a relaxed copy with its energy and forces attached."""
    from ase.optimize import BFGS

    end: Atoms = atoms.copy()
    end.set_constraint(first.constraints)
    end.calc = calculator
    if relax:
        with BFGS(end, logfile=None) as optimizer:
            if not optimizer.run(fmax=fmax, steps=steps):
                raise StructureError(f"An end did not relax to {fmax} eV/Å in {steps} steps.")
    return _frozen(end)


def _frozen(atoms: Atoms) -> Atoms:
    """Attach what the calculator says now, so that others may use it."""
    energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
    unknown = flagged(atoms.calc)
    labeled = with_labels(atoms, {"energy": energy, "forces": forces})
    if unknown:
        labeled.calc.results["ood_flag"] = True
    return labeled


def _force(chain: Any) -> float:
    return float(np.sqrt((chain.get_forces() ** 2).sum(axis=1).max()))


def _result(
    band: list[Atoms], calculator: Any, converged: bool, steps: int, fmax: float
) -> MinimumEnergyPath:
    from ase.geometry import find_mic

    images = [band[0], *(_frozen(image) for image in band[1:-1]), band[-1]]
    moves = [
        np.linalg.norm(find_mic(b.positions - a.positions, a.cell, a.pbc)[0])
        for a, b in pairwise(images)
    ]
    energies = np.array([image.get_potential_energy() for image in images])
    unknown = tuple(k for k, image in enumerate(images) if flagged(image.calc))
    lengths = np.concatenate([[0.0], np.cumsum(moves)])
    return MinimumEnergyPath(images, energies, lengths, converged, steps, fmax, unknown)


def energies_of_members(
    path: MinimumEnergyPath, members: Sequence[Potential]
) -> NDArray[np.float64]:
    """Return the energies (M, images) of each member of an ensemble on one path, eV.

    The path stays: a member's own path would be at least as low, so the spread covers the energies
    and not the positions.
    """
    from ase_nnp.models.predictor import predict

    rows = [predict(member, path.images, ("energy",)) for member in members]
    return np.array([[float(image["energy"]) for image in row] for row in rows])


def heights(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return barrier, reverse barrier and reaction energy of energies along a path."""
    top = energies.max()
    return np.array([top - energies[0], top - energies[-1], energies[-1] - energies[0]])


def draw_neb(
    result: MinimumEnergyPath,
    path: str | os.PathLike[str],
    energy_std: NDArray[np.float64] | None = None,
) -> None:
    """Draw the energy along the path, with a smooth line through energies and forces.

    Parameters
    ----------
    result
        What to draw.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    energy_std
        Standard deviation of each image's energy above the first, eV.
    """
    from ase.utils.forcecurve import fit_images

    from ase_nnp.files.pictures import new_figure
    from ase_nnp.workflows.picture import save_figure

    fit = fit_images(result.images)
    figure = new_figure(6.5, 4.5)
    axes = figure.add_subplot()
    axes.plot(fit.fit_path, fit.fit_energies, color="tab:blue")
    axes.errorbar(fit.path, fit.energies, yerr=energy_std, fmt="o", color="tab:blue", capsize=3)
    for k in result.unknown_images:
        axes.plot(fit.path[k], fit.energies[k], "x", color="tab:red", markersize=10, zorder=3)
    if result.unknown_images:
        axes.plot([], [], "x", color="tab:red", label="unknown to the model")
        axes.legend()
    axes.set(
        xlabel="path (Å)",
        ylabel="energy (eV)",
        title=f"barrier {result.barrier:.3f} eV, reverse {result.reverse_barrier:.3f} eV",
    )
    axes.grid(alpha=0.3)
    save_figure(figure, path)
