"""Sums over images against direct lattice sums and closed forms; the blocks made of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell, molecule

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.lattice_sums import gaussian_messages, smeared_coulomb
from ase_nnp.models.long_range import LONG_RANGE, MESSAGES, long_range_block

WIDTHS = torch.tensor([1.0, 1.7], dtype=torch.float64)


def graph_of(*structures):
    return AtomGraph.from_atoms(list(structures), 3.0, dtype=torch.float64)


def skewed():
    rng = np.random.default_rng(2)
    cell = np.diag([3.1, 3.7, 4.2]) + rng.normal(scale=0.5, size=(3, 3))
    return Atoms("C3", rng.normal(size=(3, 3)), cell=cell, pbc=True)


def with_pbc(*pbc):
    atoms = skewed()
    atoms.pbc = pbc
    return atoms


def brute_force(atoms, values, weights):
    """The same sum, image by image, as far as a Gaussian is worth 1e-12."""
    most = [9 if p else 0 for p in atoms.pbc]
    total = np.zeros_like(values)
    for n in itertools.product(*(range(-m, m + 1) for m in most)):
        between = atoms.positions[:, None] - atoms.positions[None] - np.array(n) @ atoms.cell[:]
        square = (between**2).sum(axis=2)[..., None]
        kernel = np.exp(-0.5 * square / WIDTHS.numpy() ** 2) @ weights
        total += np.einsum("ijc,jc->ic", kernel, values)
    return total


@pytest.mark.parametrize(
    "pbc",
    [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)],
    ids=lambda p: "".join(map(str, p)),
)
def test_messages_are_the_lattice_sum(pbc):
    atoms, rng = with_pbc(*map(bool, pbc)), np.random.default_rng(0)
    values, weights = rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    messages = gaussian_messages(
        graph_of(atoms), torch.tensor(values), WIDTHS, torch.tensor(weights)
    )
    np.testing.assert_allclose(messages, brute_force(atoms, values, weights), atol=1e-8)


def test_messages_of_a_batch_are_those_of_each():
    data = [skewed(), molecule("H2O"), with_pbc(True, True, False)]
    graph = graph_of(*data)
    values = torch.randn(graph.num_atoms, 2, dtype=torch.float64)
    weights = torch.ones(2, 2, dtype=torch.float64)
    parts, at = [], 0
    for atoms in data:
        own = values[at : at + len(atoms)]
        parts.append(gaussian_messages(graph_of(atoms), own, WIDTHS, weights))
        at += len(atoms)
    torch.testing.assert_close(
        gaussian_messages(graph, values, WIDTHS, weights), torch.cat(parts), atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("symbols", "lattice", "nearest", "madelung"),
    [
        ("NaCl", "rocksalt", 0.5, 1.74756459463),
        ("CsCl", "cesiumchloride", math.sqrt(3) / 2, 1.76267477307),
        ("ZnS", "zincblende", math.sqrt(3) / 4, 1.63805505338),
    ],
)
def test_narrow_charges_have_madelung_constants(symbols, lattice, nearest, madelung):
    atoms = bulk(symbols, lattice, a=5.0)
    charges = torch.tensor([1.0, -1.0], dtype=torch.float64)
    # At 0.35 Angstrom erfc of the shortest distance is below 1e-9.
    energy = float(smeared_coulomb(graph_of(atoms), charges, 0.35).sum())
    assert energy * nearest * 5.0 == pytest.approx(-madelung, abs=1e-8)


def test_smeared_charges_of_a_molecule_have_the_error_function():
    atoms = Atoms("NaCl", [[0, 0, 0], [0, 1.2, 0]])
    charges = torch.tensor([0.7, -1.3], dtype=torch.float64)
    energies = smeared_coulomb(graph_of(atoms), charges, 1.0)
    expected = -0.91 * math.erf(1.2 / math.sqrt(2)) / 1.2
    assert float(energies.sum()) == pytest.approx(expected, rel=1e-12)
    one = smeared_coulomb(graph_of(Atoms("Na")), charges[:1], 1.0)
    assert float(one.sum()) == 0


@pytest.mark.parametrize("net", [0.0, 1.0])
def test_charged_sheets_are_a_plate_capacitor(net):
    """Far sheets of charges q1, q2: E falls by 2 pi q1 q2 d / A, charged in all or not."""
    energies = []
    for d in (9.0, 12.0):
        atoms = Atoms("NaCl", [[0, 0, 0], [0, 0, d]], cell=[3, 3, 0], pbc=(True, True, False))
        charges = torch.tensor([1.0, net - 1.0], dtype=torch.float64)
        energies.append(float(smeared_coulomb(graph_of(atoms), charges, 1.0).sum()))
    slope = (energies[1] - energies[0]) / 3.0
    assert slope == pytest.approx(-2 * math.pi * (net - 1.0) / 9.0, abs=1e-6)


@pytest.mark.parametrize("kind", LONG_RANGE)
def test_blocks_do_not_depend_on_frame_order_or_cell(kind):
    torch.manual_seed(0)
    kinds = (*MESSAGES, "charges")
    block = long_range_block({"kind": kind}, 8, kinds).double()
    atoms = skewed()
    features = torch.randn(3, 8, dtype=torch.float64)

    def run(structure, rows):
        out = block(graph_of(structure), features[rows])
        return (out[0] if kind == "charges" else out).detach()

    first = run(atoms, [0, 1, 2])
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turned.positions += 0.7
    torch.testing.assert_close(run(turned, [0, 1, 2]), first, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        run(atoms[[2, 0, 1]], [2, 0, 1]), first[[2, 0, 1]], atol=1e-9, rtol=0
    )

    doubled = make_supercell(atoms, [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    rows = [
        int(np.argmin([_offset(p, q, atoms) for q in atoms.positions])) for p in doubled.positions
    ]
    torch.testing.assert_close(run(doubled, rows), first[rows], atol=1e-8, rtol=0)


def _offset(one, two, atoms):
    part = np.linalg.solve(atoms.cell[:].T, one - two)
    return np.abs(part - part.round()).sum()


@pytest.mark.parametrize("kind", LONG_RANGE)
def test_gradients_reach_every_parameter_and_agree_with_differences(kind):
    torch.manual_seed(1)
    block = long_range_block({"kind": kind}, 4, LONG_RANGE).double()
    graph = graph_of(with_pbc(True, True, False), molecule("H2O"))
    features = torch.randn(6, 4, dtype=torch.float64)

    def total(positions):
        out = block(graph.replace(positions=positions), features)
        return (out[0] if kind == "charges" else out.square()).sum()

    start = graph.positions.clone().requires_grad_(True)
    parameters = [start, *block.parameters()]
    grads = torch.autograd.grad(total(start), parameters, allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in grads[1:])
    if kind == "neural_atoms":  # it sees places through features alone
        return
    step = torch.zeros_like(start)
    step[1, 2] = 1e-4
    numeric = (total(start + step) - total(start - step)) / 2e-4
    assert float(grads[0][1, 2]) == pytest.approx(float(numeric.detach()), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kind": "ewalds"}, "there are ewald"),
        ({"kind": "ewald", "width": 1.0}, "has no width"),
        ({"kind": "ewald", "widths": [0.1]}, "or more"),
        ({"kind": "neural_atoms", "heads": 3}, "does not divide"),
        ({"kind": "charges", "width": 0.0}, "more than"),
        ({"width": 2.0}, "kind is None"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(config, said):
    with pytest.raises(ConfigError, match=said):
        long_range_block(config, 8, LONG_RANGE)
