"""The picture of ``ase-nnp relax --plot``, with site and adsorption energy where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.cli.commands.crystal import number_with_bar
from ase_nnp.cli.commands.output import warn
from ase_nnp.errors import AseNnpError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["adsorption_words", "draw_first"]


def draw_first(
    path: Path,
    potential: Potential,
    start: Atoms,
    end: Atoms,
    row: dict[str, Any],
    folder: Path | str | None,
    warnings: list[str],
) -> None:
    """Draw a relaxation; ``row`` gains the site and the adsorption energy that the title says.

    Parameters
    ----------
    path
        The picture.
    potential
        The model.
    start, end
        The structure before and after.
    row
        The report of this structure.
    folder
        Of the run, with its trajectories.
    warnings
        A picture that fails is no reason to lose a relaxation: it becomes a warning, added here.
    """
    from ase_nnp.workflows.picture import draw_relaxation

    try:
        energies = _energies(folder, row)
        row.update(_adsorption(potential, end, row))
        draw_relaxation(
            start,
            end,
            path,
            energies=energies,
            energy_std=row.get("energy_std"),
            title=_title(row),
        )
    # The relaxation is done and written: a picture is no reason to fail.
    except (AseNnpError, OSError) as error:
        warn(f"the picture {path} could not be drawn ({error})", warnings)


def _energies(folder: Path | str | None, row: dict[str, Any]) -> list[float]:
    """Energies of each step from a batched run's trajectory; both ends alone if there is none."""
    place = Path(folder or ".") / f"{row['index']:06d}.traj"
    if not place.is_file():
        return [row["energy_before"], row["energy"]]
    from ase.io import iread

    return [float(atoms.get_potential_energy()) for atoms in iread(str(place), index=":")]


def _adsorption(potential: Potential, end: Atoms, row: dict[str, Any]) -> dict[str, Any]:
    """Site and, with references that the model can give, adsorption energy of a relaxed slab."""
    from ase_nnp.workflows.surfaces import adsorption_site, clean_slab

    site, parts = adsorption_site(end), clean_slab(end)
    if site is None or parts is None:
        return {}
    said: dict[str, Any] = {"adsorption_site": site.name}

    # The energy of a structure that still moves is no adsorption energy.
    if not row["converged"]:
        return said
    from ase_nnp.workflows.adsorption import adsorption_energy
    from ase_nnp.workflows.batched import relax_many

    try:
        # OC20's reference is the relaxed clean slab, not the slab with a hole where the adsorbate
        # was.
        slab = relax_many(potential, parts[0], fmax=0.05, steps=100)[0]
        if slab.converged:
            result = adsorption_energy(end, slab.atoms, "oc20", potential)
            said |= {"adsorption_energy": result.energy, "reaction": result.reaction}
            said |= {} if result.std is None else {"adsorption_std": result.std}
            said |= {"adsorption_unknown": list(result.unknown)} if result.unknown else {}
    except AseNnpError:
        pass  # no references for these elements, or a model that knows no molecules: site alone
    return said


def adsorption_words(row: dict[str, Any], digits: int) -> str:
    """Return reaction and adsorption energy of a row, with error bar and what is unknown."""
    energy = number_with_bar(row["adsorption_energy"], row.get("adsorption_std"), digits)
    unknown = row.get("adsorption_unknown", ())
    doubt = f"; unknown to the model: {', '.join(unknown)}" if unknown else ""
    return f"{row['reaction']}: {energy} eV{doubt}"


def _title(row: dict[str, Any]) -> str:
    title = str(row["formula"])
    if "adsorption_site" in row:
        title += f", adsorbate at: {row['adsorption_site']}"
    if "adsorption_energy" in row:
        title += f"\n{adsorption_words(row, 2)}"
    if row.get("out_of_domain"):
        title += "\nunknown to the model"
    return title if row["converged"] else f"{title} (not converged)"
