"""What one call asks of a device: operations it is given, and waits of the host for it.

    python benchmarks/device_counts.py [FAMILY ...]

Counted on the stand-in accelerator (``ase_nnp.testing.standin``) with the small configurations of
the conformance suite, so no GPU is needed and every run counts the same. A row is the evaluation
of a ready graph of the suite's crystal, without stress. ``--steps`` counts waits of a step of
``relax_many`` of two crystals instead, with neighbor lists kept and with a search at every step,
and with lists kept also copies from the host to the device.
"""

from __future__ import annotations

import argparse
import copy

from measurement import record_option, write_measurement

from ase_nnp import list_models, relax_many
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


class _Searches:
    """A model that is asked for its graph at every step."""

    plain_search = False


def asked_a_step(family: str, *, kept: bool) -> tuple[float, float]:
    """Waits, and copies to the device, that one more step of ``relax_many`` costs.

    From runs of 3 and of 7 steps.
    """
    subject = make_subject(family)
    structures = [subject.crystal(), subject.crystal()]
    totals = []
    with Standin() as standin:
        model = copy.deepcopy(subject.model).to(standin.device)
        if not kept:
            model.__class__ = type("Searching", (_Searches, type(model)), {})
        for steps in (3, 7):
            standin.clear()
            relax_many(model, structures, steps=steps, fmax=1e-9, batch=10**6)
            totals.append((standin.waits.total(), standin.uploads.total()))
    (waits, uploads), (more_waits, more_uploads) = totals
    return (more_waits - waits) / 4, (more_uploads - uploads) / 4


def record_steps(families: list[str], record: bool) -> None:
    """Print what a step asks, and write it down."""
    rows = []
    for family in families or ["facet", "sevennet", "scn", "escaip"]:
        searched, _ = asked_a_step(family, kept=False)
        waits, uploads = asked_a_step(family, kept=True)
        rows.append([family, str(searched), str(waits), str(uploads)])
        print(*rows[-1], sep="\t", flush=True)
    if record:
        head = ["family", "waits a step, searched every time", "lists kept", "copies to the device"]
        write_measurement("device_steps", head, rows, machine="stand-in accelerator")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--steps", action="store_true")
    record_option(parser)
    options = parser.parse_args()
    if options.steps:
        record_steps(options.families, options.record)
        return
    rows = []
    for family in options.families or sorted(list_models()):
        rows.append([family, *counts(family)])
        print(*rows[-1], sep="\t", flush=True)
    if options.record:
        head = ["family", "operations a call", "waits a call"]
        write_measurement("device_counts", head, rows, machine="stand-in accelerator")


if __name__ == "__main__":
    main()
