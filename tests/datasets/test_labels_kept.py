"""Converting changes no label, whatever stands in ``info``: all pairs of writable formats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ase_nnp.datasets import convert, open_dataset, write_dataset

from .conftest import same

ENDINGS = ("aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5")
PAIRS = list(itertools.product(ENDINGS, ENDINGS))
NAMES = [*all_properties, "force", "virial", "virials", "charge", "uncorrected_total_energy"]
NAMES += [f"REF_{name}" for name in (*all_properties, "virials")]
STRUCTURE = ["Lattice", "lattice", "Properties", "pbc", "PBC", "species", "pos", "numbers", "cell"]
STRUCTURE += ["atoms_arrays", "ase_nnp_rest", "key_value_pairs", "data", "constraints", "uid"]

number = st.floats(-1e6, 1e6, width=32)
matrix = st.builds(lambda seed: np.random.default_rng(seed).normal(size=(3, 3)), st.integers(0, 99))
vector = st.builds(lambda seed: np.random.default_rng(seed).normal(size=6), st.integers(0, 99))
key = st.sampled_from(NAMES)
tagged = st.sampled_from(
    [{"__ndarray__": "no"}, {"__complex__": [1]}, {"__ase_objtype__": "cell"}, {1: "a", "1": "b"}]
)

#: Twelve kinds of information that some reader could take for something else.
NASTY = {
    "number under a label's name": st.dictionaries(key, number, min_size=1),
    "text under a label's name": st.dictionaries(key, st.text(max_size=9), min_size=1),
    "matrix under a label's name": st.dictionaries(key, matrix, min_size=1),
    "six values under a label's name": st.dictionaries(key, vector, min_size=1),
    "names of the structure": st.dictionaries(st.sampled_from(STRUCTURE), number | st.text()),
    "keys that are no text": st.dictionaries(
        st.integers(-9, 9) | st.tuples(st.integers(0, 3), st.text(max_size=2)) | st.none(), number
    ),
    "any text as key": st.dictionaries(st.text(max_size=12), number | st.text(max_size=12)),
    "values that look like tags": st.dictionaries(key | st.just("x"), tagged, min_size=1),
    "nested information": st.dictionaries(key | st.just("y"), st.lists(matrix, max_size=2)),
    "flags and numbers as words": st.dictionaries(
        key | st.just("z"), st.sampled_from([True, None, "T", "1", "nan", "[1, 2]", "a b", "", ","])
    ),
    "complex and whole numbers": st.dictionaries(
        key | st.just("w"),
        st.sampled_from([2**70, 1j, np.array([1j, 2]), np.arange(9), np.int8(3)]),
    ),
    "kinds of energy": st.dictionaries(
        st.sampled_from(["energy_kind", "reference_energy", "ref_energy"]),
        st.sampled_from(["odd", 5.0, -3.0]),
        min_size=1,
    ),
}


def labels(atoms):
    return {} if atoms.calc is None else dict(atoms.calc.results)


def structures(info):
    """A crystal with every label, a molecule with few, one without any."""
    rng = np.random.default_rng(3)
    crystal = bulk("Cu", cubic=True)
    n = len(crystal)
    crystal.calc = SinglePointCalculator(
        crystal,
        **{"energy": -1.0, "free_energy": -1.25, "forces": rng.normal(size=(n, 3))},
        **{"stress": rng.normal(size=6), "stresses": rng.normal(size=(n, 6))},
        **{"energies": rng.normal(size=n), "magmoms": rng.normal(size=n), "magmom": 2.5},
        **{"charges": rng.normal(size=n), "dipole": rng.normal(size=3)},
        **{"polarization": rng.normal(size=3), "dielectric_tensor": rng.normal(size=(3, 3))},
    )
    crystal.calc.results["energy_std"] = 0.25
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-2.0)
    bare = molecule("CO")
    for atoms in (crystal, water, bare):
        atoms.info = dict(info)
        for name in ("REF_forces", "force", "charge", "magmom"):
            atoms.set_array(name, rng.normal(size=(len(atoms), 3)))
    return [crystal, water, bare]


def assert_kept(before, after, where):
    for ours, theirs in zip(after, before, strict=True):
        assert set(labels(ours)) == set(labels(theirs)), where
        assert same(labels(ours), labels(theirs)), where
        for name, values in theirs.arrays.items():
            np.testing.assert_array_equal(ours.arrays[name], values, err_msg=f"{name} {where}")
        added = set(ours.info) - set(theirs.info)
        assert added <= {"sid", "energy_kind", "reference_energy"}, (where, added)
        assert set(theirs.info) <= set(ours.info), where


@pytest.mark.parametrize("kind", NASTY)
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_format_changes_a_label_on_the_way_to_the_next(kind, tmp_path_factory, data):
    following = {source: [target] for source, target in itertools.pairwise([*ENDINGS, ENDINGS[0]])}
    check_pairs(following, tmp_path_factory.mktemp("pairs"), structures(data.draw(NASTY[kind])))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NASTY)
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_pair_of_formats_changes_a_label(kind, tmp_path_factory, data):
    pairs = dict.fromkeys(ENDINGS, ENDINGS)
    check_pairs(pairs, tmp_path_factory.mktemp("pairs"), structures(data.draw(NASTY[kind])))


def check_pairs(pairs, folder, before):
    """Write, read, convert and read again."""
    for source, targets in pairs.items():
        write_dataset(folder / f"a.{source}", before)
        assert_kept(before, open_dataset(folder / f"a.{source}"), source)
        for target in targets:
            out = folder / f"{source}.to.{target}"
            convert(folder / f"a.{source}", out)
            assert_kept(before, open_dataset(out), (source, target))


@pytest.mark.parametrize("target", ["extxyz", "aselmdb"])
@pytest.mark.parametrize("kind", NASTY)
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_readers_of_ase_see_the_same_labels(kind, target, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("ase")
    before = structures(data.draw(NASTY[kind]))
    write_dataset(folder / f"a.{target}", before)
    if target == "extxyz":
        back = read(folder / "a.extxyz", ":")
    else:
        back = rows_by_ase(folder / "a.aselmdb")
    for ours, theirs in zip(back, before, strict=True):
        stored = labels(theirs)
        for name, value in labels(ours).items():
            np.testing.assert_array_equal(value, stored[name], err_msg=name)
        for name in ("energy", "forces", "stress"):
            assert (name in labels(ours)) == (name in stored), name


def rows_by_ase(path):
    """Atoms as ASE makes them of the rows of an ``.aselmdb``."""
    import json
    import zlib

    import lmdb
    from ase.db.row import AtomsRow
    from ase.io.jsonio import object_hook

    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as rows:
        texts = [zlib.decompress(rows.get(b"%d" % k)) for k in (1, 2, 3)]
    return [
        AtomsRow(json.loads(text, object_hook=object_hook) | {"id": 1}).toatoms() for text in texts
    ]


def test_a_trajectory_keeps_its_calculator_and_stays_unlabeled_without(tmp_path):
    labeled, bare = bulk("Cu"), bulk("Cu")
    labeled.calc = SinglePointCalculator(labeled, energy=-1.0)
    labeled.info["energy"] = bare.info["energy"] = -3.0
    write(tmp_path / "x.traj", [labeled, bare])
    for ending in ENDINGS:
        convert(tmp_path / "x.traj", tmp_path / f"x.{ending}")
        first, second = open_dataset(tmp_path / f"x.{ending}")
        assert first.get_potential_energy() == -1.0
        assert second.calc is None
        assert first.info["energy"] == second.info["energy"] == -3.0
