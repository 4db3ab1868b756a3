"""i-PI: dynamics at constant pressure, with forces and virial from ASE's socket client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.socketio import SocketClient
from ase.io import write

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

INPUT = """
<simulation verbosity='quiet' safe_stride='1000'>
  <output prefix='run'>
    <properties stride='1' filename='out' flush='1'>
      [step, potential{{electronvolt}}, volume{{angstrom3}}, pressure_md{{megapascal}}, conserved]
    </properties>
  </output>
  <total_steps>8</total_steps>
  <prng><seed>4711</seed></prng>
  <ffsocket mode='unix' name='driver'><address>{address}</address><latency>1e-3</latency></ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='ase' units='automatic'>start.extxyz</file>
      <velocities mode='thermal' units='kelvin'>300</velocities>
    </initialize>
    <forces><force forcefield='driver'/></forces>
    <motion mode='dynamics'>
      <dynamics mode='npt'>
        <timestep units='femtosecond'>2</timestep>
        <thermostat mode='langevin'><tau units='femtosecond'>100</tau></thermostat>
        <barostat mode='isotropic'>
          <tau units='femtosecond'>200</tau>
          <thermostat mode='langevin'><tau units='femtosecond'>100</tau></thermostat>
        </barostat>
      </dynamics>
    </motion>
    <ensemble>
      <temperature units='kelvin'>300</temperature><pressure units='megapascal'>0</pressure>
    </ensemble>
  </system>
</simulation>
"""


@pytest.fixture
def server():
    """The program `i-pi` of this environment."""
    pytest.importorskip("ipi", reason="needs ipi")
    program = shutil.which("i-pi", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    if program is None:
        pytest.skip("needs the program i-pi")
    return program


def dynamics(server, calc, name):
    """Energy, volume, pressure and conserved quantity after each step (9, 4)."""
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (2, 2, 2)
    folder = Path(name)
    folder.mkdir()
    write(folder / "start.extxyz", atoms)
    address = f"{name}_{os.getpid()}"
    (folder / "input.xml").write_text(INPUT.format(address=address))

    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, server, "input.xml"], cwd=folder, stdout=log, stderr=log
        )
    try:
        _answer(atoms, calc, address, process)
        process.wait(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, (folder / "log").read_text()
    return np.loadtxt(folder / "run.out")[:, 1:]


def _answer(atoms, calc, address, process):
    """ASE's client, once the server listens at its socket."""
    deadline = time.monotonic() + 60
    while not Path(f"/tmp/ipi_{address}").exists():
        assert process.poll() is None, "i-PI ended before it listened"
        assert time.monotonic() < deadline, "i-PI does not listen"
        time.sleep(0.1)

    atoms.calc = calc
    SocketClient(unixsocket=address).run(atoms, use_stress=True)


def test_a_trajectory_at_constant_pressure_is_that_of_ases_calculator(calculators, server):
    ours, reference = (
        dynamics(server, make(), name)
        for make, name in zip(calculators, ("ours", "reference"), strict=True)
    )

    assert reference.shape == (9, 4)
    assert np.ptp(reference[:, 0]) > 0.1  # eV: atoms move
    assert np.ptp(reference[:, 1]) > 0.1  # Angstrom^3: and the cell
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)
