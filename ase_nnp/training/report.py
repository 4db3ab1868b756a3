"""What the labels of a training set are and what was done about it, for people and for files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["TrainingReport"]


@dataclass
class TrainingReport:
    """What the labels are and what was done about it; ``lines()`` for people.

    ``references`` are eV by symbol; ``residual`` holds mean, standard deviation and range of the
    energy an atom (eV) that is left for the network; ``energy_scale`` (eV) and ``forces_scale``
    (eV/Angstrom) are what an output of 1 will be worth.
    """

    structures: int = 0
    atoms: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)
    energy_kind: str = "total"
    source: str = "none"
    references: dict[str, float] = field(default_factory=dict)
    rank: int | None = None
    mean: float = 0.0
    residual: dict[str, Any] = field(default_factory=dict)
    forces_rms: float | None = None
    energy_scale: float = 1.0
    forces_scale: float = 1.0
    set_in_model: bool = False
    sha256: str = ""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text."""
        text = [f"{self.structures} structures, {self.atoms} atoms; labels: " + _counts(self)]
        if self.references:
            table = ", ".join(f"{k} {v:.4f}" for k, v in self.references.items())
            text.append(f"reference energies ({self.source}, eV): {table}")
        if self.residual.get("count"):
            text.append(
                "left for the network: {mean:.4f} ± {std:.4f} eV an atom "
                "(from {min:.4f} to {max:.4f})".format(**self.residual)
            )

        if self.mean:
            text.append(f"mean energy of a structure: {self.mean:.4f} eV")
        if self.forces_rms is not None:
            text.append(f"root mean square of force components: {self.forces_rms:.4f} eV/Å")
        if self.set_in_model:
            text.append(
                f"an output of 1 is {self.energy_scale:.4f} eV, {self.forces_scale:.4f} eV/Å"
            )
        return text + self.notes


def _counts(report: TrainingReport) -> str:
    parts = [f"{name} {count}" for name, count in report.labels.items() if count]
    return ", ".join(parts) or "none"
