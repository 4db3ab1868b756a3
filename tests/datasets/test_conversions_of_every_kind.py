"""Every kind of file that is read converts into every format that is written, unchanged."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from ase_nnp.datasets import convert, open_dataset

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "datasets_fuzz.py"
_SPEC = importlib.util.spec_from_file_location("seeds_of_fuzz", _FILE)
fuzz = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz)


def results(atoms):
    return {} if atoms.calc is None else atoms.calc.results


def assert_equal(ours, theirs):
    assert results(ours).keys() == results(theirs).keys()
    for name, value in results(theirs).items():
        np.testing.assert_allclose(results(ours)[name], value, rtol=1e-14, atol=0, err_msg=name)

    assert (ours.numbers == theirs.numbers).all()
    assert (ours.pbc == theirs.pbc).all()
    assert (ours.get_tags() == theirs.get_tags()).all()
    np.testing.assert_allclose(ours.positions, theirs.positions, rtol=1e-14, atol=0)
    np.testing.assert_allclose(ours.cell[:], theirs.cell[:], rtol=1e-14, atol=0)
    assert {*map(str, theirs.info)} <= {*map(str, ours.info)}
    held = [sorted(c.todict()["name"] for c in atoms.constraints) for atoms in (ours, theirs)]
    assert held[0] == held[1]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["aselmdb", "extxyz", "h5", "lmdb"])
def test_every_kind_of_file_converts_without_a_change(tmp_path, ending):
    (tmp_path / "good").mkdir()
    files = fuzz.seeds(tmp_path / "good")
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, paths in files.items():
            for path in paths if kind != "mapping" else ():
                options = fuzz.OPTIONS.get(kind, {})
                before = list(open_dataset(path, **options))
                target = tmp_path / f"{count}.{ending}"
                convert(open_dataset(path, **options), target)
                after = list(open_dataset(target))
                assert len(after) == len(before) > 0
                for ours, theirs in zip(after, before, strict=True):
                    assert_equal(ours, theirs)
                count += 1
    assert count >= 24
