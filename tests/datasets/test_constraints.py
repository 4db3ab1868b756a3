"""Constraints of every class of ASE come back from every format; others are left out, aloud."""

from __future__ import annotations

import pytest
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import (
    FixAtoms,
    FixCom,
    FixConstraint,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixSymmetry,
    Hookean,
    MirrorForce,
)

from ase_nnp.datasets import open_dataset, write_dataset
from ase_nnp.datasets.shard import DatasetWarning

ENDINGS = (".aselmdb", ".lmdb", ".extxyz", ".h5")


def held(*constraints):
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5)
    atoms.info.clear()
    atoms.set_constraint([make(atoms) if callable(make) else make for make in constraints])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)  # FixSymmetry has changed the cell
    return atoms


def described(atoms):
    out = [constraint.todict() for constraint in atoms.constraints]
    return [(one["name"], {**one["kwargs"], "atoms": None}) for one in out]


@pytest.mark.parametrize("ending", ENDINGS)
def test_constraints_come_back(tmp_path, ending):
    given = [
        held(FixAtoms([0]), Hookean(2, [0, 0, 1, -7], 5.0), FixCom()),
        held(Hookean(0, [1.0, 2.0, 3.0], 5.0, rt=2.0), MirrorForce(0, 1)),
        held(FixedPlane([0], [0, 0, 1]), FixedLine([1], [1, 0, 0]), Hookean(0, 1, 5.0, rt=2.0)),
        held(FixInternals(bonds=[[2.5, [0, 1]]])),
        held(FixSymmetry),
    ]
    write_dataset(tmp_path / f"c{ending}", given)

    for before, after in zip(given, open_dataset(tmp_path / f"c{ending}"), strict=True):
        assert repr(described(after)) == repr(described(before))
    symmetry, found = given[-1].constraints[0], after.constraints[0]
    assert found.atoms == symmetry.atoms
    assert (found.rotations == symmetry.rotations).all()


def test_the_json_of_ase_gives_its_constraints(tmp_path):
    from ase.db import connect

    given = held(FixSymmetry, MirrorForce(0, 1), Hookean(2, [0, 0, 1, -7], 5.0))
    connect(tmp_path / "c.json").write(given)
    assert repr(described(open_dataset(tmp_path / "c.json")[0])) == repr(described(given))


class Silent(FixConstraint):
    """Of a user: inherits a description that is nothing."""

    def adjust_positions(self, atoms, new):
        """Hold nothing."""

    adjust_forces = adjust_positions


class Bare:
    """Of a user: without any description."""

    adjust_positions = adjust_forces = Silent.adjust_positions


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [Silent, Bare])
def test_a_constraint_that_no_file_can_describe_is_left_out_aloud(tmp_path, ending, kind):
    given = held(kind(), FixAtoms([0]))
    with pytest.warns(DatasetWarning, match=f"constraint {kind.__name__} is left out"):
        write_dataset(tmp_path / f"c{ending}", [given])
    (kept,) = open_dataset(tmp_path / f"c{ending}")[0].constraints
    assert kept.index.tolist() == [0]
