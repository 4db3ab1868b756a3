"""Elastic moduli and heat capacities of crystals, from tables as matcalc keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.calculator.calculator import NNPCalculator
from ase_nnp.datasets.formats.framefile import first_bytes, read_text
from ase_nnp.datasets.formats.pymatgen_entries import structure_to_sample
from ase_nnp.datasets.formats.rows import parse_json
from ase_nnp.datasets.sample import check_sample, to_atoms
from ase_nnp.errors import AseNnpError, DatasetError
from ase_nnp.models.potential import Potential
from ase_nnp.training.benchmarks.report import Answer, BenchmarkReport

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["crystal_benchmark", "is_crystal_table", "read_crystals"]

#: J/(mol K) of one eV/K a cell.
MOLAR = 96485.33212
_MODULI = {"bulk_modulus_vrh": "bulk", "shear_modulus_vrh": "shear"}


def is_crystal_table(path: Path) -> bool:
    """Whether a file is such a table, judged by its beginning."""
    head = first_bytes(path, 1 << 20)
    return b'"structure"' in head and any(
        name.encode() in head for name in (*_MODULI, "heat_capacity")
    )


def read_crystals(path: str | Path) -> list[tuple[str, Atoms, dict[str, float]]]:
    """Return name, crystal and reference values of each entry: GPa, J/(mol K) of a cell at 300 K.

    Raises
    ------
    DatasetError
        The file is no list of entries with a structure.
    """
    content = parse_json(read_text(Path(path), 8 << 30).encode())
    if not isinstance(content, list):
        raise DatasetError("a table of crystals is a list of entries", path=path)

    crystals = []
    for number, entry in enumerate(content):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("structure"), Mapping):
            raise DatasetError("an entry without a structure", path=path, key=number)
        sample, _ = structure_to_sample(dict(entry["structure"]))
        sample.setdefault("info", {})
        values = {
            name: float(entry[name])
            for name in (*_MODULI, "heat_capacity")
            if isinstance(entry.get(name), (int, float)) and np.isfinite(entry[name])
        }
        name = str(entry.get("mp_id", entry.get("mat_id", entry.get("formula", number))))
        crystals.append((name, to_atoms(check_sample(sample)), values))

    return crystals


def crystal_benchmark(
    model: Potential,
    crystals: Sequence[tuple[str, Atoms, Mapping[str, float]]],
    *,
    benchmark: str,
    name: str,
    relax: bool = True,
    fmax: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Compare moduli (Voigt-Reuss-Hill, GPa) and heat capacities at 300 K (J/(mol K) of a cell).

    Each crystal is relaxed with its cell first, as matcalc does; one that fails is an answer
    without a prediction.
    """
    calculator = NNPCalculator(model, uncertainty=False, dtype="float64")
    answers = []
    for number, (crystal, atoms, values) in enumerate(crystals, 1):
        predicted: dict[str, float] = {}
        problem = ""
        try:
            predicted = _predict(atoms, calculator, set(values), relax, fmax)
        except AseNnpError as error:
            problem = str(error)
        for quantity, reference in values.items():
            value = predicted.get(quantity)
            answers.append(
                Answer(f"{crystal}: {quantity}", quantity, reference, value, problem=problem)
            )
        if progress is not None:
            progress(number, len(crystals))

    heat = any("heat_capacity" in values for _, _, values in crystals)
    report = BenchmarkReport(
        benchmark,
        "phonons" if heat else "elastic",
        name,
        unit="J/(mol K)" if heat else "GPa",
        answers=answers,
    )
    report.notes.append("no error bars: the model's energy_std is not that of a second derivative")

    return report


def _predict(
    atoms: Atoms, calculator: Any, wanted: set[str], relax: bool, fmax: float
) -> dict[str, float]:
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    crystal = atoms.copy()
    crystal.calc = calculator
    if relax:
        filtered: Any = FrechetCellFilter(crystal)
        BFGS(filtered, logfile=None).run(fmax=fmax, steps=500)
    predicted: dict[str, float] = {}
    if wanted & set(_MODULI):
        from ase_nnp.workflows.elastic import elastic_constants

        moduli = elastic_constants(crystal, calculator).moduli
        predicted = {name: moduli[ours] for name, ours in _MODULI.items()}
    if "heat_capacity" in wanted:
        from ase_nnp.workflows.phonons import phonons

        thermal = phonons(crystal, calculator, supercell=_repeats(crystal)).thermal(300.0)
        predicted["heat_capacity"] = MOLAR * thermal["heat_capacity"]
    return {name: value for name, value in predicted.items() if name in wanted}


def _repeats(atoms: Atoms) -> tuple[int, int, int]:
    """Repeat until every side has 8 Angstrom, twice the range of most forces."""
    a, b, c = (int(np.ceil(8.0 / length)) for length in atoms.cell.lengths())
    return a, b, c
