"""atomate2: force-field jobs, which make the calculator from its module and name."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("atomate2", reason="needs atomate2")
pytest.importorskip("jobflow", reason="needs jobflow")


def output(maker, make_calculator, **options):
    """What a job of one force-field calculation stores."""
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.02, seed=1)
    name = {"@module": make_calculator.__module__, "@callable": make_calculator.__name__}
    job = maker(force_field_name=name, **options).make(AseAtomsAdaptor.get_structure(atoms))

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    responses = run_locally(job, store=store, ensure_success=True, log=False)
    return responses[job.uuid][1].output.output


def test_a_static_job_stores_what_ases_calculator_gives(calculators):
    from atomate2.forcefields.jobs import ForceFieldStaticMaker

    ours, reference = (output(ForceFieldStaticMaker, make) for make in calculators)
    assert ours.energy == pytest.approx(reference.energy, abs=1e-6)
    assert np.abs(reference.forces).max() > 0.1  # eV/A
    np.testing.assert_allclose(ours.forces, reference.forces, atol=1e-5)
    np.testing.assert_allclose(ours.stress, reference.stress, atol=1e-3)


def test_a_relaxation_of_atoms_and_cell_ends_where_ases_calculator_does(calculators):
    from atomate2.forcefields.jobs import ForceFieldRelaxMaker

    options = {"relax_cell": True, "relax_kwargs": {"fmax": 0.01}}
    ours, reference = (output(ForceFieldRelaxMaker, make, **options) for make in calculators)

    assert abs(reference.structure.volume - 3.7**3) > 1  # A^3: it moved
    assert ours.energy == pytest.approx(reference.energy, abs=1e-5)
    assert ours.structure.volume == pytest.approx(reference.structure.volume, rel=1e-5)
    assert ours.n_steps == reference.n_steps
