"""Any ASE calculator as a potential."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import ase_nnp
from ase_nnp import from_ase
from ase_nnp.uncertainty import wrap


def structures():
    cell = bulk("Cu", cubic=True)
    cell.rattle(0.1, seed=1)
    return [cell, molecule("CO"), bulk("Au"), bulk("CuAu", "rocksalt", a=5.0)]


def make_lj():
    return LennardJones(sigma=2.3, epsilon=0.4, rc=6.0, smooth=True)


@pytest.mark.parametrize("given", [EMT, EMT(), make_lj, make_lj()], ids=lambda g: type(g).__name__)
def test_the_numbers_are_the_calculators_own(given):
    model = from_ase(given)
    truth = given if hasattr(given, "results") and not isinstance(given, type) else given()
    for atoms, results in zip(
        structures(), ase_nnp.predict(model, structures(), ("energy", "forces", "stress")),
        strict=True,
    ):  # fmt: skip
        atoms.calc = truth
        assert results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(results["forces"], atoms.get_forces(), atol=1e-12)
        assert ("stress" in results) == bool(atoms.pbc.any())
        if atoms.pbc.any():
            np.testing.assert_allclose(results["stress"], atoms.get_stress(voigt=False), atol=1e-12)


def test_it_works_behind_our_calculator():
    atoms = structures()[0]
    atoms.calc = ase_nnp.NNPCalculator(from_ase(EMT))
    own = structures()[0]
    own.calc = EMT()
    np.testing.assert_allclose(atoms.get_stress(), own.get_stress(), atol=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == own.get_potential_energy()
    assert atoms.calc.todict()["model"] == "CalculatorPotential"


def test_pools_mix_calculators_and_models():
    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    ours = ase_nnp.build_model("cgcnn_oc20", config, seed=0, device="cpu")
    ours.energy_kind = "total"
    members = [from_ase(EMT), from_ase(make_lj), ours]
    fit = [bulk("Cu"), bulk("Au"), bulk("CuAu", "rocksalt", a=5.0), bulk("Cu", "bcc", a=2.9)]
    pool = wrap("pool", members, align_on=fit)
    atoms = structures()[0]
    atoms.calc = ase_nnp.NNPCalculator(pool)
    assert atoms.get_forces().shape == (4, 3)
    assert atoms.calc.results["forces_std"].max() > 0
    forces = [ase_nnp.predict(m, [atoms])[0]["forces"] for m in members]
    np.testing.assert_allclose(atoms.get_forces(), np.mean(forces, axis=0), atol=1e-5)


def test_what_the_caller_says_is_kept():
    model = from_ase(EMT, energy_kind="formation", conservative=False, elements=[29, 79])
    assert (model.energy_kind, model.conservative) == ("formation", False)
    with pytest.raises(ase_nnp.UnsupportedElementError, match="contains O"):
        ase_nnp.predict(model, [Atoms("O")])
    assert model.describe()["energy_kind"] == "formation"


def test_saving_training_and_differentiating_are_refused_clearly(tmp_path):
    model = from_ase(EMT)
    with pytest.raises(ase_nnp.CheckpointError, match="could not be built again"):
        ase_nnp.save_model(model, tmp_path / "emt.nnp")
    with pytest.raises(ase_nnp.CheckpointError, match="cannot be saved"):
        _ = model.config
    with pytest.raises(ase_nnp.ConfigError, match="cannot be trained"):
        model.train()
    graph = model.make_graph(bulk("Cu"))
    moving = graph.replace(positions=graph.positions.clone().requires_grad_(True))
    with pytest.raises(ase_nnp.PredictionError, match="cannot be differentiated"):
        model(moving)
    assert list(tmp_path.iterdir()) == []


def test_copies_and_pickles_answer_alike():
    model = from_ase(EMT)
    before = ase_nnp.predict(model, structures())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again = ase_nnp.predict(twin, structures())
        assert [r["energy"] for r in again] == [r["energy"] for r in before]


class Reads(Calculator):
    """Energy out of what it reads beside geometry; a bad habit or two."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes or ["positions"])
        if "H" in atoms.symbols:
            raise ZeroDivisionError("no hydrogen")
        energy = atoms.info.get("charge", 0) + 10 * atoms.get_initial_magnetic_moments().sum()
        self.results = {"energy": np.float32(energy), "forces": np.zeros((len(atoms), 3))}
        atoms.info["seen"] = True


def test_what_it_reads_reaches_it_and_nothing_comes_back():
    atoms = bulk("Fe")
    atoms.info["charge"] = 2
    atoms.set_initial_magnetic_moments([1.5])
    blind, reading = from_ase(Reads), from_ase(Reads, required_inputs=("charge", "initial_magmoms"))
    with pytest.warns(UserWarning, match="this model takes none"):
        assert ase_nnp.predict(blind, [atoms])[0]["energy"] == 0.0
    assert ase_nnp.predict(reading, [atoms, atoms])[1]["energy"] == 17.0
    assert "seen" not in atoms.info
    atoms.calc = ase_nnp.NNPCalculator(reading)
    assert atoms.get_potential_energy() == 17.0
    atoms.info["charge"] = 0
    assert atoms.get_potential_energy() == 15.0


def test_a_failing_calculator_is_named_and_works_again():
    model = from_ase(Reads, name="grumpy")
    with pytest.raises(ase_nnp.PredictionError, match="grumpy failed for HO: ZeroDivision"):
        ase_nnp.predict(model, [molecule("OH")])
    assert ase_nnp.predict(model, [bulk("Cu")])[0]["energy"] == 0.0


def test_positions_that_are_no_numbers_never_reach_it():
    atoms = bulk("Cu")
    atoms.positions[0, 0] = np.nan
    with pytest.raises(ase_nnp.StructureError, match="finite"):
        ase_nnp.predict(from_ase(EMT), [atoms])


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (3, {}, "An ASE calculator"),
        (dict, {}, "no ASE calculator"),
        (EMT, {"outputs": ["energy", "dipole"]}, "dipole was wanted"),
        (EMT, {"required_inputs": ["color"]}, "color"),
        (EMT, {"elements": ["Cu", "Qq"]}, "chemical symbols"),
    ],
)
def test_what_is_no_calculator_is_refused(given, options, message):
    with pytest.raises(ase_nnp.ConfigError, match=message):
        from_ase(given, **options)


def test_elements_are_numbers_or_symbols():
    assert from_ase(EMT, elements=["Cu", 78]).elements == {29, 78}


def test_stress_without_a_cell_is_refused():
    atoms = molecule("CO")
    atoms.calc = ase_nnp.NNPCalculator(from_ase(EMT))
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_a_float32_graph_is_answered_in_double_precision():
    model = from_ase(EMT).to(torch.float32)
    graph = model.make_graph(bulk("Cu"))
    assert model(graph)["energy"].dtype == torch.float64


def test_a_family_may_be_a_calculator(tmp_path, monkeypatch):
    from ase_nnp.models.files import model_hash
    from ase_nnp.registry.installed import installed

    family = ase_nnp.ModelFamily(
        name="pairs",
        summary="",
        build=lambda config: from_ase(lambda: LennardJones(**config, rc=6.0, smooth=True)),
        defaults={"epsilon": 0.4, "sigma": 2.3},
        trainable=False,
    )
    monkeypatch.setitem(installed().families, "pairs", family)
    model, other = (ase_nnp.build_model("pairs", {"epsilon": e}) for e in (0.5, 0.6))
    assert model_hash(model) != model_hash(other)
    ase_nnp.save_model(model, tmp_path / "m.nnp")
    again = ase_nnp.load_model(tmp_path / "m.nnp")
    energies = [
        [row["energy"] for row in ase_nnp.predict(m, structures())] for m in (model, again, other)
    ]
    assert energies[0] == energies[1]
    assert energies[0] != energies[2]
