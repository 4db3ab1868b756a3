r"""Elastic constants of a crystal from stresses at small strains.

With engineering strains in Voigt's order (xx, yy, zz, yz, xz, xy) and the stress of a cell strained
by plus and minus a small amount,

.. math:: C_{ij} = \frac{\sigma_i(+\varepsilon_j) - \sigma_i(-\varepsilon_j)}{2 \varepsilon_j}.

Polycrystalline averages after Hill, Proc. Phys. Soc. A 65, 349 (1952),
doi:10.1088/0370-1298/65/5/307.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.doubts import flagged
from ase_nnp.workflows.eos import relax_atoms, require_crystal

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["VOIGT", "ElasticConstants", "draw_elastic", "elastic_constants", "strained"]

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Constants that should be equal or zero by symmetry may differ by this part of C11.
CUBIC = 0.02


@dataclass(frozen=True)
class ElasticConstants:
    """The elastic tensor of a crystal.

    Attributes
    ----------
    tensor
        (6, 6) GPa in Voigt's order with engineering strains, made symmetric.
    asymmetry
        Largest difference of C_ij and C_ji as computed, GPa: large where forces are no gradient or
        the strain is too small for the precision.
    nonlinearity
        Largest change of a constant when the strain is doubled, GPa. The curvature of a smooth
        energy hardly changes; where a model normalizes what vanishes at symmetric sites, it does.
    stress
        (6,) GPa, of the cell without strain. Constants are defined at zero stress.
    strain
        That was used.
    unknown_cells
        How many of the strained cells, the one at rest among them, the model's own flag calls
        outside of what it knows.
    """

    tensor: NDArray[np.float64]
    asymmetry: float
    nonlinearity: float
    stress: NDArray[np.float64]
    strain: float
    unknown_cells: int = 0

    @property
    def stable(self) -> bool:
        """Whether every small strain costs energy: all eigenvalues are positive (Born)."""
        return bool(np.linalg.eigvalsh(self.tensor).min() > 0)

    @property
    def smooth(self) -> bool:
        """Whether twice the strain gives the same constants, to a tenth of the largest."""
        return self.nonlinearity < 0.1 * float(np.abs(self.tensor).max())

    @property
    def cubic(self) -> dict[str, float] | None:
        """C11, C12 and C44 in GPa, if the tensor is that of a cubic crystal along x, y and z."""
        c = self.tensor
        values = {
            "C11": c[[0, 1, 2], [0, 1, 2]],
            "C12": c[[0, 0, 1], [1, 2, 2]],
            "C44": c[[3, 4, 5], [3, 4, 5]],
        }
        means = {name: float(v.mean()) for name, v in values.items()}
        allowed = CUBIC * abs(means["C11"])
        ideal = np.zeros((6, 6))
        ideal[:3, :3] = means["C12"]
        np.fill_diagonal(ideal, [means["C11"]] * 3 + [means["C44"]] * 3)
        return means if np.abs(c - ideal).max() <= allowed else None

    @property
    def moduli(self) -> dict[str, float]:
        """Bulk, shear and Young's modulus in GPa (Voigt, Reuss, Hill) and Poisson's ratio."""
        c = self.tensor
        s: NDArray[Any] = np.linalg.pinv(c)
        voigt_k = (np.trace(c[:3, :3]) + 2 * _off(c)) / 9
        voigt_g = (np.trace(c[:3, :3]) - _off(c) + 3 * np.trace(c[3:, 3:])) / 15
        reuss_k = 1 / (np.trace(s[:3, :3]) + 2 * _off(s))
        reuss_g = 15 / (4 * np.trace(s[:3, :3]) - 4 * _off(s) + 3 * np.trace(s[3:, 3:]))

        k, g = (voigt_k + reuss_k) / 2, (voigt_g + reuss_g) / 2
        return {
            "bulk_voigt": float(voigt_k),
            "bulk_reuss": float(reuss_k),
            "bulk": float(k),
            "shear_voigt": float(voigt_g),
            "shear_reuss": float(reuss_g),
            "shear": float(g),
            "young": float(9 * k * g / (3 * k + g)),
            "poisson": float((3 * k - 2 * g) / (2 * (3 * k + g))),
        }

    @property
    def numbers(self) -> NDArray[np.float64]:
        """All 36 constants and then the moduli in one array, for error bars."""
        return np.concatenate([self.tensor.ravel(), list(self.moduli.values())])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "tensor": self.tensor.tolist(),
            "cubic": self.cubic,
            "moduli": self.moduli,
            "stable": self.stable,
            "asymmetry": self.asymmetry,
            "nonlinearity": self.nonlinearity,
            "smooth": self.smooth,
            "stress": self.stress.tolist(),
            "strain": self.strain,
            "unknown_cells": self.unknown_cells,
        }


def elastic_constants(
    atoms: Atoms,
    calculator: Any,
    *,
    strain: float = 0.003,
    relax: bool = True,
    fmax: float = 0.001,
) -> ElasticConstants:
    """Return the elastic tensor from twelve strained cells, and from twelve strained twice as far.

    Parameters
    ----------
    atoms
        A crystal at its equilibrium, periodic in three directions; left as it is.
    calculator
        An ASE calculator with stress.
    strain
        Engineering strain; 0.002 to 0.005 is usual.
    relax
        Relax the atoms in each strained cell, to ``fmax`` eV/Angstrom; without it the constants
        are those of clamped ions.
    fmax
        Where relaxations end, eV/Angstrom.

    Raises
    ------
    ConfigError
        A strain that cannot be.
    StructureError
        No crystal, or atoms that do not relax.
    """
    if not 0 < strain <= 0.05:
        raise ConfigError(f"strain = {strain}: above 0 and at most 0.05.")
    require_crystal(atoms, "An elastic tensor")
    from ase.units import GPa

    unknown = []

    def stress_at(component: int, amount: float) -> NDArray[np.float64]:
        cell = strained(atoms, component, amount)
        cell.calc = calculator
        if relax and len(cell) > 1:
            relax_atoms(cell, fmax)
        stress = np.asarray(cell.get_stress() / GPa)
        unknown.append(flagged(calculator))
        return stress

    rest = stress_at(0, 0.0)

    def tensor_at(size: float) -> NDArray[np.float64]:
        columns = [(stress_at(j, size) - stress_at(j, -size)) / (2 * size) for j in range(6)]
        return np.array(columns).T

    raw, doubled = tensor_at(strain), tensor_at(2 * strain)
    if not np.isfinite(raw).all():
        raise StructureError("A stress of a strained cell is not finite.")
    asymmetry = float(np.abs(raw - raw.T).max())
    nonlinearity = float(np.abs(doubled - raw).max())
    symmetric = (raw + raw.T) / 2
    return ElasticConstants(symmetric, asymmetry, nonlinearity, rest, strain, sum(unknown))


def strained(atoms: Atoms, component: int, amount: float) -> Atoms:
    """Return a copy strained in one of Voigt's components, by an engineering strain."""
    first, second = VOIGT[component]
    matrix = np.eye(3)
    # An engineering shear counts both halves of the symmetric strain.
    matrix[first, second] += amount if first == second else amount / 2
    matrix[second, first] = matrix[first, second]
    twin: Atoms = atoms.copy()
    twin.set_constraint()
    twin.set_cell(atoms.cell[:] @ matrix, scale_atoms=True)
    return twin


def _off(c: NDArray[Any]) -> float:
    return float(c[0, 1] + c[0, 2] + c[1, 2])


def draw_elastic(result: ElasticConstants, path: str | os.PathLike[str]) -> None:
    """Draw the tensor as a map with its numbers.

    Parameters
    ----------
    result
        What to draw.
    path
        ``.png``, ``.pdf``, ``.svg`` or ``.jpg``.
    """
    from ase_nnp.files.pictures import new_figure
    from ase_nnp.workflows.picture import save_figure

    figure = new_figure(5.6, 4.8)
    axes = figure.add_subplot()
    limit = float(np.abs(result.tensor).max())
    image = axes.imshow(result.tensor, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for (i, j), value in np.ndenumerate(result.tensor):
        color = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(
            j, i, f"{round(value, 1) + 0.0:.1f}", ha="center", va="center", color=color, fontsize=9
        )
    names = ["xx", "yy", "zz", "yz", "xz", "xy"]
    axes.set_xticks(range(6), names)
    axes.set_yticks(range(6), names)
    moduli = result.moduli
    title = f"bulk {moduli['bulk']:.1f} GPa, shear {moduli['shear']:.1f} GPa"
    axes.set_title(title + ", unknown to the model" * bool(result.unknown_cells), fontsize=10)
    figure.colorbar(image, label="C (GPa)")
    save_figure(figure, path)
