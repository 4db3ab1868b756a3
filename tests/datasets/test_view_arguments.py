"""Arguments of splits, selections and sums as a notebook has them: numbers of numpy, or wrong."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from ase_nnp.errors import DatasetError


def test_fractions_and_conditions_may_be_numbers_of_numpy(dataset, structures):
    fraction = np.float32(0.5)
    sizes = [len(part) for part in dataset.split(fraction)]
    assert sizes == [len(part) for part in dataset.split([fraction, fraction])] == [5, 5]

    natoms = dataset.natoms[0]
    assert len(dataset.select(natoms=natoms)) == sum(len(a) == natoms for a in structures)
    energy = np.float64(dataset.metadata.energy[3])
    assert energy in dataset.select(energy=energy).metadata.energy
    assert len(dataset.select(fid=dataset.metadata.fid[0])) > 0


def test_what_no_division_can_mean_is_refused(dataset):
    for seed in (-1, "a"):
        with pytest.raises(DatasetError, match=f"seed {seed!r}"):
            dataset.split(0.5, seed=seed)
    for tag in (-1, 8, 300):
        with pytest.raises(DatasetError, match=f"tag {tag}; the metadata know 0 to 7"):
            dataset.select(tags=tag)
    with pytest.raises(TypeError, match="unsupported operand"):
        operator.add(dataset, [dataset[0]])
