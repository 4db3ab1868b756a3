"""predict: batches, order, units and honesty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from ase_nnp import Potential, build_model, predict
from ase_nnp.errors import ConfigError, PredictionError, StructureError
from ase_nnp.inference import Predictor


@pytest.fixture
def lj():
    return build_model("lj", dtype="float64", device="cpu")


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    slab = fcc111("Cu", (2, 2, 2), vacuum=4)
    found = [bulk("Cu", cubic=True), Atoms("He"), molecule("C2H6"), slab]
    for atoms in found * 3:
        atoms.rattle(0.05, rng=rng)
    return [a.copy() for a in found * 3]


@pytest.mark.parametrize("budget", [1, 500, 10**6])
def test_batches_of_any_size_give_what_one_by_one_gives(lj, many, budget):
    together = predict(lj, many, ("energy", "forces", "stress"), max_edges=budget)
    for atoms, found in zip(many, together, strict=True):
        alone = predict(lj, [atoms], ("energy", "forces", "stress"))[0]
        assert found.keys() == alone.keys()
        assert ("stress" in found) == (atoms.cell.rank == 3)
        for name in found:
            assert np.allclose(found[name], alone[name], rtol=1e-12, atol=1e-12)


def test_the_budget_decides_the_number_of_batches(lj, many):
    small, large = Predictor(lj, max_edges=1), Predictor(lj, max_edges=10**9)
    small(many)
    large(many)
    assert (small.calls, large.calls) == (len(many), 1)


def test_no_structures_give_no_results(lj):
    assert predict(lj, []) == []


def test_results_are_floats_and_double_arrays():
    found = predict(build_model("lj", device="cpu"), [bulk("Cu")])[0]
    assert type(found["energy"]) is float
    assert found["forces"].dtype == np.float64
    assert set(found) == {"energy", "forces"}


def test_a_property_the_model_lacks_is_refused(lj):
    with pytest.raises(ConfigError, match=r"does not give magmoms.*energy, forces, stress"):
        predict(lj, [bulk("Cu")], ("energy", "magmoms"))


def test_the_bad_structure_is_named(lj, many):
    many[5].positions[0] = np.nan
    with pytest.raises(StructureError, match="Structure 5"):
        predict(lj, many)


def test_what_is_no_structure_is_refused(lj):
    with pytest.raises(StructureError, match="str"):
        predict(lj, ["Cu"])


def test_a_pymatgen_structure_goes_in(lj):
    from pymatgen.core import Lattice, Structure

    crystal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]])
    assert predict(lj, [crystal])[0]["energy"] == pytest.approx(
        predict(lj, [bulk("Cu", cubic=True, a=3.61)])[0]["energy"]
    )


class Wrong(Potential):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, graph):
        return self.answer(graph)


WRONG = {
    "not finite": lambda g: {
        "energy": torch.full((g.num_structures,), torch.nan),
        "forces": torch.zeros(g.num_atoms, 3),
    },
    "shape": lambda g: {"energy": torch.zeros(()), "forces": torch.zeros(g.num_atoms, 3)},
    "did not return": lambda g: {"energy": torch.zeros(g.num_structures)},
}


@pytest.mark.parametrize("said", WRONG)
def test_an_answer_that_is_none_is_an_error(said):
    with pytest.raises(PredictionError, match=said):
        predict(Wrong(WRONG[said]), [bulk("Cu"), bulk("Ni")])


def test_lower_precision_ends_with_the_call(lj):
    before = torch.get_float32_matmul_precision()
    predict(lj, [bulk("Cu")], precision="tf32")
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ConfigError, match="precision"):
        predict(lj, [bulk("Cu")], precision="fp8")
