"""Digests of structures: the same content gives the same, any other content another."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from ase_nnp.files.identity import UNREADABLE, differences, digest, structure_digest


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.info = {"charge": 1, "list": [1, 2.5, None], "nested": {"b": "x", "a": np.arange(3)}}
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1], (True, False, False))])
    atoms.new_array("site", np.array(["top", "hcp", "fcc", "top"]))
    return atoms


CHANGES = {
    "position": lambda atoms: atoms.positions.__setitem__((2, 1), atoms.positions[2, 1] + 1e-13),
    "number": lambda atoms: atoms.numbers.__setitem__(0, 28),
    "cell": lambda atoms: atoms.cell.__setitem__((0, 1), 1e-13),
    "pbc": lambda atoms: atoms.set_pbc((True, True, False)),
    "constraint": lambda atoms: atoms.set_constraint(atoms.constraints[:1]),
    "mask": lambda atoms: atoms.set_constraint([FixAtoms([0]), FixCartesian([1], (1, 1, 0))]),
    "charge": lambda atoms: atoms.info.update(charge=2),
    "nested": lambda atoms: atoms.info["nested"]["a"].__setitem__(0, 7),
    "new info": lambda atoms: atoms.info.update(spin=1),
    "momenta": lambda atoms: atoms.set_momenta(np.full((4, 3), 0.1)),
    "tags": lambda atoms: atoms.set_tags([0, 0, 0, 1]),
    "text": lambda atoms: atoms.arrays["site"].__setitem__(0, "bri"),
    "rotation": lambda atoms: atoms.rotate(90, "z"),
}


@pytest.mark.parametrize("what", sorted(CHANGES))
def test_every_change_of_content_is_another_structure(what):
    atoms = crystal()
    CHANGES[what](atoms)
    assert structure_digest(atoms) != structure_digest(crystal())


def test_copies_labels_and_the_order_of_info_change_nothing():
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    atoms.info = dict(reversed(atoms.info.items()))
    atoms.positions[0] = -0.0
    assert structure_digest(atoms) == structure_digest(crystal()) == structure_digest(atoms.copy())


def test_an_object_in_info_has_a_digest_that_another_process_would_give():
    one, other = crystal(), crystal()
    one.info["thing"], other.info["thing"] = object(), object()
    assert structure_digest(one) == structure_digest(other) != structure_digest(crystal())


def test_what_is_no_structure_has_no_digest():
    assert structure_digest(None) == structure_digest("Cu") == UNREADABLE


def test_values_that_join_to_the_same_text_are_told_apart():
    texts = [["ab", "c"], ["a", "bc"], ["abc"], "abc", {"a": "bc"}, [["ab"], "c"], ["ab", ["c"]]]
    assert len({digest(value) for value in texts}) == len(texts)
    assert len({digest(v) for v in (1, 1.0, True, "1", None, np.array([1]), [1])}) == 7


def test_differences_name_what_differs():
    before = {"fmax": 0.05, "structures": ["a", "b", "c"], "only": 1}
    assert differences(before, before) == []
    assert differences(before, {**before, "fmax": 0.1}) == ["fmax: 0.05 there, 0.1 here"]
    assert differences(before, {**before, "structures": ["a"]}) == ["structures: 3 there, 1 here"]
    assert differences(before, {**before, "structures": ["a", "x", "y"]}) == [
        "structures: number 1 and 1 more of 3 differ in content"
    ]
