"""The four flags are those of fairchem-data-oc on 500 random pairs of structures."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase.build import bcc110, fcc100, fcc111, hcp0001
from ase.io import write

from ase_nnp.metrics.anomaly import detect_anomalies
from ase_nnp.workflows.adsorption import place
from ase_nnp.workflows.adsorption.adsorbate_table import ADSORBATES
from ase_nnp.workflows.adsorption.slabs import prepared

PAIRS = 500
WORKER = Path(__file__).parents[1] / "helpers" / "fairchem_flags.py"


def slabs():
    """Slabs of metals and of an alloy, their tags those of OC20."""
    alloy = fcc111("Cu", (3, 3, 3), vacuum=9.0)
    alloy.numbers[::4] = 46
    built = [
        alloy,
        fcc111("Pt", (3, 3, 3), vacuum=9.0),
        fcc100("Ni", (3, 3, 3), vacuum=9.0),
        bcc110("Mo", (3, 3, 3), vacuum=9.0),
        hcp0001("Ru", (3, 3, 3), vacuum=9.0),
    ]
    for one in built:
        one.pbc = True
    return [prepared(one) for one in built]


def pairs(count):
    """Start, end and clean slab: the adsorbate moved, and every atom a little or a lot."""
    random = np.random.default_rng(500)
    hosts, names = slabs(), list(ADSORBATES)
    for _ in range(count):
        host = hosts[random.integers(len(hosts))]
        mode = ("heuristic", "random")[random.integers(2)]
        name, seed = names[random.integers(len(names))], int(random.integers(10**6))
        start = place(host, name, mode=mode, seed=seed)[0]
        guest = start.get_tags() == 2

        end, clean = start.copy(), host.copy()
        for one in (start, end, clean):
            one.set_constraint()
        each, slab = random.choice([0.02, 0.1, 0.4], 2)
        width = np.where(guest, each, slab)[:, None]
        end.positions += width * random.normal(size=(len(end), 3))
        end.positions[guest] += random.choice([0.0, 1.5]) * random.normal(size=3)
        clean.positions += 0.02 * random.normal(size=(len(clean), 3))
        yield start, end, clean


@pytest.mark.slow
def test_flags_are_those_of_fairchem_data_oc_on_random_pairs(tmp_path):
    python = os.environ.get("FAIRCHEM_PYTHON", "")
    if not python or not Path(python).exists():
        pytest.skip("FAIRCHEM_PYTHON names no Python with fairchem-data-oc")
    triples = list(pairs(PAIRS))
    write(tmp_path / "pairs.traj", [atoms for triple in triples for atoms in triple])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    said = subprocess.run(
        [python, WORKER, tmp_path / "pairs.traj"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )

    theirs = json.loads(said.stdout.splitlines()[-1])
    ours = [detect_anomalies(*triple).as_dict() for triple in triples]
    assert ours == theirs
    # The test is worth something only if every flag is often there and often not.
    for flag in ours[0]:
        assert 0.05 < np.mean([row[flag] for row in ours]) < 0.95, flag
