"""Several models on the same structures: energies, forces, and how far they are apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError
from ase_nnp.files.pictures import new_figure
from ase_nnp.models.predictor import Predictor, as_atoms
from ase_nnp.uncertainty.statistics.pool import composition_matrix, fit_element_shifts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ase_nnp.models.potential import Potential

__all__ = ["Comparison", "compare", "plot_comparison"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """M models on n structures; energies in eV, forces in eV/Angstrom.

    Attributes
    ----------
    names, formulas
        Of the models and the structures.
    atoms
        (n,) atoms of each structure.
    energy
        (M, n) as the models give them.
    elements, shifts
        (K,) atomic numbers and (M, K) eV per atom by which a model's energies differ from the
        first model's, fitted by least squares; zero without alignment.
    aligned
        (M, n) energies with the shifts removed.
    forces
        For each structure (M, atoms, 3), or None where a model gives none.
    spare
        Structures beyond those that the shifts need. With none, aligned energies agree whatever
        the models say.
    """

    names: tuple[str, ...]
    formulas: tuple[str, ...]
    atoms: NDArray[np.int64]
    energy: Array
    elements: NDArray[np.int64]
    shifts: Array
    aligned: Array
    forces: list[Array] | None
    spare: int

    @property
    def energy_std(self) -> Array:
        """Sample standard deviation of the aligned energies over the models, eV per atom, (n,)."""
        return np.asarray(self.aligned.std(axis=0, ddof=1) / self.atoms)

    @property
    def force_std(self) -> Array | None:
        """Root mean square over atoms and axes of the models' standard deviation, eV/A, (n,)."""
        if self.forces is None:
            return None
        spread = [np.sqrt((f.std(axis=0, ddof=1) ** 2).mean()) for f in self.forces]
        return np.array(spread, dtype=np.float64)

    def energy_mae(self) -> Array:
        """Mean absolute difference of aligned energies between two models, eV per atom, (M, M)."""
        per_atom = self.aligned / self.atoms
        return np.asarray(np.abs(per_atom[:, None] - per_atom[None, :]).mean(axis=-1))

    def force_mae(self) -> Array | None:
        """Mean absolute difference of force components between two models, eV/A, (M, M)."""
        if self.forces is None:
            return None
        all_forces = np.concatenate([f.reshape(len(f), -1) for f in self.forces], axis=1)
        pairs = [[np.abs(a - b).mean() for b in all_forces] for a in all_forces]
        return np.array(pairs, dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the forces themselves, as plain values."""
        forces = self.force_mae()

        return {
            "models": list(self.names),
            "structures": [
                {
                    "formula": formula,
                    "atoms": int(self.atoms[k]),
                    "energy": self.energy[:, k].tolist(),
                    "energy_aligned": self.aligned[:, k].tolist(),
                    "energy_std_per_atom": float(self.energy_std[k]),
                    "force_std": None if self.force_std is None else float(self.force_std[k]),
                }
                for k, formula in enumerate(self.formulas)
            ],
            "shifts": {
                "elements": self.elements.tolist(),
                "per_atom": self.shifts.tolist(),
                "spare_structures": self.spare,
            },
            "energy_mae_per_atom": self.energy_mae().tolist(),
            "force_mae": None if forces is None else forces.tolist(),
        }


def compare(
    models: Mapping[str, Potential],
    structures: Iterable[Any],
    *,
    align: bool = True,
    progress: bool | None = None,
) -> Comparison:
    """Evaluate models on the same structures and put their energies on the first one's scale.

    Models measure energies from different zeros. One shift per element and model is fitted so that
    its energies match the first model's best; what is left is the disagreement.

    Parameters
    ----------
    models
        Two or more by name, potentials or what :func:`~ase_nnp.from_ase` returns.
    structures
        ase.Atoms or pymatgen structures; a dataset will do.
    align
        Fit the shifts. Without, energies are compared as they are.
    progress
        Show a bar for each model; by default for 50 structures or more on a terminal.

    Raises
    ------
    ConfigError
        Fewer than two models, no structures, or a model without an energy.
    """
    atoms = [as_atoms(s) for s in structures]
    if len(models) < 2 or not atoms:
        raise ConfigError(
            f"A comparison needs two models and a structure; found {len(models)} and {len(atoms)}."
        )
    mute = [name for name, m in models.items() if "energy" not in m.outputs]
    if mute:
        raise ConfigError(f"{', '.join(mute)} gives no energy, so it cannot be compared.")

    with_forces = all("forces" in m.outputs for m in models.values())
    wanted = ("energy", "forces") if with_forces else ("energy",)
    results = [Predictor(m)(atoms, wanted, progress=progress) for m in models.values()]

    energy = np.array([[r["energy"] for r in rows] for rows in results], dtype=np.float64)
    counts, elements = composition_matrix([a.numbers for a in atoms])
    shifts = np.zeros((len(models), len(elements)))
    if align:
        shifts = fit_element_shifts(energy, energy[0], counts)

    forces = None
    if with_forces:
        forces = [np.stack([rows[k]["forces"] for rows in results]) for k in range(len(atoms))]
    return Comparison(
        names=tuple(models),
        formulas=tuple(a.get_chemical_formula() for a in atoms),
        atoms=np.array([len(a) for a in atoms], dtype=np.int64),
        energy=energy,
        elements=elements.astype(np.int64),
        shifts=shifts,
        aligned=energy - shifts @ counts.T,
        forces=forces,
        spare=len(atoms) - (int(np.linalg.matrix_rank(counts)) if align else 0),
    )


def plot_comparison(result: Comparison) -> Figure:
    """Draw each model against the mean of all: aligned energies per atom, and force components.

    Returns
    -------
    matplotlib.figure.Figure
        Drawn without a display; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ConfigError
        matplotlib is not installed.
    """
    panels = 1 if result.forces is None else 2
    figure = new_figure(5.2 * panels, 4.6)
    axes = figure.subplots(1, panels, squeeze=False)[0]

    values = [result.aligned / result.atoms]
    labels = [("energy per atom", "eV")]
    if result.forces is not None:
        values.append(np.concatenate([f.reshape(len(f), -1) for f in result.forces], axis=1))
        labels.append(("force component", "eV/Å"))

    for axis, value, (label, unit) in zip(axes, values, labels, strict=True):
        mean = value.mean(axis=0)
        for name, row in zip(result.names, value, strict=True):
            axis.plot(mean, row - mean, ".", markersize=4, label=name, rasterized=True)
        axis.axhline(0.0, color="#333333", linewidth=0.8)
        axis.set_xlabel(f"mean {label} ({unit})")
        axis.set_ylabel(f"model minus mean ({unit})")
    axes[0].legend(frameon=False, fontsize=8)
    return figure
