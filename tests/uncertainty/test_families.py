"""Every installed family, and the Lennard-Jones plugin, through methods that fit any model."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.registry.installed import installed, list_models, missing_packages
from ase_nnp.testing import make_subject
from ase_nnp.uncertainty.fitting import fit, wrap

FAMILIES = sorted({*list_models(), "lj"})


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    known = installed().families
    if request.param in known and (missing := missing_packages(known[request.param])):
        pytest.skip(f"{request.param} needs {', '.join(missing)}, which is not installed here")
    return request.param


@pytest.fixture(scope="module")
def members(family):
    if family == "lj":
        return [make_subject(family, epsilon=e).model for e in (0.3, 0.35, 0.45)]
    return [make_subject(family, seed=s).model for s in range(3)]


def structures(model):
    out = [molecule("CH3OH"), molecule("H2O"), bulk("Cu", cubic=True), bulk("MgO", "rocksalt", 4.2)]
    if model.elements is not None:
        out = [a for a in out if set(a.numbers.tolist()) <= model.elements]
    if len(out) < 2:
        (z, *_) = sorted(model.elements)
        out = [bulk("Cu", cubic=True), bulk("Cu") * (2, 1, 1)]
        for atoms in out:
            atoms.numbers[:] = z
    for i, atoms in enumerate(out):
        atoms.rattle(0.05, seed=i)
        if not atoms.cell.rank:
            atoms.center(6.0)
            atoms.pbc = True
    return out


@pytest.mark.parametrize("method", ["ensemble", "pool", "latent", "rotation"])
def test_a_method_works_for_any_family(method, family, members):
    data = structures(members[0])
    if method in ("ensemble", "pool"):
        model = fit(method, members, train=data)
    else:
        options = {"passes": 3} if method == "rotation" else {}
        model = fit(method, members[0], train=data, **options)
    for atoms, row in zip(data, predict(model, data), strict=True):
        for name in members[0].outputs:
            if name in row and f"{name}_std" in row:
                assert np.shape(row[f"{name}_std"]) == np.shape(row[name])
                assert (np.asarray(row[f"{name}_std"]) >= 0).all()
        if "forces" in row:
            assert row["forces_std_norm"].shape == (len(atoms),)
        if method == "latent":
            assert np.isfinite(row["ood_scores"]).all()
            single = predict(members[0], [atoms])[0]
            for name in ("energy", "forces"):
                if name in single:
                    np.testing.assert_allclose(row[name], single[name], rtol=1e-9, atol=1e-9)


def test_the_last_layer_works_or_says_what_does(family, members):
    data = structures(members[0])
    noise = {"energy": 0.1}
    model, reason = None, ""
    try:
        model = wrap("last_layer", members[0], train=data, noise=noise, force_std="none")
    except UncertaintyError as error:
        reason = str(error)
    assert "latent" in reason or model is not None
    if model is None:
        assert family not in ("cgcnn_oc20", "escaip", "facet", "scn")
        return
    single = predict(members[0], data)
    for row, plain in zip(predict(model, data), single, strict=True):
        assert row["energy_std"] >= 0
        assert row["energy"] == pytest.approx(plain["energy"], rel=1e-9, abs=1e-9)
