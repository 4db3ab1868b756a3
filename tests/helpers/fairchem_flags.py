"""Flags of fairchem-data-oc for pairs of structures; run by a Python that has it installed.

``python fairchem_flags.py PAIRS.traj``: initial, final and clean slab in turn; prints JSON.
"""

import json
import sys

from ase.io import read
from fairchem.data.oc.utils.flag_anomaly import DetectTrajAnomaly


def main():
    frames = read(sys.argv[1], ":")
    rows = []
    for init, final, slab in zip(frames[::3], frames[1::3], frames[2::3], strict=True):
        judge = DetectTrajAnomaly(init, final, init.get_tags(), slab)
        rows.append(
            {
                "dissociated": bool(judge.is_adsorbate_dissociated()),
                "desorbed": bool(judge.is_adsorbate_desorbed()),
                "surface_changed": bool(judge.has_surface_changed()),
                "intercalated": bool(judge.is_adsorbate_intercalated()),
            }
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
