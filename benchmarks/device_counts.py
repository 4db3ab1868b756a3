"""What one call asks of a device: operations it is given, and waits of the host for it.

    python benchmarks/device_counts.py [FAMILY ...]

Counted on the stand-in accelerator (``ase_nnp.testing.standin``) with the small configurations of
the conformance suite, so no GPU is needed and every run counts the same. A row is the evaluation
of a ready graph of the suite's crystal, without stress.
"""

from __future__ import annotations

import argparse
import copy

from measurement import record_option, write_measurement

from ase_nnp import list_models
from ase_nnp.testing import make_subject
from ase_nnp.testing.standin import Standin


def counts(family: str) -> tuple[int, int]:
    """Operations and waits of one evaluation."""
    subject = make_subject(family)
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device).eval()
        graph = model.make_graph([subject.crystal()])
        wanted = [p for p in model.outputs if p != "stress"]
        model.compute(graph, wanted)  # tables made at a first call are no cost of a call
        standin.clear()
        model.compute(graph, wanted)
        return standin.operations.total(), standin.waits.total()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    record_option(parser)
    options = parser.parse_args()
    rows = []
    for family in options.families or sorted(list_models()):
        rows.append([family, *counts(family)])
        print(*rows[-1], sep="\t", flush=True)
    if options.record:
        head = ["family", "operations a call", "waits a call"]
        write_measurement("device_counts", head, rows, machine="stand-in accelerator")


if __name__ == "__main__":
    main()
