"""LAMMPS's tables of embedded-atom potentials: ``setfl`` (eam/alloy) and its eam/fs form.

The layout is that of https://docs.lammps.org/pair_eam.html: three comment lines, the elements, the
grids; then for each element its embedding function and density (in eam/fs one density for each
element of the center), and the pair functions as ``r * phi`` in the order 00, 10, 11, 20, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers, chemical_symbols, reference_states

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.regular import open_regular, read_regular

from .model import SplineEAM
from .splines import evaluate

__all__ = ["read_setfl", "write_setfl"]

#: The largest files of the published potentials hold a few megabytes.
LIMIT = 1 << 28
MAX_POINTS = 1_000_000


def read_setfl(path: str | Path, kind: str | None = None) -> SplineEAM:
    """Return the potential of a file for LAMMPS's ``eam/alloy`` or ``eam/fs``.

    Parameters
    ----------
    path
        The file.
    kind
        ``"alloy"`` or ``"fs"``; by default as many tables as there are say it.

    Raises
    ------
    CheckpointError
        It is no such file, or numbers are missing, superfluous or not finite.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:  # models of gigabytes are not read to be refused
            head = file.read(4096)
        symbols, sizes = _header(head.decode("utf-8", errors="strict").splitlines())
        lines = read_regular(path, LIMIT).decode().splitlines()
        tables = _Numbers(lines[5:])
        return _filled(symbols, sizes, tables, kind)
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise CheckpointError(f"{path} is no setfl file of LAMMPS: {error}") from error


def _header(lines: list[str]) -> tuple[list[str], tuple[int, float, int, float, float]]:
    words = lines[3].split()
    symbols = words[1:]
    if not words[0].isdigit() or int(words[0]) != len(symbols) or not symbols:
        raise ValueError(f"line 4 must be a number and as many elements, not {lines[3][:80]!r}")
    unknown = [s for s in symbols if s not in atomic_numbers]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} in line 4 is no element")

    num_rho, drho, num_r, dr, cutoff = lines[4].split()[:5]
    sizes = int(num_rho), _float(drho), int(num_r), _float(dr), _float(cutoff)
    points = sizes[0], sizes[2]
    if min(points) < 5 or max(points) > MAX_POINTS or not min(sizes[1], *sizes[3:]) > 0:
        raise ValueError(f"line 5 must be Nrho, drho, Nr, dr, cutoff, not {lines[4][:80]!r}")
    return symbols, sizes


def _filled(
    symbols: list[str],
    sizes: tuple[int, float, int, float, float],
    tables: _Numbers,
    kind: str | None,
) -> SplineEAM:
    num_rho, drho, num_r, dr, cutoff = sizes
    n = len(symbols)
    pairs = n * (n + 1) // 2
    if kind is None:
        # Four words introduce an element; what else there is depends on the kind alone.
        fs = n * (4 + num_rho + n * num_r) + pairs * num_r
        kind = "fs" if n > 1 and tables.count == fs else "alloy"
    each = n if kind == "fs" else 1

    embedding, density = [], []
    for _ in range(n):
        tables.skip(4)
        embedding.append(tables.take(num_rho))
        density += [tables.take(num_r) for _ in range(each)]
    rphi = np.array([tables.take(num_r) for _ in range(pairs)])
    if tables.left:
        raise ValueError(f"{tables.left} numbers more than the header says")

    r = np.arange(num_r) * dr
    r[0] = 1.0  # of no consequence: the first value of a pair function is not used
    model = SplineEAM(
        symbols, kind, cutoff, num_r, num_rho, r[-1], (num_rho - 1) * drho, smooth=False
    ).double()
    model.set_tables(rphi / r, np.array(density), np.array(embedding))
    model.config = _config(model)
    return model.eval()


def _config(model: SplineEAM) -> dict[str, Any]:
    return {
        "elements": [chemical_symbols[z] for z in model.numbers],
        "kind": model.kind,
        "cutoff": model.cutoff,
        "num_r": model.num_r,
        "num_rho": model.num_rho,
        "r_max": model.r_max,
        "rho_max": model.rho_max,
        "smooth": model.smooth,
    }


class _Numbers:
    """The words of a file, taken in turn."""

    def __init__(self, lines: list[str]) -> None:
        self.words = [word for line in lines for word in line.split()]
        self.count, self.next = len(self.words), 0

    @property
    def left(self) -> int:
        return self.count - self.next

    def skip(self, number: int) -> None:
        self.next += number

    def take(self, number: int) -> np.ndarray:
        if self.left < number:
            raise ValueError(f"it ends where {number} more numbers were expected")
        words = self.words[self.next : self.next + number]
        self.next += number
        values = np.array([_float(word) for word in words])
        if not np.isfinite(values).all():
            raise ValueError("it holds a number that is not finite")
        return values


def _float(word: str) -> float:
    return float(word.replace("D", "E").replace("d", "e"))  # Fortran's double precision


@torch.no_grad()
def write_setfl(model: SplineEAM, path: str | Path, refine: int = 4) -> None:
    """Write a model for LAMMPS's ``eam/alloy`` or ``eam/fs``, or ASE's ``EAM``.

    Parameters
    ----------
    model
        Its scale and energies of free atoms go into the embedding and pair functions.
    path
        ASE wants the ending ``.alloy`` or ``.fs``.
    refine
        Points written for each interval of the model's grids, at least 3: then the splines that
        ASE makes of them are the model's own functions, to rounding.

    Raises
    ------
    ConfigError
        ``refine`` is less than 3, or the model is another.
    """
    if not isinstance(model, SplineEAM):
        raise ConfigError(f"A spline_eam model was expected, not {type(model).__name__}.")
    # With 2, ASE's pair functions, which begin at the second point, would have no knot where the
    # model's have one.
    if refine < 3:
        raise ConfigError(f"refine must be at least 3, not {refine}.")
    with whole_file(path) as beside:
        beside.write_text("\n".join(_lines(model, refine)) + "\n")


def _lines(model: SplineEAM, refine: int) -> Iterator[str]:
    symbols = [chemical_symbols[z] for z in model.numbers]
    num_r, num_rho = refine * (model.num_r - 1) + 1, refine * (model.num_rho - 1) + 1
    yield f"ase_nnp spline_eam: {', '.join(symbols)}"
    yield "Embedded-atom potential of cubic splines, eV and Angstrom"
    yield f"LAMMPS: pair_style eam/{model.kind}"
    yield f"{len(symbols)} {' '.join(symbols)}"
    dr, drho = model.r_max / (num_r - 1), model.rho_max / (num_rho - 1)
    yield f"{num_rho} {drho:.17g} {num_r} {dr:.17g} {model.cutoff:.17g}"

    scale = float(model.scale)
    density = _sampled(model._radial(model.density), num_r, refine)
    embedding = scale * _sampled(model.embedding, num_rho, refine)
    embedding += model.references.cpu().numpy()[:, None]
    rows = iter(density)
    for z, function in zip(model.numbers, embedding, strict=True):
        state = reference_states[z] or {}
        lattice = state.get("symmetry", "fcc")
        yield f"{z} {atomic_masses[z]:.6f} {state.get('a', 0.0):.4f} {lattice}"
        yield from _numbers_of(function)
        for _ in range(len(density) // len(symbols)):
            yield from _numbers_of(next(rows))
    pair = scale * _sampled(model._radial(model.pair), num_r, refine)
    for function in pair:
        yield from _numbers_of(function * np.arange(num_r) * dr)


def _sampled(table: torch.Tensor, count: int, refine: int) -> np.ndarray:
    x = torch.arange(count, dtype=torch.float64, device=table.device) / refine
    rows = range(len(table))
    values = [evaluate(table.double(), torch.full((count,), k).to(x.device), x) for k in rows]
    return torch.stack(values).cpu().numpy()


def _numbers_of(values: np.ndarray) -> Iterator[str]:
    for start in range(0, len(values), 5):
        yield " ".join(f"{value:.17g}" for value in values[start : start + 5].tolist())
