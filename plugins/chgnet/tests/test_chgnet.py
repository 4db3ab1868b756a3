"""CHGNet against its own calculator, and against the suite that every model owes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule

import ase_nnp
from ase_nnp.testing import conformance

pytest.importorskip("chgnet", reason="needs the chgnet package (extra 'chgnet')")

# Slow here because the core's own tests run the suite over every registered family.
test_chgnet_conforms = pytest.mark.slow(conformance("chgnet"))
test_chgnet_with_the_bias_of_its_first_release_conforms = pytest.mark.slow(
    conformance("chgnet", mlp_out_bias=True)
)

PROPERTIES = ("energy", "forces", "stress", "energies", "magmoms")


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
    "one atom in a crystal": lambda: bulk("Si"),
    "wire": wire,
}


def boxed(atoms: Atoms) -> Atoms:
    """The same atoms with images far away, as the package's calculator needs a periodic cell."""
    cell = np.diag([30.0, 30.0, 30.0])
    for axis in np.flatnonzero(atoms.pbc):
        cell[axis] = atoms.cell[axis]
    if atoms.cell.rank == 3:
        cell = atoms.cell[:]
    twin = Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=True)
    twin.wrap()  # the package rounds fractional coordinates, which ours are in the cell
    return twin


@contextlib.contextmanager
def silence():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            yield


def own_results(name: str, structures, double: bool = False):
    """What the package's calculator says; ``double`` runs all of it in float64."""
    with silence(), pytest.MonkeyPatch.context() as patch:
        from chgnet.graph import converter
        from chgnet.model import CHGNetCalculator, composition_model
        from chgnet.model import model as models

        network = models.CHGNet.load(model_name=name, use_device="cpu", verbose=False)
        if double:
            network.double()
            patch.setattr(converter, "TORCH_DTYPE", torch.float64)
            patch.setattr(models, "TORCH_DTYPE", torch.float64)
            count = composition_model.AtomRef._assemble_graphs
            patch.setattr(
                composition_model.AtomRef,
                "_assemble_graphs",
                lambda self, graphs: count(self, graphs).double(),
            )
        calculator = CHGNetCalculator(network, use_device="cpu", return_site_energies=True)
        per_structure = []
        for atoms in structures:
            twin = boxed(atoms)
            twin.calc = calculator
            twin.get_forces()
            per_structure.append(dict(calculator.results))
        return per_structure


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_the_numbers_are_those_of_the_package_itself(dtype):
    model = ase_nnp.load_model("chgnet", checkpoint="0.3.0", device="cpu", dtype=dtype)
    structures = [make() for make in STRUCTURES.values()]
    own = own_results("0.3.0", structures, double=dtype == "float64")
    close = 1e-9 if dtype == "float64" else 1e-5
    for atoms, theirs in zip(structures, own, strict=True):
        volume = atoms.cell.rank == 3
        # In single precision the cell decides how the package rounds: both get the same one.
        same = atoms if dtype == "float64" or volume else boxed(atoms)
        ours = ase_nnp.predict(model, [same], PROPERTIES if volume else None)[0]
        # The package counts elements in single precision: a relative 1e-7 of the reference.
        assert ours["energy"] == pytest.approx(float(theirs["energy"]), abs=1e-5)
        np.testing.assert_allclose(ours["forces"], theirs["forces"], atol=close)
        np.testing.assert_allclose(ours["energies"], theirs["energies"], atol=close)
        np.testing.assert_allclose(ours["magmoms"], theirs["magmoms"], atol=close)
        if volume:
            np.testing.assert_allclose(ours["stress"], theirs["stress"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.2.0", "r2scan"])
def test_every_set_of_weights_is_read_as_the_package_reads_it(name):
    structures = [crystal(), wire(), Atoms("O", [[0.0, 0.0, 0.0]])]
    model = ase_nnp.load_model("chgnet", checkpoint=name, device="cpu", dtype="float64")
    own = own_results(name, structures, double=True)
    for results, theirs in zip(ase_nnp.predict(model, structures), own, strict=True):
        assert results["energy"] == pytest.approx(float(theirs["energy"]), abs=1e-5)
        np.testing.assert_allclose(results["forces"], theirs["forces"], atol=1e-9)


def test_pretrained_weights_are_the_files_they_are_said_to_be():
    from ase_nnp.models.checkpoints import packaged_file

    for offer in ase_nnp.list_models()["chgnet"].pretrained:
        content = packaged_file(ase_nnp.list_models()["chgnet"], offer.source).read_bytes()
        assert hashlib.sha256(content).hexdigest() == offer.sha256, offer.name
        assert "BSD" in offer.license


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.3.0", "0.2.0"])
def test_a_batch_gives_what_single_calls_give(name):
    model = ase_nnp.load_model("chgnet", checkpoint=name, device="cpu", dtype="float64")
    structures = [make() for make in STRUCTURES.values()]
    for one, many in zip(structures, ase_nnp.predict(model, structures), strict=True):
        alone = ase_nnp.predict(model, [one])[0]
        for key in ("energy", "forces", "energies", "magmoms"):
            np.testing.assert_allclose(many[key], alone[key], atol=1e-10, err_msg=key)


def test_bonds_and_angles_are_those_of_the_package():
    """Counted by the package's own builder, in a small cell where an atom sees its images."""
    from ase_nnp import AtomGraph
    from ase_nnp_chgnet.bonds import find_angles, pair_edges

    for atoms in (bulk("Cu"), crystal()):
        graph = AtomGraph.from_atoms(atoms, 6.0, dtype=torch.float64)
        bonds = pair_edges(graph, 6.0)
        lengths = bonds.vectors.norm(dim=1)[bonds.first]
        angles = find_angles(bonds, lengths, 3.0, len(atoms))
        with silence():
            from chgnet.graph import CrystalGraphConverter
            from pymatgen.io.ase import AseAtomsAdaptor

            own = CrystalGraphConverter(atom_graph_cutoff=6, bond_graph_cutoff=3, verbose=False)(
                AseAtomsAdaptor.get_structure(atoms)
            )
        assert len(bonds.first) == len(own.undirected2directed)
        assert len(angles.table) == len(own.bond_graph)
        # The two edges of a bond are each other's reverse.
        edge, order = graph.edge_vectors(), torch.argsort(bonds.bond, stable=True)
        pairs = edge[order].reshape(-1, 2, 3)
        np.testing.assert_allclose(pairs[:, 0], -pairs[:, 1], atol=1e-12)
        assert (torch.bincount(bonds.bond) == 2).all()
        cosines = (edge[angles.left] * edge[angles.right]).sum(1)
        assert (bonds.edges[angles.left, 0] == bonds.edges[angles.right, 0]).all()
        assert (angles.left != angles.right).all()
        assert torch.isfinite(cosines).all()


def test_edges_in_one_direction_only_are_refused():
    model = ase_nnp.build_model("chgnet", ase_nnp.list_models()["chgnet"].test_config)
    graph = model.make_graph(crystal())
    half = graph.edge_index[0] < graph.edge_index[1]
    broken = graph.replace(edge_index=graph.edge_index[:, half], edge_shift=graph.edge_shift[half])
    with pytest.raises(ase_nnp.StructureError, match="in both directions"):
        model(broken)


def test_an_edge_at_the_cutoff_may_lack_its_reverse():
    model = ase_nnp.load_model("chgnet", device="cpu", dtype="float64")
    atoms = bulk("Po", "sc", a=3.0)
    atoms.numbers[:] = 29
    graph = ase_nnp.AtomGraph.from_atoms(atoms, 6.0 + 1e-6, dtype=torch.float64)
    length = graph.edge_vectors().norm(dim=1)
    assert length.max() == pytest.approx(6.0)  # second neighbors along the axes
    keep = torch.ones(graph.num_edges, dtype=torch.bool)
    keep[int(length.argmax())] = False
    pruned = graph.replace(edge_index=graph.edge_index[:, keep], edge_shift=graph.edge_shift[keep])
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        model = model.to(dtype)  # single precision also looks up where the bonds are
        whole = float(model(graph)["energy"])
        assert float(model(pruned)["energy"]) == pytest.approx(whole, abs=close)


def test_a_left_handed_cell_has_the_stress_of_its_mirror():
    model = ase_nnp.load_model("chgnet", device="cpu")
    atoms = crystal()
    left = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell[[1, 0, 2]], pbc=True)
    one, two = ase_nnp.predict(model, [atoms, left], ("energy", "stress"))
    np.testing.assert_allclose(one["stress"], two["stress"], atol=1e-6)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.pth.tar"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ase_nnp.CheckpointError, match="no CHGNet checkpoint"):
        ase_nnp.load_model("chgnet", checkpoint=path, device="cpu")


def test_it_can_be_trained():
    model = ase_nnp.build_model("chgnet", ase_nnp.list_models()["chgnet"].test_config, seed=0)
    model.train()
    graph = model.make_graph([crystal(), bulk("Cu")])
    before = model(graph)["forces"].pow(2).sum()
    before.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert sum(g is not None and bool(g.abs().sum() > 0) for g in grads) > len(grads) / 2


@pytest.mark.parametrize(
    "config",
    [
        {"n_conv": 0},
        {"num_radial": 0},
        {"atom_graph_cutoff": -1},
        {"bond_graph_cutoff": float("inf")},
        {"cutoff_coeff": 10**12},
        {"gMLP_norm": "x"},
    ],
    ids=str,
)
def test_a_configuration_that_could_not_answer_is_refused(config):
    with pytest.raises(ase_nnp.ConfigError, match=next(iter(config))):
        ase_nnp.build_model("chgnet", config, device="cpu")
