"""The program in C++ of docs/export.md builds and gives the model's numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111

from ase_nnp import NNPCalculator
from ase_nnp.models.export import export_model

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options) -> str:
    """Return what a command printed; its words where it failed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def as_text(atoms: Atoms) -> str:
    """What the program reads, with all digits."""
    rows = [[len(atoms)], *atoms.cell.tolist()]
    for number, place in zip(atoms.numbers, atoms.positions, strict=True):
        rows.append([int(number), *place.tolist()])
    return "\n".join(" ".join(map(repr, row)) for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_program_of_the_guide_gives_the_models_numbers(tmp_path):
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    for language, name in (("cpp", "host.cpp"), ("cmake", "CMakeLists.txt")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        (tmp_path / name).write_text(block, encoding="utf-8")

    build, file = tmp_path / "build", tmp_path / "model.pt2"
    where = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    run("cmake", "-S", str(tmp_path), "-B", str(build), where)
    run("cmake", "--build", str(build))

    calc = NNPCalculator(ROOT / "data" / "toy.nnp", device="cpu", dtype="float64")
    export_model(calc.model, file)
    for atoms in (bulk("Cu", a=3.7), fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)):
        atoms.rattle(0.1, seed=1)
        atoms.wrap()
        energy, *forces = run(str(build / "host"), str(file), input=as_text(atoms)).split("\n")
        found = np.array([line.split() for line in forces if line], dtype=float)
        assert float(energy) == pytest.approx(calc.get_potential_energy(atoms), abs=1e-9)
        np.testing.assert_allclose(found, calc.get_forces(atoms), rtol=0, atol=1e-9)
