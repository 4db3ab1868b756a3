"""One file that holds a fitted uncertainty."""

import numpy as np
import pytest
from toy_models import Pair, label, molecules

from ase_nnp import NNPCalculator
from ase_nnp.errors import CheckpointError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty import (
    fit,
    load_uncertainty,
    save_uncertainty,
    uncertainty_info,
    wrap,
)


@pytest.fixture(scope="module")
def train():
    return label(molecules(20, seed=1), Pair(seed=9).double(), noise=0.02)


@pytest.fixture(scope="module")
def members():
    return [Pair(hidden=8, seed=s).double() for s in range(3)]


FITS = {
    "ensemble": {"mode": "sequential"},
    "pool": {},
    "last_layer": {"force_std": "exact"},
    "shallow": {"heads": 4, "tune": 10},
    "latent": {},
    "knn": {"kind": "knn"},
    "rotation": {"passes": 3},
}


@pytest.mark.parametrize("name", FITS)
def test_a_fitted_uncertainty_is_one_file(name, members, train, held_back, tmp_path):
    method = "latent" if name == "knn" else name
    several = method in ("ensemble", "pool")
    model = members if several else members[0]
    if method == "rotation":  # equivariant, so no spread to calibrate
        fitted = fit(method, model, **FITS[name])
    else:
        fitted = fit(method, model, train=train, calibration=held_back[:15], **FITS[name])
    path = tmp_path / "my.uq"
    save_uncertainty(fitted, path, project="test")
    header = uncertainty_info(path)
    assert header["units"]["forces"] == "eV/Angstrom"
    assert header["notes"] == {"project": "test"}
    assert header["data_hash"] == fitted.calibration.data_hash
    atoms = train[3].copy()
    atoms.calc = NNPCalculator(members[0], uncertainty=path)
    atoms.get_potential_energy()
    want = predict(fitted, [atoms])[0]
    for key, value in want.items():
        np.testing.assert_allclose(atoms.calc.results[key], value, rtol=1e-10, atol=1e-13)
    assert load_uncertainty(path, members[0]).uq == fitted.uq
    with pytest.raises(CheckpointError, match="another model"):
        NNPCalculator(members[1], uncertainty=str(path))


def test_nested_methods_are_one_file_too(members, train, held_back, tmp_path):
    inner = fit("last_layer", members[0], train=train, calibration=held_back)
    both = fit("latent", inner, train=train)
    save_uncertainty(both, tmp_path / "my.uq")
    back = load_uncertainty(tmp_path / "my.uq", members[0])
    a, b = (predict(m, train[:1])[0] for m in (both, back))
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-12)


def test_every_member_and_file_says_where_its_weights_are_from(members, tmp_path):
    for number, member in enumerate(members):
        member.provenance = {"source": f"run {number}"}
    ensemble = wrap("ensemble", members, mode="sequential")
    assert ensemble.provenance["source"] == "run 0"
    both = fit("latent", ensemble, train=label(molecules(5), members[0]))
    assert [m["source"] for m in both.provenance["members"]] == ["run 0", "run 1", "run 2"]
    save_uncertainty(both, tmp_path / "my.uq")
    assert uncertainty_info(tmp_path / "my.uq")["model"]["provenance"] == both.provenance
    back = load_uncertainty(tmp_path / "my.uq", members[0])
    assert back.provenance == both.provenance
    members[0].provenance = {"source": "trained"}  # such as by a fit of the model inside
    assert back.provenance["source"] == "trained"


def test_damaged_and_foreign_files_are_refused(members, tmp_path):
    path = tmp_path / "my.uq"
    save_uncertainty(wrap("rotation", members[0]), path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_uncertainty(path, members[0])
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="no fitted uncertainty"):
        load_uncertainty(tmp_path / "text", members[0])
    with pytest.raises(CheckpointError, match="no uncertainty file"):
        NNPCalculator(members[0], uncertainty="nowhere.uq")
