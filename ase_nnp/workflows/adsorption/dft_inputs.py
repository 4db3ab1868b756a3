"""Input folders for density-functional codes, for the best minima of a search.

Settings are those of OC20 (Chanussot et al. 2021, doi:10.1021/acscatal.0c04525) as far as they
carry over: RPBE, a plane-wave cutoff of 350 eV for VASP, and 40 Angstrom times k-points.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import whole_file, write_whole
from ase_nnp.workflows.adsorption.result import AdsorptionResult

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CODES", "write_dft_inputs"]

CODES = ("vasp", "espresso", "gpaw")
#: k-points times Angstrom along each lateral vector, as in OC20.
DENSITY = 40.0

VASP: dict[str, Any] = {
    "GGA": "RP",
    "ENCUT": 350,
    "EDIFF": 1e-4,
    "EDIFFG": -0.03,
    "ISMEAR": 1,
    "SIGMA": 0.2,
    "IBRION": 2,
    "NSW": 0,
    "LREAL": "Auto",
    "LWAVE": ".FALSE.",
    "LCHARG": ".FALSE.",
}
ESPRESSO: dict[str, dict[str, Any]] = {
    "control": {"calculation": "scf", "tprnfor": True, "pseudo_dir": "../pseudo"},
    "system": {
        "ecutwfc": 40,
        "ecutrho": 400,
        "input_dft": "RPBE",
        "occupations": "smearing",
        "smearing": "mv",
        "degauss": 0.015,
    },
    "electrons": {"conv_thr": 1e-7},
}
GPAW = """from ase.io import read
from gpaw import GPAW, PW

atoms = read("structure.traj")
atoms.calc = GPAW(mode=PW({cutoff}), xc="{xc}", kpts={kpts}, txt="gpaw.txt")
print("energy (eV):", atoms.get_potential_energy())
"""


def write_dft_inputs(
    result: AdsorptionResult,
    folder: str | os.PathLike[str],
    code: str = "vasp",
    *,
    best: int = 5,
    settings: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a folder of inputs for each of the best minima, the clean slab and every molecule.

    Parameters
    ----------
    result
        Of :func:`~ase_nnp.workflows.adsorption.adsorb`.
    folder
        Made if missing, empty otherwise; ``minimum-1``, ..., ``slab`` and ``gas-CO``, ... lie in
        it.
    code
        ``"vasp"`` (POSCAR, INCAR, KPOINTS; POTCAR is yours), ``"espresso"`` (``espresso.pwi``;
        pseudopotentials are expected as ``ELEMENT.UPF``) or ``"gpaw"`` (a script).
    best
        How many minima.
    settings
        Added to, or instead of, those of this module: INCAR tags; sections of Quantum ESPRESSO's
        input; ``cutoff`` (eV) and ``xc`` of GPAW.

    Returns
    -------
    list of Path
        The folders. Fixed atoms stay fixed where the code's file can say so.

    Raises
    ------
    ConfigError
        An unknown code, or a folder that holds something: minima of an earlier search, or what a
        code has written there, would be taken for those of this one.
    """
    if code not in CODES:
        raise ConfigError(f"No inputs for '{code}'. There are: {', '.join(CODES)}.")
    there = sorted(one.name for one in Path(folder).iterdir()) if Path(folder).is_dir() else []
    if there:
        raise ConfigError(
            f"{folder} holds {', '.join(there[:3])}{', ...' if len(there) > 3 else ''} already; "
            "name another folder for these inputs, or remove it."
        )
    structures = {f"minimum-{k + 1}": one.atoms for k, one in enumerate(result.minima[:best])}
    structures["slab"] = result.slab
    structures |= {f"gas-{name}": atoms for name, atoms in result.gas.items()}
    write = {"vasp": _vasp, "espresso": _espresso, "gpaw": _gpaw}[code]

    written = []
    for name, atoms in structures.items():
        place = Path(folder) / name
        place.mkdir(parents=True, exist_ok=True)
        plain = atoms.copy()
        plain.calc = None
        if not plain.pbc.any():
            # A molecule in a box of its own, whose sides differ: no symmetry is assumed.
            plain.center(vacuum=6.0)
            plain.cell[1, 1] += 0.5
            plain.cell[2, 2] += 1.0
            plain.pbc = True
        write(place, plain, settings or {}, _kpoints(atoms))
        written.append(place)
    return written


def _kpoints(atoms: Atoms) -> tuple[int, int, int]:
    if not atoms.pbc.any():
        return (1, 1, 1)
    lengths = np.linalg.norm(atoms.cell[:2], axis=1)
    first, second = (max(1, round(DENSITY / float(length))) for length in lengths)
    return (first, second, 1)


def _vasp(
    folder: Path, atoms: Atoms, settings: Mapping[str, Any], kpts: tuple[int, int, int]
) -> None:
    from ase.io import write

    with whole_file(folder / "POSCAR") as beside:
        write(beside, atoms, format="vasp", sort=True, direct=True)
    tags = {**VASP, **settings}
    write_whole(folder / "INCAR", "".join(f"{k} = {v}\n" for k, v in tags.items()))
    numbers = " ".join(str(k) for k in kpts)
    write_whole(folder / "KPOINTS", f"automatic\n0\nGamma\n{numbers}\n0 0 0\n")


def _espresso(
    folder: Path, atoms: Atoms, settings: Mapping[str, Any], kpts: tuple[int, int, int]
) -> None:
    from ase.io import write

    data = {k: {**v, **dict(settings.get(k, {}))} for k, v in ESPRESSO.items()}
    pseudopotentials = {symbol: f"{symbol}.UPF" for symbol in set(atoms.get_chemical_symbols())}
    with whole_file(folder / "espresso.pwi") as beside:
        write(
            beside,
            atoms,
            format="espresso-in",
            input_data=data,
            pseudopotentials=pseudopotentials,
            kpts=kpts,
        )


def _gpaw(
    folder: Path, atoms: Atoms, settings: Mapping[str, Any], kpts: tuple[int, int, int]
) -> None:
    from ase.io import write

    with whole_file(folder / "structure.traj") as beside:
        write(beside, atoms, format="traj")
    words = {"cutoff": 400, "xc": "RPBE", **settings, "kpts": kpts}
    write_whole(folder / "run.py", GPAW.format(**words))
