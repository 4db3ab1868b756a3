"""Surfaces of a crystal: slabs of every distinct plane and termination, tagged as in OC20.

pymatgen's SlabGenerator (Tran et al. 2016, doi:10.1038/sdata.2016.80) finds the planes and the
terminations. Tags: 0 below, 1 surface (fewer neighbors than inside); what lies below is fixed, as
in OC20 (Chanussot et al. 2021, doi:10.1021/acscatal.0c04525).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import AseNnpError, ConfigError, StructureError
from ase_nnp.files.identity import digest
from ase_nnp.workflows.adsorption.fingerprints import Frame
from ase_nnp.workflows.adsorption.layers import layer_heights, under_coordinated

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["bulk_crystal", "bulk_id", "prepared", "surface", "surfaces"]

#: Angstrom that a supercell is wide at least, as in OC20.
WIDTH = 8.0
#: Angstrom of atoms where no number of layers is asked for, as in OC20.
THICKNESS = 7.0
#: Angstrom from the lowest to the highest layer of such a slab of one element.
SPAN = 5.8
#: Two terminations differ by this at least, Angstrom.
TERMINATION = 0.3


def surfaces(
    bulk: Any,
    max_miller: int = 2,
    *,
    layers: int | None = None,
    vacuum: float = 16.0,
    width: float = WIDTH,
) -> list[Atoms]:
    """Return a slab of every distinct plane and termination of a crystal.

    Parameters
    ----------
    bulk
        An element (``"Pt"``: the crystal of :func:`ase.build.bulk`), a file, an ase.Atoms or a
        pymatgen structure.
    max_miller
        Largest Miller index, in the conventional cell.
    layers
        Atomic layers at least; a crystal of one element has exactly so many. By default as many
        as make 7 Angstrom, as in OC20: four of fcc(111), ten of fcc(211).
    vacuum
        Angstrom between a slab and its image.
    width
        Angstrom that the supercell measures at least along both lateral vectors.

    Returns
    -------
    list of ase.Atoms
        With OC20 tags, the atoms of tag 0 fixed, and in ``info``: ``miller``, ``shift``,
        ``top`` (False: the slab was turned upside down), ``bulk_id``, ``slab_id``.

    Raises
    ------
    StructureError
        The bulk is not periodic in three directions.
    AseNnpError
        pymatgen is not installed.
    """
    _check(layers, vacuum, width)
    if max_miller < 1:
        raise ConfigError(f"max_miller = {max_miller}: an integer of 1 or more.")
    _need_pymatgen()
    from pymatgen.core.surface import get_symmetrically_distinct_miller_indices

    conventional = _conventional(bulk_crystal(bulk))
    with _without_deprecations():
        planes = get_symmetrically_distinct_miller_indices(conventional, max_miller)
    return [
        slab
        for plane in sorted(planes, key=lambda p: (sum(abs(k) for k in p), p))
        for slab in _terminations(conventional, plane, layers, vacuum, width)
    ]


def surface(
    bulk: Any,
    miller: Sequence[int],
    *,
    layers: int | None = None,
    vacuum: float = 16.0,
    width: float = WIDTH,
    termination: int = 0,
) -> Atoms:
    """Return a slab of one plane of a crystal.

    Parameters
    ----------
    bulk, layers, vacuum, width
        As in :func:`surfaces`.
    miller
        (h, k, l) or hexagonal (h, k, i, l).
    termination
        Which of the distinct terminations, lowest shift first.

    Returns
    -------
    ase.Atoms
        As in :func:`surfaces`.

    Raises
    ------
    ConfigError
        No such plane or termination.
    """
    _check(layers, vacuum, width)
    plane = tuple(int(k) for k in miller)
    if len(plane) == 4:
        plane = (plane[0], plane[1], plane[3])
    if len(plane) != 3 or not any(plane):
        raise ConfigError(f"miller = {tuple(miller)}: three or four integers, not all zero.")
    _need_pymatgen()

    slabs = _terminations(_conventional(bulk_crystal(bulk)), plane, layers, vacuum, width)
    if not 0 <= termination < len(slabs):
        raise ConfigError(
            f"termination = {termination}: the plane {plane} has {len(slabs)}, counted from 0."
        )
    return slabs[termination]


def bulk_crystal(given: Any) -> Atoms:
    """Return a crystal from an element's symbol, a file, an ase.Atoms or a pymatgen structure."""
    from ase.data import atomic_numbers

    from ase_nnp.models.predictor import as_atoms

    if isinstance(given, (str, Path)):
        if str(given) in atomic_numbers:
            from ase.build import bulk

            given = bulk(str(given))
        else:
            from ase_nnp.datasets import open_dataset

            if not Path(given).exists():
                raise ConfigError(f"'{given}' is neither an element's symbol nor a file.")
            given = open_dataset(given)[0]
    crystal = as_atoms(given)
    if not (crystal.pbc.all() and crystal.cell.rank == 3):
        raise StructureError(
            f"A crystal is periodic in three directions; {crystal.get_chemical_formula()} has pbc "
            f"{crystal.pbc.tolist()}."
        )
    return crystal


def bulk_id(bulk: Any) -> str:
    """Return an id of a crystal's content: formula and a digest of its conventional cell."""
    return _bulk_id(_conventional(bulk_crystal(bulk)))


def prepared(slab: Atoms) -> Atoms:
    """Return a copy with OC20's tags and the atoms below the surface fixed.

    Parameters
    ----------
    slab
        A clean slab, its surface towards the third cell vector.
    """
    from ase.constraints import FixAtoms

    tagged: Atoms = slab.copy()
    tagged.info.pop("adsorbate_info", None)  # ASE's own, which no file format holds
    height = Frame(tagged).inside(tagged.positions)[:, 2]
    upper = height > (height.max() + height.min()) / 2
    top = np.abs(height - layer_heights(tagged)[-1]) < 0.3
    tagged.set_tags((upper & (under_coordinated(tagged) > 0.0)) | top)
    tagged.set_constraint(FixAtoms(mask=tagged.get_tags() == 0))
    return tagged


def _check(layers: int | None, vacuum: float, width: float) -> None:
    if (layers is not None and layers < 1) or not vacuum > 0 or not width > 0:
        raise ConfigError(
            f"layers = {layers}, vacuum = {vacuum}, width = {width}: a number of layers and two "
            "lengths in Angstrom, all above zero."
        )


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Silence what pymatgen's use of spglib says to pymatgen's developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _need_pymatgen() -> None:
    try:
        import pymatgen.core.surface  # noqa: F401
    except ImportError as error:
        raise AseNnpError(
            "Surfaces need pymatgen; install it with: pip install ase_nnp[pymatgen]"
        ) from error


@_without_deprecations()
def _conventional(crystal: Atoms) -> Any:
    """pymatgen's conventional standard structure: Miller indices are those of the textbook."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    plain = crystal.copy()
    plain.calc = None
    plain.info = {}
    plain.set_constraint()
    for name in set(plain.arrays) - {"numbers", "positions"}:
        del plain.arrays[name]
    structure = AseAtomsAdaptor.get_structure(plain)
    return SpacegroupAnalyzer(structure, symprec=0.1).get_conventional_standard_structure()


def _bulk_id(conventional: Any) -> str:
    # Hundredths of an Angstrom: a file that was written and read back is the same crystal.
    lattice = [round(v, 2) + 0.0 for v in conventional.lattice.parameters]
    sites = sorted(
        (site.specie.symbol, *(round(x % 1.0, 2) % 1.0 for x in site.frac_coords))
        for site in conventional
    )
    formula = conventional.composition.reduced_formula
    return f"{formula}-{digest([lattice, [list(s) for s in sites]])[:8]}"


@_without_deprecations()
def _terminations(
    conventional: Any, plane: tuple[int, ...], layers: int | None, vacuum: float, width: float
) -> list[Atoms]:
    """The slabs of one plane, lowest shift first, those with two faces from both sides."""
    from pymatgen.core.surface import SlabGenerator

    # pymatgen is asked for a thickness in Angstrom; layers are counted afterwards.
    thickness = THICKNESS if layers is None else 1.2 * layers
    for _ in range(12):
        generator = SlabGenerator(
            conventional, plane, thickness, vacuum, primitive=True, max_normal_search=1
        )
        made = generator.get_slabs(tol=TERMINATION, ftol=TERMINATION)
        counts = [len(layer_heights(_atoms(s, vacuum))) for s in made]
        if layers is None or (counts and min(counts) >= layers):
            break
        thickness *= 1.25
    name = _bulk_id(conventional)

    slabs = []
    for one in sorted(made, key=lambda s: round(float(s.shift), 4)):
        for top in (True, False) if not one.is_symmetric() else (True,):
            atoms = _trimmed(_atoms(one, vacuum, top), layers, vacuum)
            atoms = prepared(_widened(atoms, width))
            atoms.info = {
                "miller": plane,
                "shift": round(float(one.shift), 4),
                "top": top,
                "bulk_id": name,
            }
            said = [name, list(plane), f"{one.shift:.2f}", top, layers, f"{width:.1f}"]
            label = "".join(str(k) for k in plane)
            atoms.info["slab_id"] = f"{name.split('-')[0]}-{label}-{digest(said)[:8]}"
            slabs.append(atoms)
    return slabs


def _atoms(slab: Any, vacuum: float, top: bool = True) -> Atoms:
    """A pymatgen slab as Atoms: first vector along x, surface along z, vacuum all around."""
    from ase import Atoms
    from ase.cell import Cell

    straight = slab.get_orthogonal_c_slab()
    # The standard form has the first vector along x and the second in the plane.
    cell = Cell(straight.lattice.matrix).standard_form()[0]
    fractions = np.array(straight.frac_coords)
    if not top:
        fractions[:, 2] *= -1
    symbols = [site.specie.symbol for site in straight]
    atoms = Atoms(symbols, cell=cell, pbc=True, scaled_positions=fractions % 1.0)

    # pymatgen may leave the slab cut in two by the cell's bottom: its gap is brought to the top.
    heights = np.sort(atoms.get_scaled_positions()[:, 2])
    gaps = np.diff(np.append(heights, heights[0] + 1.0))
    shift = heights[(int(gaps.argmax()) + 1) % len(heights)]
    scaled = atoms.get_scaled_positions()
    scaled[:, 2] = (scaled[:, 2] - shift + 1e-6) % 1.0
    atoms.set_scaled_positions(scaled)
    atoms.center(vacuum=vacuum / 2, axis=2)
    return atoms


def _trimmed(atoms: Atoms, layers: int | None, vacuum: float) -> Atoms:
    """Without the lowest layers that are more than was asked for, in a crystal of one element.

    pymatgen adds whole repeats of the crystal, up to three layers of fcc(111) too many.
    """
    heights = layer_heights(atoms)
    if len(set(atoms.numbers.tolist())) > 1:
        return atoms
    if layers is None:
        spans = [heights[-1] - height for height in heights]
        enough = [n for n, span in enumerate(reversed(spans), 1) if n >= 4 and span >= SPAN]
        layers = min(enough, default=len(heights))
    if len(heights) <= layers:
        return atoms

    lowest = (heights[-layers] + heights[-layers - 1]) / 2
    trimmed: Atoms = atoms[atoms.positions[:, 2] > lowest]
    trimmed.center(vacuum=vacuum / 2, axis=2)
    return trimmed


def _widened(atoms: Atoms, width: float) -> Atoms:
    """The supercell whose lateral vectors are as near to a right angle as the lattice allows."""
    from ase.cell import Cell
    from ase.geometry import minkowski_reduce

    # pymatgen's vectors may enclose 156 degrees: 9 Angstrom long, and images 4 Angstrom apart.
    reduced = minkowski_reduce(atoms.cell[:], pbc=[True, True, False])[0]
    plain = atoms.copy()
    plain.set_cell(reduced)
    plain.wrap(eps=1e-6)
    fractions = plain.get_scaled_positions()
    plain.set_cell(Cell(reduced).standard_form()[0])
    plain.set_scaled_positions(fractions)

    lengths = np.linalg.norm(plain.cell[:2], axis=1)
    repeats = np.ceil(width / lengths - 1e-6).astype(int)
    wide: Atoms = plain.repeat((*repeats.tolist(), 1))
    return wide
