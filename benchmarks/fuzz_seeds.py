"""Small good files of the formats that other programs write, for ``datasets_fuzz.py``."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from foreign_texts import CFG, OUTCAR

#: What a format's reader has to be told.
OPTIONS = {"mtp-cfg": {"elements": ["Na", "Cl"]}}

_POSCAR = """salt
1.0
4 0 0
0 4 0
0 0 4
Na Cl
1 1
Selective dynamics
Direct
0 0 0 F F F
.5 .5 .5 T F T
"""
_XDATCAR = _POSCAR.split("Selective")[0] + "".join(
    f"Direct configuration=     {k}\n0 0 0\n.5 .5 .{5 + k}\n" for k in (1, 2)
)
_DUMP = """ITEM: TIMESTEP
7
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0.0 5.0
0.0 4.0
0.0 6.0
ITEM: ATOMS id type element x y z fx fy fz
2 1 O 0.5 0.5 0.5 1 2 3
1 2 Cu 0 0 0 0 0 0
"""
_INPUT_DATA = """begin
comment a frame
lattice 10 0 0
lattice 0 10 0
lattice 0 0 10
atom 0 0 0 O 0.1 0.0 0.01 0.02 0.03
atom 0 0 1.8 H -0.1 0.0 0 0 0
energy -76.0
charge 1.0
end
"""
_QM9 = """2
gdb 1 1 2 3 0. 13 -.3 .1 .5 35 .04 -40.4 -40.3 -40.2 -40.5 6.4
C 0 0 0 -0.5
O 0 0 1.1 5.*^-1
1341.3
CO CO
InChI=1 InChI=1
"""
_TEXTS = {
    "vasp": ("POSCAR", _POSCAR),
    "vasp-xdatcar": ("XDATCAR", _XDATCAR),
    "vasp-out": ("OUTCAR", OUTCAR),
    "lammps-dump": ("md.dump", 2 * _DUMP),
    "n2p2": ("input.data", 2 * _INPUT_DATA),
    "mtp-cfg": ("train.cfg", 2 * CFG),
    "qm9": ("gdb.xyz", _QM9),
}


def foreign_seeds(folder: Path, crystals: list[dict]) -> dict[str, list[Path]]:
    """Write a small good file of every kind; ``crystals`` are structures as pymatgen's dicts."""
    seeds: dict[str, list[Path]] = {}
    for kind, (name, text) in _TEXTS.items():
        (folder / name).write_text(text)
        seeds[kind] = [folder / name]
    with gzip.open(folder / "POSCAR.gz", "wt") as stream:
        stream.write(_POSCAR)
    seeds["vasp"].append(folder / "POSCAR.gz")

    rows = [{"structure": crystal, "energy": -1.0} for crystal in crystals]
    shapes = {
        "lines.jsonl": "\n".join(map(json.dumps, rows)),
        "columns.json": json.dumps({name: [row[name] for row in rows] for name in rows[0]}),
        "split.json": json.dumps(
            {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        ),
        "task.json": json.dumps(
            {"task_id": "mp-1", "calcs_reversed": [{"output": {"ionic_steps": rows}}]}
        ),
    }
    for name, text in shapes.items():
        (folder / name).write_text(text)
    seeds["json-shapes"] = [folder / name for name in shapes]

    arrays = {"z": np.array([8, 1]), "R": np.ones((2, 2, 3)), "E": np.zeros(2)}
    np.savez(folder / "plain.npz", **arrays, F=np.zeros((2, 2, 3)))
    np.savez_compressed(folder / "packed.npz", **arrays, F=np.zeros((2, 2, 3)))
    seeds["md17"] = [folder / "plain.npz", folder / "packed.npz"]
    return seeds
