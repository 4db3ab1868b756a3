"""quacc: jobs around its runner, and its elastic-constant workflow made of them."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from ase.build import bulk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
quacc = pytest.importorskip("quacc", reason="needs quacc")


@pytest.fixture
def copper():
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.02, seed=1)
    return atoms


@pytest.fixture(autouse=True)
def settings(tmp_path):
    with quacc.change_settings({"RESULTS_DIR": tmp_path, "SCRATCH_DIR": tmp_path}):
        yield


def jobs(make_calculator):
    """A static and a relaxing job, as quacc's recipes for EMT and LJ are written."""
    from quacc.runners.ase import Runner
    from quacc.schemas.ase import Summarize

    # The elastic workflow reads the stress of relaxations at fixed cell, which do not ask for it:
    # a calculator that all jobs share gives it from the relaxation of the cell on.
    calc = make_calculator()

    @quacc.job
    def static_job(atoms):
        final = Runner(atoms, calc).run_calc()
        return Summarize().run(final, atoms)

    @quacc.job
    def relax_job(atoms, relax_cell=True):
        dynamics = Runner(atoms, calc).run_opt(relax_cell, fmax=0.01)
        return Summarize().opt(dynamics)

    return static_job, relax_job


def test_static_and_relaxing_jobs_store_what_ases_calculator_gives(calculators, copper):
    # ASE's EMT writes the next forces into the array that it gave before.
    ours, reference = (
        [deepcopy(job(copper)["results"]) for job in jobs(make_calculator)]
        for make_calculator in calculators
    )
    assert np.abs(reference[0]["forces"]).max() > 0.1  # eV/A

    for result, expected in zip(ours, reference, strict=True):
        assert result["energy"] == pytest.approx(expected["energy"], abs=1e-5)
        np.testing.assert_allclose(result["forces"], expected["forces"], atol=1e-4)


def test_elastic_constants_are_those_of_ases_calculator(calculators, copper):
    from quacc.recipes.common.elastic import elastic_tensor_flow

    def tensor(make_calculator):
        static_job, relax_job = jobs(make_calculator)
        flow = elastic_tensor_flow(copper, relax_job, static_job)
        return np.array(flow["elasticity_doc"].elastic_tensor.raw)

    ours, reference = (tensor(make) for make in calculators)
    assert np.abs(reference).max() > 50  # GPa
    np.testing.assert_allclose(ours, reference, atol=0.1)
