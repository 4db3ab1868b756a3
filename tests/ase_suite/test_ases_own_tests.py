"""ASE's own tests, which its wheel brings along, with our calculator in the place of its EMT."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ase_test = pytest.importorskip("ase.test", reason="this ASE comes without its tests")

#: Two processes of about the same length.
PARTS = (
    "neb filter constraints vibrations test_potential_energies.py test_eos.py test_hcp.py "
    "test_phonons.py test_singlepointcalc.py test_mixingcalc.py test_loggingcalc.py "
    "test_forcecurve.py test_linesearch_maxstep.py test_thermochemistry.py test_issue276.py "
    "test_dimer_method.py ase4/test_plugins.py calculator/test_fd.py calculator/test_harmonic.py "
    "atoms/test_h2.py emt/test_emt_stress.py",
    "optimize md db",
)


@pytest.mark.slow
def test_ases_own_tests_pass_with_our_calculator_in_emts_place(tmp_path):
    home = Path(ase_test.__file__).parent
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    running = []
    for number, part in enumerate(PARTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        # Other releases of ASE lack some of the files.
        there = [str(home / name) for name in part.split() if (home / name).exists()]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "emt_in_disguise"]
        command += ["-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={home}"]
        # pytest 9 warns of ASE's own fixtures, and ASE makes errors of warnings.
        command += ["-W", "ignore::pytest.PytestWarning", *there]
        with open(folder / "out.txt", "w") as out:
            environment = {**os.environ, "PYTHONPATH": paths}
            process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=environment)
        running.append((process, folder / "out.txt"))

    said = []
    for process, out in running:
        process.wait()
        said.append(out.read_text())
        assert process.returncode == 0, said[-1][-4000:]
    passed = sum(int(re.findall(r"(\d+) passed", text)[-1]) for text in said)
    assert passed > 350
