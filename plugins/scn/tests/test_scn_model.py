"""What the family promises beyond the published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from scipy.spatial.transform import Rotation

from ase_nnp import AtomGraph, ConfigError, NNPCalculator, build_model, load_model, save_model
from ase_nnp.testing import conformance
from ase_nnp_scn import FAMILY
from ase_nnp_scn.frames import drawn_reference, frames_about, turn

# Slow here because the core's own tests run the suite over every registered family.
test_conformance = pytest.mark.slow(conformance("scn"))

TINY = dict(FAMILY.test_config)
ONE_TAP = TINY | {"num_taps": 1}


def tiny(dtype="float64", **options):
    """A small network with weights large enough for the edge frames to matter."""
    model = build_model("scn", ONE_TAP, seed=3, device="cpu", dtype=dtype, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "edge_blocks" in name and name.endswith("weight"):
                parameter.mul_(2.5)
    return model


def slab():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    atoms += Atoms("CO", atoms.positions[-1] + [[0.1, 0, 1.8], [0.3, 0.1, 2.9]])
    return atoms


def predict(model, *atoms):
    with torch.no_grad():
        return {k: v.numpy() for k, v in model(model.make_graph(list(atoms))).items()}


def test_the_same_atoms_give_the_same_energy_and_the_global_generator_is_left_alone():
    model = tiny()
    state = torch.get_rng_state()
    first, second = predict(model, slab()), predict(model, slab())
    assert first["energy"] == pytest.approx(second["energy"], rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)


def test_frames_do_not_depend_on_the_order_or_place_of_atoms():
    model, atoms = tiny(), slab()
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    order = rng.permutation(len(atoms))
    moved = atoms[order]
    moved.positions += (1.3, 0.4, 0.0)
    moved.wrap(pbc=(True, True, False))
    one, two = predict(model, atoms), predict(model, moved)
    np.testing.assert_allclose(two["energy"], one["energy"], rtol=1e-10)
    np.testing.assert_allclose(two["forces"], one["forces"][order], atol=1e-10)


def test_frames_turn_with_the_atoms():
    """A rotation with the cell changes the energy by much less than a random draw does."""
    model = tiny(num_sphere_samples=400, use_grid=False)  # the grid itself is not isotropic
    atoms = slab()
    atoms.positions += np.random.default_rng(1).normal(scale=0.05, size=atoms.positions.shape)
    turned = atoms.copy()
    rotation = Rotation.from_rotvec([0.4, -1.0, 0.8]).as_matrix()
    turned.set_cell(atoms.cell @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    kept = float(predict(model, atoms)["energy"][0])
    graph = model.make_graph(atoms)
    noise = []
    for seed in range(6):
        drawn = torch.rand(graph.num_edges, 3, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            noise.append(
                float(model(graph.replace(extra={"edge_random": drawn.double()}))["energy"])
            )
    assert abs(float(predict(model, turned)["energy"][0]) - kept) < 0.05 * np.std(noise)


def test_other_vacuum_and_repeated_cells_keep_the_frames():
    model, atoms = tiny(), slab()
    atoms.positions += np.random.default_rng(3).normal(scale=0.05, size=atoms.positions.shape)
    energy = predict(model, atoms)["energy"]
    taller = atoms.copy()
    taller.cell[2] *= 2
    open_cell = atoms.copy()
    open_cell.cell[2] = 0
    wide = atoms.repeat((2, 1, 1))
    energies = predict(model, taller, open_cell, wide)["energy"]
    np.testing.assert_allclose(energies, energy * [1, 1, 2], rtol=1e-10)


def test_wires_and_molecules_have_frames():
    model = tiny()
    wire = Atoms(
        "Cu2", positions=[[0, 0, 0], [0, 0, 2.4]], cell=[0, 0, 5], pbc=(False, False, True)
    )
    results = predict(model, wire, molecule("CO2"), molecule("CH4"))
    assert np.isfinite(results["energy"]).all()
    assert np.isfinite(results["forces"]).all()


def test_more_frames_average_and_tell_their_spread():
    atoms = slab()
    single, many = tiny(), tiny(frames=8)
    assert many.outputs == ("energy", "forces", "energy_std", "forces_std")
    results = predict(many, atoms, atoms[:5])
    assert results["energy_std"].shape == (2,)
    assert results["forces_std"].shape == results["forces"].shape == (len(atoms) + 5, 3)
    assert results["energy_std"].min() > 0
    graph = single.make_graph(atoms)
    draws = []
    for seed in range(12):
        drawn = torch.rand(graph.num_edges, 3, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            draws.append(
                float(single(graph.replace(extra={"edge_random": drawn.double()}))["energy"])
            )
    # The mean over frames estimates the mean over the random draws of the reference.
    error = abs(results["energy"][0] - np.mean(draws))
    assert error < 3 * np.std(draws, ddof=1)


def test_many_frames_make_the_energy_independent_of_the_first():
    """Equal steps of the angle integrate it out: another starting draw gives the same mean."""
    model = tiny(frames=24, num_interactions=1)
    graph = model.make_graph(slab())
    drawn = torch.rand(graph.num_edges, 3, generator=torch.Generator().manual_seed(0)).double()
    turned = turn_draw(graph, drawn)
    with torch.no_grad():
        energies = [
            float(model(graph.replace(extra={"edge_random": d}))["energy"]) for d in (drawn, turned)
        ]
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)


def turn_draw(graph, drawn):
    """Another draw, whose frames are those of ``drawn`` turned by one angle."""
    vectors = graph.edge_vectors()
    u = vectors / vectors.norm(dim=1, keepdim=True)
    frames = turn(frames_about(u, drawn_reference(u, drawn)), torch.full((len(u),), 0.05).double())
    return 0.5 + 0.2 * frames[:, 2]  # normal to the edge, so taken as it is


def test_without_orders_frames_do_not_matter():
    model = build_model("scn", TINY | {"mmax": 0}, seed=0, device="cpu", dtype="float64", frames=3)
    assert predict(model, slab())["energy_std"][0] < 1e-10


def test_the_calculator_reports_the_spread():
    atoms = slab()
    atoms.calc = NNPCalculator(tiny(frames=2), device="cpu")
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_std"] > 0
    assert atoms.calc.results["forces_std"].shape == (len(atoms), 3)


@pytest.mark.parametrize("forces", ["direct", "gradient"])
def test_structures_without_edges_have_a_defined_result(forces):
    model = tiny(forces=forces)
    alone = Atoms("Cu", positions=[[0.0, 0, 0]])
    apart = Atoms("CuO", positions=[[0.0, 0, 0], [0, 0, 30.0]])
    results = predict(model, alone, apart, slab())
    assert np.isfinite(results["energy"]).all()
    np.testing.assert_allclose(results["energy"][1], predict(model, apart)["energy"][0], rtol=1e-12)
    np.testing.assert_allclose(results["energy"][0], predict(model, alone)["energy"][0], rtol=1e-12)
    if forces == "gradient":
        assert abs(results["forces"][:3]).max() == 0


def test_gradient_forces_are_the_gradient_also_where_frames_turn():
    model = tiny(forces="gradient", frames=2)
    assert model.conservative
    assert "stress" in model.outputs
    atoms = slab()
    atoms.positions += np.random.default_rng(1).normal(scale=0.05, size=atoms.positions.shape)
    forces = predict(model, atoms)["forces"]
    for atom, axis in ((0, 0), (12, 2), (13, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * 1e-5
            energies.append(float(predict(model, moved)["energy"][0]))
        slope = (energies[0] - energies[1]) / 2e-5
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-5 * abs(forces).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance_function": "silu", "num_bands": 2},
        {"use_grid": False, "num_resolutions": 1, "sphere_channels_reduce": 6, "num_taps": 1},
    ],
)
def test_gradients_reach_every_parameter(options):
    model = build_model("scn", TINY | options, seed=0, device="cpu").train()
    results = model(model.make_graph([slab(), molecule("C2H6")]))
    (results["energy"].square().sum() + results["forces"].square().sum()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    ("steps", "left"), [(30, 0.6), pytest.param(150, 0.02, marks=pytest.mark.slow)]
)
def test_a_tiny_network_learns_eight_structures_by_heart(steps, left):
    rng = np.random.default_rng(0)
    structures = []
    for _ in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.numbers[rng.integers(4)] = 8
        atoms.positions += rng.normal(scale=0.15, size=(4, 3))
        structures.append(atoms)
    energies = torch.tensor(rng.normal(size=8)).float()
    forces = torch.tensor(rng.normal(scale=0.3, size=(32, 3))).float()
    size = {"sphere_channels": 16, "sphere_channels_reduce": 16, "hidden_channels": 32}
    model = build_model("scn", TINY | size | {"num_taps": 1}, seed=0, device="cpu").train()
    graph = model.make_graph(structures)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        results = model(graph)
        loss = (results["energy"] - energies).square().mean()
        loss = loss + (results["forces"] - forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < left * losses[0]


def test_random_frames_while_training_only():
    model = tiny(random_training_frames=True)
    graph = model.make_graph(slab())
    with torch.no_grad():
        one, two = (float(model(graph)["energy"]) for _ in range(2))
        assert one == pytest.approx(two, rel=1e-6)
        model.train()
        assert float(model(graph)["energy"]) != float(model(graph)["energy"])


def test_parts_change_nothing(monkeypatch):
    model, atoms = tiny(), slab().repeat((2, 2, 1))
    whole = predict(model.freeze(), atoms)
    monkeypatch.setattr("ase_nnp_scn.blocks.PART_BYTES", {"cpu": 1, "cuda": 1})
    parts = predict(model, atoms)
    np.testing.assert_allclose(parts["energy"], whole["energy"], rtol=1e-12)
    np.testing.assert_allclose(parts["forces"], whole["forces"], atol=1e-12)


def test_changed_and_moved_weights_count_after_a_frozen_call():
    model = tiny().freeze()
    before = predict(model, slab())["energy"]
    with torch.no_grad():
        for block in model.edge_blocks:
            block.message_blocks[0].fc1_edge_proj.weight.mul_(1.1)
    after = predict(model, slab())["energy"]
    assert abs(after - before).max() > 1e-6
    model.train().eval()
    np.testing.assert_allclose(predict(model, slab())["energy"], after, rtol=1e-12)
    model.freeze()
    rounded = predict(model.to(torch.float32), slab())["energy"]
    np.testing.assert_allclose(rounded, after, rtol=1e-3)
    np.testing.assert_allclose(predict(model.to(torch.float64), slab())["energy"], after, rtol=1e-3)


def test_energies_alone_cost_no_forces():
    model = tiny()
    with torch.no_grad():
        assert set(model.compute(model.make_graph(slab()), ("energy",))) == {"energy"}


def test_normalizers_scale_energy_and_forces():
    old = {"target": {"mean": -0.7, "std": 2.0}, "grad_target": {"mean": 0.0, "std": 3.0}}
    raw, scaled = tiny(), tiny(normalizer=old)
    one, two = predict(raw, slab()), predict(scaled, slab())
    np.testing.assert_allclose(two["energy"], 2.0 * one["energy"] - 0.7)
    np.testing.assert_allclose(two["forces"], 3.0 * one["forces"])


def test_energies_of_elements_are_added_per_atom():
    references = [0.0] * 90
    references[29], references[8] = -1.0, 0.25
    one, two = predict(tiny(), slab()), predict(tiny(element_references=references), slab())
    np.testing.assert_allclose(two["energy"], one["energy"] + 12 * -1.0 + 0.25)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mmax": 2}, "mmax must be 0 or 1"),
        ({"num_resolutions": 3}, "num_resolutions"),
        ({"lmax": 3}, "lmax of at least 4"),
        ({"distance_function": "bessel"}, "distance_function"),
        ({"forces": "none"}, "forces must be"),
        ({"frames": 0}, "frames"),
        ({"num_interactions": 0}, "num_interactions"),
        ({"num_bands": 9}, "num_bands"),
        ({"normalizer": {"energy": 3}}, "normalizer"),
    ],
)
def test_impossible_configurations_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        build_model("scn", TINY | options)


def test_a_saved_model_keeps_its_options(tmp_path):
    model = tiny(frames=2, normalizer={"energy": {"mean": 1.0, "std": 2.0}})
    save_model(model, tmp_path / "scn.nnp")
    again = load_model(tmp_path / "scn.nnp", device="cpu", dtype="float64")
    assert again.frames == 2
    np.testing.assert_allclose(
        predict(again, slab())["energy"], predict(model, slab())["energy"], rtol=1e-12
    )


def test_edges_in_any_order_give_the_same_result():
    model = tiny()
    atoms = slab()
    atoms.positions += np.random.default_rng(2).normal(scale=0.05, size=atoms.positions.shape)
    graph = model.make_graph(atoms)
    order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    shuffled = graph.replace(
        edge_index=graph.edge_index[:, order], edge_shift=graph.edge_shift[order]
    )
    with torch.no_grad():
        one, two = model(graph), model(shuffled)
    torch.testing.assert_close(one["energy"], two["energy"], rtol=1e-11, atol=0)


def test_a_draw_belongs_to_its_edge_in_a_batch():
    model = tiny()
    graphs = []
    for seed, atoms in enumerate((slab(), molecule("C2H6"))):
        graph = model.make_graph(atoms)
        drawn = torch.rand(graph.num_edges, 3, generator=torch.Generator().manual_seed(seed))
        graphs.append(graph.replace(extra={"edge_random": drawn.double()}))
    with torch.no_grad():
        alone = torch.cat([model(g)["energy"] for g in graphs])
        together = model(AtomGraph.collate(graphs))["energy"]
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=0)


def test_rows_beyond_the_last_element_are_no_elements():
    assert max(build_model("scn", TINY | {"max_num_elements": 300}, device="cpu").elements) == 118


def test_degrees_without_end_are_refused():
    with pytest.raises(ConfigError, match="lmax"):
        build_model("scn", TINY | {"lmax": 10**9}, device="cpu")
