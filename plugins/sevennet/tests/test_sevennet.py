"""SevenNet against its own calculator, and against the suite that every model owes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule

import ase_nnp
from ase_nnp.testing import conformance

pytest.importorskip("sevenn", reason="needs the sevenn package (extra 'sevennet')")

# Slow here because the core's own tests run the suite over every registered family.
test_sevennet_conforms = pytest.mark.slow(conformance("sevennet"))


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    atoms.rattle(0.05, seed=1)
    return atoms  # periodic along x and y only


def crystal() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * np.triu(np.ones((3, 3)), 1)), True)
    return atoms


def wire() -> Atoms:
    return Atoms("Cu2", [[0, 0, 0], [2.3, 0.4, 0.1]], cell=[4.6, 0, 0], pbc=[True, False, False])


STRUCTURES = {
    "slab": slab,
    "bulk": crystal,
    "molecule": lambda: molecule("CH3CH2OH"),
    "one atom": lambda: Atoms("O", [[0.1, 0.2, 0.3]]),
    "one atom in a crystal": lambda: bulk("Cu"),
    "wire": wire,
}


@pytest.fixture(scope="module")
def model():
    return ase_nnp.load_model("sevennet", device="cpu")


def own_calculator(name: str = "7net-0", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(name, device="cpu", **options)


@pytest.fixture(scope="module")
def theirs():
    return own_calculator()


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_numbers_are_those_of_the_package_itself(name, model, theirs):
    ours, own = STRUCTURES[name](), STRUCTURES[name]()
    ours.calc, own.calc = ase_nnp.NNPCalculator(model), theirs
    assert ours.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(ours.get_forces(), own.get_forces(), atol=1e-5)
    np.testing.assert_allclose(
        ours.calc.get_property("energies"), theirs.results["energies"], atol=1e-5
    )
    if ours.cell.rank == 3:
        np.testing.assert_allclose(ours.get_stress(), own.get_stress(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("7net-0_22May2024", {}),
        ("7net-l3i5", {}),
        ("7net-mf-0", {"modal": "PBE"}),
        ("7net-mf-0", {"modal": "R2SCAN"}),
    ],
)
def test_every_set_of_weights_is_read_as_the_package_reads_it(name, options):
    atoms, own = bulk("NaCl", "rocksalt", a=5.5), bulk("NaCl", "rocksalt", a=5.5)
    atoms.rattle(0.1, seed=3), own.rattle(0.1, seed=3)
    atoms.calc = ase_nnp.NNPCalculator("sevennet", checkpoint=name, device="cpu", **options)
    own.calc = own_calculator(name, **options)
    assert atoms.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), own.get_forces(), atol=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), own.get_stress(), atol=1e-5)


def test_a_model_of_two_functionals_asks_for_one():
    with pytest.raises(ase_nnp.ConfigError, match="'PBE', 'R2SCAN'"):
        ase_nnp.load_model("sevennet", checkpoint="7net-mf-0", device="cpu")
    with pytest.raises(ase_nnp.ConfigError, match="one functional only"):
        ase_nnp.load_model("sevennet", modal="PBE", device="cpu")


def test_pretrained_weights_are_the_files_they_are_said_to_be():
    import hashlib

    from ase_nnp.models.checkpoints import packaged_file

    family = ase_nnp.list_models()["sevennet"]
    for offer in family.pretrained:
        content = packaged_file(family, offer.source).read_bytes()
        assert hashlib.sha256(content).hexdigest() == offer.sha256, offer.name
        assert offer.license == "MIT"


@pytest.mark.slow
def test_a_batch_gives_what_single_calls_give(model):
    structures = [make() for make in STRUCTURES.values()]
    for one, many in zip(structures, ase_nnp.predict(model, structures), strict=True):
        alone = ase_nnp.predict(model, [one])[0]
        assert many["energy"] == pytest.approx(alone["energy"], abs=2e-6 * len(one))
        np.testing.assert_allclose(many["forces"], alone["forces"], atol=5e-6)


@pytest.mark.slow
def test_a_saved_model_needs_no_checkpoint(model, tmp_path):
    ase_nnp.save_model(model, tmp_path / "seven.nnp")
    again = ase_nnp.load_model(tmp_path / "seven.nnp", device="cpu")
    before, after = (ase_nnp.predict(m, [crystal()])[0] for m in (model, again))
    assert after["energy"] == pytest.approx(before["energy"], rel=1e-6)


def test_another_file_is_refused(tmp_path):
    import torch

    path = tmp_path / "other.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ase_nnp.CheckpointError, match="no SevenNet checkpoint"):
        ase_nnp.load_model("sevennet", checkpoint=path, device="cpu")


@pytest.mark.slow
def test_weight_networks_become_splines_with_the_same_forces(tmp_path):
    small = {"channel": 4, "num_convolution_layer": 2, "weight_nn_hidden_neurons": [8]}
    fresh = ase_nnp.build_model("sevennet", small, seed=0, device="cpu", dtype="float64").freeze()
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=3)

    made = ase_nnp.models.splinify(fresh)
    ase_nnp.save_model(made, tmp_path / "splined.nnp")
    again = ase_nnp.load_model(tmp_path / "splined.nnp", device="cpu", dtype="float64")
    forces = [ase_nnp.predict(m, [atoms])[0]["forces"] for m in (fresh, made, again)]
    assert np.abs(forces[0]).max() > 1e-3
    assert np.abs(forces[1] - forces[0]).max() < 1e-5
    np.testing.assert_allclose(forces[2], forces[1], atol=1e-12)
