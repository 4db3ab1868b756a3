"""What the published 2018 models predict: names, outputs and units."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROPERTIES", "Property", "find_property", "same_name"]


@dataclass(frozen=True)
class Property:
    """A crystal property: the published name, our output name and the unit.

    ``derived`` names what follows from it: 10**x of a logarithm, or the total of a value per atom.
    """

    name: str
    output: str
    unit: str
    derived: str = ""
    derived_unit: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Everything a model of this property returns, the main one first."""
        both = (self.output, self.derived) if self.derived else (self.output,)
        return both[::-1] if self.derived == "energy" else both

    @property
    def units(self) -> dict[str, str]:
        """Unit of each output."""
        return {self.output: self.unit} | (
            {self.derived: self.derived_unit} if self.derived else {}
        )


PROPERTIES = (
    Property("band-gap", "band_gap", "eV"),
    Property("formation-energy-per-atom", "formation_energy_per_atom", "eV/atom"),
    Property("final-energy-per-atom", "energy_per_atom", "eV/atom", "energy", "eV"),
    Property("efermi", "fermi_energy", "eV"),
    Property("bulk-moduli", "log_bulk_modulus", "log10(GPa)", "bulk_modulus", "GPa"),
    Property("shear-moduli", "log_shear_modulus", "log10(GPa)", "shear_modulus", "GPa"),
    Property("poisson-ratio", "poisson_ratio", "1"),
    Property("semi-metal-classification", "metal_probability", "1"),
)

#: Of a model whose property is not known.
UNKNOWN = {"regression": "property", "classification": "class_probability"}


def same_name(text: str) -> str:
    """Write a name as outputs are written: ``Band-Gap`` as ``band_gap``."""
    return text.strip().lower().replace("-", "_").replace(" ", "_")


def find_property(text: str) -> Property | None:
    """Return the published property called ``text``, by its own or its output's name."""
    for known in PROPERTIES:
        if same_name(text) in (same_name(known.name), known.output, known.derived):
            return known
    return None


def choose_property(text: str | None, task: str) -> Property:
    """Return the published property of that name, or one of the user's own."""
    if text is None:
        return Property(UNKNOWN[task], UNKNOWN[task], "")
    return find_property(text) or Property(text, same_name(text), "")
