"""Both families against the suite that every model owes."""

from ase_nnp.testing import conformance

test_cgcnn_conforms = conformance("cgcnn")
test_cgcnn_oc20_conforms = conformance("cgcnn_oc20")
