"""The table of element features."""

import json
from itertools import pairwise

import numpy as np

from ase_nnp_cgcnn.elements import MAX_Z, NUM_FEATURES, element_features

SIZES = (19, 7, 10, 10, 12, 10, 10, 4, 10)  # classes of each of the nine properties


def test_table_equals_the_published_one(shared):
    published = json.loads((shared / "reference/cgcnn/atom_init.json").read_text())
    table = element_features()
    assert len(published) == MAX_Z
    for z, row in published.items():
        np.testing.assert_array_equal(table[int(z)], row)


def test_each_property_has_at_most_one_class():
    table = element_features()[1 : MAX_Z + 1]
    first = np.cumsum([0, *SIZES])
    assert first[-1] == NUM_FEATURES == table.shape[1]
    for start, end in pairwise(first):
        assert table[:, start:end].sum(axis=1).max() == 1


def test_group_period_and_block_are_those_of_the_periodic_table():
    table = element_features()
    known = {"C": (6, 14, 2, 1), "Fe": (26, 8, 4, 2), "Xe": (54, 18, 5, 1), "U": (92, 0, 7, 3)}
    for z, group, period, block in known.values():
        assert table[z, group] == table[z, 19 + period - 1] == table[z, 78 + block] == 1


def test_elements_without_features_have_none():
    table = element_features()
    assert np.isnan(table[0]).all()
    assert np.isnan(table[MAX_Z + 1 :]).all()
