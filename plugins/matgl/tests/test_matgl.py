"""matgl's potentials against its own calculator, and against the suite that every model owes."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule

import ase_nnp
from ase_nnp.testing import conformance

pytest.importorskip("matgl", reason="needs the matgl package (extra 'matgl')")

ELEMENTS = ["H", "C", "O", "Cu"]
SMALL = {
    "TensorNet": {"units": 8, "nblocks": 1, "num_rbf": 8},
    "M3GNet": {
        "dim_node_embedding": 8,
        "dim_edge_embedding": 8,
        "units": 8,
        "nblocks": 1,
        "use_smooth": True,
    },
    "CHGNet": {
        "dim_atom_embedding": 8,
        "dim_bond_embedding": 8,
        "dim_angle_embedding": 8,
        "num_blocks": 2,
        "atom_conv_hidden_dims": [8],
        "bond_conv_hidden_dims": [8],
        "final_hidden_dims": [8],
    },
    "SO3Net": {"dim_node_embedding": 8, "units": 8, "nblocks": 1, "nmax": 3, "lmax": 2},
    "QET": {"units": 8, "nblocks": 1, "num_rbf": 8},
}

# Slow here because the core's own tests run the suite over every registered family.
test_tensornet_conforms = pytest.mark.slow(conformance("matgl"))
test_m3gnet_conforms = pytest.mark.slow(
    conformance("matgl", model="M3GNet", hyperparameters=SMALL["M3GNet"])
)
test_chgnet_conforms = pytest.mark.slow(
    conformance("matgl", model="CHGNet", hyperparameters=SMALL["CHGNet"])
)
test_so3net_conforms = pytest.mark.slow(
    conformance("matgl", model="SO3Net", hyperparameters=SMALL["SO3Net"])
)


def build(name: str, dtype: str = "float64", **more):
    config = {"model": name, "hyperparameters": SMALL[name], "element_types": ELEMENTS, **more}
    return ase_nnp.build_model("matgl", config, seed=1, device="cpu", dtype=dtype)


def crystal() -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.numbers[0] = 8
    atoms.rattle(0.1, seed=2)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * np.triu(np.ones((3, 3)), 1)), True)
    return atoms


def wire() -> Atoms:
    return Atoms("Cu2", [[0, 0, 0], [2.3, 0.4, 0.1]], cell=[4.6, 0, 0], pbc=[True, False, False])


def own_potential(model, **options):
    """The package's own Potential around the same network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matgl.apps.pes import Potential

        potential = Potential(copy.deepcopy(model.network), calc_stresses=True, **options)
    return potential.to(model.dtype).eval()


def own_calculator(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matgl.ext.ase import PESCalculator

        return PESCalculator(own_potential(model, **options), stress_unit="eV/A3", use_voigt=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_numbers_are_those_of_the_package_itself(name):
    """Where its own graph is right: three periodic directions, or none."""
    refs = [0.1, -0.2, 0.3, -0.4]
    scale = {"data_mean": 0.5, "data_std": 2.0, "element_refs": refs}
    model = build(name, "float32", **scale)
    options = {"calc_charge": True} if name == "QET" else {}
    calculator = own_calculator(model, **scale, **options)
    for atoms in (crystal(), molecule("CH3CH2OH")):
        ours, own = atoms.copy(), atoms.copy()
        ours.calc, own.calc = ase_nnp.NNPCalculator(model), calculator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = own.get_forces()
        assert ours.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-4)
        np.testing.assert_allclose(ours.get_forces(), theirs, atol=1e-4)
        if atoms.pbc.all():
            np.testing.assert_allclose(ours.get_stress(), own.get_stress(), atol=1e-5)


def test_the_repulsion_is_that_of_ziegler_biersack_and_littmark():
    """The package's own calculator cannot evaluate it, so the published formula is the truth."""
    plain, hard = (build("TensorNet", calc_repuls=flag) for flag in (False, True))
    atoms = Atoms("CO", [[0, 0, 0], [0.9, 0.3, 0.2]])
    pair = atoms + Atoms("H", [[40.0, 0.0, 0.0]])  # the last atom has no neighbor
    r, cutoff = atoms.get_distance(0, 1), plain.cutoff
    x = r * (6**0.23 + 8**0.23) / (0.8854 * units.Bohr)
    screening = sum(
        c * np.exp(-a * x)
        for c, a in ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
    )
    s = r / cutoff
    smooth = 1 - 10 * s**3 + 15 * s**4 - 6 * s**5
    wanted = 14.399645 * 48 / r * screening * smooth
    for structure in (atoms, pair):
        values = [ase_nnp.predict(m, [structure])[0]["energy"] for m in (plain, hard)]
        assert values[1] - values[0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_wire_is_a_quarter_of_its_fourfold_cell(name):
    model = build(name)
    one, four = ase_nnp.predict(model, [wire(), wire() * (4, 1, 1)])
    assert four["energy"] == pytest.approx(4 * one["energy"], abs=1e-8)


def test_a_slab_is_no_molecule():
    model = build("TensorNet")
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(slab, molecule("CO"), 1.9, "ontop", mol_index=1)
    closed, free = slab.copy(), slab.copy()
    closed.pbc, free.pbc = True, False
    energies = [r["energy"] for r in ase_nnp.predict(model, [slab, closed, free])]
    assert energies[0] == pytest.approx(energies[1], abs=1e-8)
    assert abs(energies[0] - energies[2]) > 1e-3


def test_the_stress_is_in_electronvolt_per_cubic_angstrom():
    model = build("TensorNet")
    atoms = crystal()
    stress = ase_nnp.predict(model, [atoms], ("stress",))[0]["stress"]
    values = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(atoms.cell[:] * (1 + sign * 1e-5), scale_atoms=True)
        values.append(ase_nnp.predict(model, [moved])[0]["energy"])
    slope = (values[0] - values[1]) / 2e-5 / atoms.get_volume()
    assert np.trace(stress) == pytest.approx(slope, rel=1e-5)
    assert abs(slope) < 160 * units.GPa / units.eV  # and no gigapascal


def test_a_used_calculator_can_be_copied_and_pickled():
    atoms = crystal()
    atoms.calc = ase_nnp.NNPCalculator(build("M3GNet"))
    before = atoms.get_forces()
    for twin in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        again = crystal()
        again.calc = twin
        np.testing.assert_allclose(again.get_forces(), before, atol=1e-12)


@pytest.mark.parametrize("name", ["TensorNet", "M3GNet"])
def test_forces_can_be_trained(name):
    model = build(name).train()
    model(model.make_graph([crystal(), wire()]))["forces"].pow(2).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.fixture
def folder(tmp_path):
    """A folder as the package writes it, with the answer of what is in it."""
    model = build("TensorNet", "float32", element_refs=[0.1, -0.2, 0.3, -0.4])
    own_potential(model, element_refs=[0.1, -0.2, 0.3, -0.4]).save(tmp_path / "pes")
    return tmp_path / "pes", ase_nnp.predict(model, [crystal()])[0]["energy"]


def test_a_model_folder_is_read(folder):
    path, energy = folder
    model = ase_nnp.load_model("matgl", checkpoint=path, device="cpu")
    assert model.kind == "TensorNet"
    assert ase_nnp.predict(model, [crystal()])[0]["energy"] == pytest.approx(energy, abs=1e-5)
    ase_nnp.save_model(model, path.parent / "copy.nnp")
    again = ase_nnp.load_model(path.parent / "copy.nnp", device="cpu")
    assert ase_nnp.predict(again, [crystal()])[0]["energy"] == pytest.approx(energy, abs=1e-5)


def test_a_folder_cannot_name_other_peoples_classes(folder):
    path, _ = folder
    content = json.loads((path / "model.json").read_text())
    content["@module"], content["@class"] = "subprocess", "Popen"
    (path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ase_nnp.UnsafeFileError, match="subprocess"):
        ase_nnp.load_model("matgl", checkpoint=path, device="cpu")


def test_an_inner_class_is_checked_too(folder):
    path, _ = folder
    arguments = torch.load(path / "model.pt", weights_only=True)
    arguments["model"]["@module"], arguments["model"]["@class"] = "os", "system"
    torch.save(arguments, path / "model.pt")
    with pytest.raises(ase_nnp.UnsafeFileError, match=r"os\.system"):
        ase_nnp.load_model("matgl", checkpoint=path, device="cpu")


def test_a_folder_that_lacks_a_file_says_which(folder):
    path, _ = folder
    (path / "state.pt").unlink()
    with pytest.raises(ase_nnp.CheckpointError, match=r"state\.pt missing"):
        ase_nnp.load_model("matgl", checkpoint=path, device="cpu")


def test_a_published_name_is_looked_for_in_the_cache_only(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    with pytest.raises(ase_nnp.CheckpointError, match="nothing is downloaded"):
        ase_nnp.load_model("matgl", checkpoint="TensorNet-PES-MatPES-PBE-2025.2", device="cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "Popen"}, "potentials are"),
        ({"hyperparameters": {"unit": 3}}, "Did you mean 'units'"),
        ({"hyperparameters": {"is_intensive": True}}, "not an energy"),
        ({"element_types": ["Cu", "Xx"]}, "Xx"),
        ({"element_types": ["Cu"], "element_refs": [1.0, 2.0]}, "2 values for 1"),
    ],
)
def test_what_cannot_be_built_says_why(config, message):
    with pytest.raises(ase_nnp.ConfigError, match=message):
        ase_nnp.build_model("matgl", config, device="cpu")
