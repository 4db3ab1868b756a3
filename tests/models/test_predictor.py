"""predict: batches, order, units and honesty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from ase_nnp import Potential, build_model, predict
from ase_nnp.errors import ConfigError, PredictionError, StructureError
from ase_nnp.models.batch_size import LoopOrBatch, MemoryLimit
from ase_nnp.models.precision import precision_error
from ase_nnp.models.predictor import Predictor


@pytest.fixture
def lj():
    return build_model("lj", dtype="float64", device="cpu")


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    slab = fcc111("Cu", (2, 2, 2), vacuum=4)
    structures = [bulk("Cu", cubic=True), Atoms("He"), molecule("C2H6"), slab]
    for atoms in structures * 3:
        atoms.rattle(0.05, rng=rng)
    return [a.copy() for a in structures * 3]


@pytest.mark.parametrize("budget", [1, 500, 10**6])
def test_batches_of_any_size_give_what_one_by_one_gives(lj, many, budget):
    together = predict(lj, many, ("energy", "forces", "stress"), max_edges=budget)
    for atoms, results in zip(many, together, strict=True):
        alone = predict(lj, [atoms], ("energy", "forces", "stress"))[0]
        assert results.keys() == alone.keys()
        assert ("stress" in results) == (atoms.cell.rank == 3)
        for name in results:
            assert np.allclose(results[name], alone[name], rtol=1e-12, atol=1e-12)


def test_the_budget_decides_the_number_of_batches(lj, many):
    small, large = Predictor(lj, max_edges=1), Predictor(lj, max_edges=10**9)
    small(many)
    large(many)
    assert (small.calls, large.calls) == (len(many), 1)


def test_no_structures_give_no_results(lj):
    assert predict(lj, []) == []


def test_results_are_floats_and_double_arrays():
    results = predict(build_model("lj", device="cpu"), [bulk("Cu")])[0]
    assert type(results["energy"]) is float
    assert results["forces"].dtype == np.float64
    assert set(results) == {"energy", "forces"}


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


class Device:
    """Memory of a made-up device: a load (edges + atoms) takes so many bytes while it is computed.

    Stands in for a GPU: what the device path does is tested here, that CUDA counts as it says is
    not.
    """

    def __init__(self, capacity, bytes_per_load=100, silent=False):
        self.capacity, self.bytes_per_load, self.silent = capacity, bytes_per_load, silent
        self.peak = self.released = 0

    def free(self):
        return self.capacity

    def start(self):
        self.peak = 0

    def used(self):
        return 0 if self.silent else self.peak

    def release(self):
        self.released += 1


class OnDevice(Potential):
    """Lennard-Jones energies on a made-up device that can run out of memory."""

    outputs = ("energy", "forces")

    def __init__(self, lj, device, error=torch.OutOfMemoryError):
        super().__init__()
        self.lj, self.made_up, self.error = lj, device, error
        self.cutoff, self.loads, self.failures = lj.cutoff, [], 0
        self.to(lj.dtype)

    def forward(self, graph):
        load = graph.num_edges + graph.num_atoms
        need = load * self.made_up.bytes_per_load
        if need > self.made_up.capacity:
            self.failures += 1
            raise self.error("CUDA out of memory: failed to allocate")
        self.made_up.peak = max(self.made_up.peak, need)
        self.loads.append(load)
        return self.lj.compute(graph, ("energy", "forces"))


def mixed(count):
    """Cells of 1 to 108 atoms and molecules, in no order of size."""
    rng = np.random.default_rng(3)
    structures = []
    for k in range(count):
        size = int(rng.integers(1, 4))
        atoms = molecule("C2H6") if k % 5 == 0 else bulk("Cu", cubic=True) * (size, size, size)
        atoms.rattle(0.03, rng=rng)
        structures.append(atoms)
    return structures


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_batches_grow_to_what_a_device_holds_and_results_stay_right(lj, silent):
    structures = mixed(120)
    device = Device(capacity=9_000_000, silent=silent)
    model = OnDevice(lj, device)
    results = Predictor(model, memory=device)(structures)
    for one, two in zip(results, predict(lj, structures, ("energy", "forces")), strict=True):
        assert one["energy"] == pytest.approx(two["energy"], abs=1e-10)
        assert np.allclose(one["forces"], two["forces"], atol=1e-10)
    assert max(model.loads) > 3 * model.loads[0]
    if silent:  # nothing is told beforehand: a failure halves the batches
        assert 1 <= model.failures == device.released <= 6
    else:
        assert model.failures == 0
        assert max(model.loads) > 0.6 * 90_000


def test_another_set_begins_with_what_was_learned(lj):
    device = Device(capacity=9_000_000)
    model = OnDevice(lj, device)
    predictor = Predictor(model, memory=device)
    predictor(mixed(80))
    first = len(model.loads)
    predictor(mixed(80))
    assert len(model.loads) - first < first


def test_a_failure_below_torch_counts_as_memory_only_where_memory_is_short(lj):
    device = Device(capacity=4_000_000)
    model = OnDevice(lj, device, error=RuntimeError)
    predictor = Predictor(model, memory=device)
    predictor(mixed(30))
    assert model.failures == 0
    device.capacity = 2_000_000  # somebody else took the rest; the limit is read before a batch
    limit = predictor._limit
    shortage = RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
    assert limit.is_shortage(shortage, 15_000)
    assert not limit.is_shortage(shortage, 1_000)
    assert not limit.is_shortage(RuntimeError("an illegal memory access"), 1_000)
    assert not limit.is_shortage(RuntimeError("shapes do not match"), 15_000)
    assert not limit.is_shortage(PredictionError("out of memory"), 15_000)


def test_an_error_of_the_model_is_not_taken_for_lack_of_memory(lj):
    device = Device(capacity=0)
    with pytest.raises(ZeroDivisionError):
        Predictor(OnDevice(lj, device, error=ZeroDivisionError), memory=device)(mixed(3))


def test_a_structure_that_never_fits_is_named(lj):
    structures = [bulk("Cu"), bulk("Cu", cubic=True) * (4, 4, 4), bulk("Cu")]
    device = Device(capacity=1_000_000)
    with pytest.raises(PredictionError, match=r"Structure 1 \(Cu256, 256 atoms\) does not fit"):
        Predictor(OnDevice(lj, device), memory=device)(structures)


def test_a_calculator_says_that_a_structure_does_not_fit(lj):
    from ase.calculators.calculator import CalculationFailed

    from ase_nnp import NNPCalculator

    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.calc = NNPCalculator(OnDevice(lj, Device(capacity=1_000)))
    with pytest.raises(CalculationFailed, match=r"Cu108, 108 atoms\) does not fit"):
        atoms.get_potential_energy()


def test_a_bad_structure_is_named_on_a_device_too(lj):
    structures = mixed(20)
    structures[13].positions[0] = np.nan
    device = Device(capacity=10**9)
    with pytest.raises(StructureError, match="Structure 13"):
        Predictor(OnDevice(lj, device), memory=device)(structures)


def test_the_limit_follows_the_largest_batches_not_the_overhead_of_the_first():
    limit = MemoryLimit(Device(capacity=1_000_000_000))
    limit.went_well(20_000, 20_000 * 100 + 50_000_000)  # a call takes 50 MB once
    limit.went_well(80_000, 80_000 * 100 + 50_000_000)
    limit.went_well(320_000, 320_000 * 100 + 50_000_000)
    assert limit.bytes_per_load == pytest.approx(256.25)
    assert limit.load == 4 * 320_000
    limit.did_not_fit(1_000_000)
    assert limit.load == 500_000


class Clock:
    """Time that passes only when told."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Timed(Potential):
    """A model whose calls take a made-up time: so much a call and so much an edge."""

    outputs = ("energy",)
    cutoff = 4.0

    def __init__(self, clock, a_call, an_edge, batch_penalty=1.0):
        super().__init__()
        self.clock, self.a_call, self.an_edge = clock, a_call, an_edge
        self.batch_penalty = batch_penalty

    def forward(self, graph):
        penalty = self.batch_penalty if graph.num_structures > 1 else 1.0
        self.clock.now += self.a_call + self.an_edge * graph.num_edges * penalty
        return {"energy": graph.positions.new_zeros(graph.num_structures)}


@pytest.mark.parametrize(
    ("a_call", "penalty"), [(1.0, 1.0), (0.05, 1.0), (0.0, 1.2), (0.0, 1.67), (0.001, 1.05)]
)
@pytest.mark.parametrize("cell", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_on_a_cpu_the_faster_of_loop_and_batches_is_found(monkeypatch, a_call, penalty, cell):
    from ase_nnp.models import predictor

    clock = Clock()
    monkeypatch.setattr(predictor, "time", clock)
    structures = [bulk("Cu", cubic=True) * (cell, cell, cell)] * 150
    times = {}
    for way, options in {
        "loop": {"max_edges": 1},
        "batch": {"max_edges": 20_000},
        "auto": {},
    }.items():
        clock.now = 0.0
        Predictor(Timed(clock, a_call, 1e-3, penalty), **options)(structures)
        times[way] = clock.now
    best = min(times["loop"], times["batch"])
    ratio = max(times["loop"], times["batch"]) / best
    assert times["auto"] <= best * 1.05 or ratio > 2  # looking at a way that bad costs more
    assert times["auto"] <= best * (1 + 0.06 * (ratio - 1) + 0.01)


def test_few_structures_are_not_worth_a_measurement():
    assert LoopOrBatch().plan(200, 12, 12) == (True, 12)
    assert LoopOrBatch().plan(3500, 16, 16) == (False, 1)


def test_few_structures_go_in_batches_that_fit_a_cache():
    assert LoopOrBatch().plan(800, 16, 16) == (True, 3)


def test_large_batches_are_taken_only_where_they_are_the_faster_ones():
    for large, expected in ((0.5, (True, 400)), (0.9, (True, 15)), (1.5, (True, 15))):
        choice = LoopOrBatch()
        for _ in range(2):
            choice.took([200], 1.0)
        for _ in range(2):
            choice.took([200] * 10, 8.0)  # small batches take 0.8 of a loop's time
        assert choice.plan(200, 500, 400) == (True, 400)  # a large one has not been tried
        for _ in range(2):
            choice.took([200] * 100, 100 * large)
        assert choice.plan(200, 500, 400) == expected


def test_a_batch_is_judged_by_what_its_own_members_take_alone():
    choice = LoopOrBatch()
    for _ in range(2):
        choice.took([100], 1.0)  # small ones take ten times as long for their size
        choice.took([1000], 1.0)
    for _ in range(2):
        choice.took([100, 1000, 1000], 2.9)  # alone: 3
    assert choice.plan(100, 500, 400) == (True, 400)
    for _ in range(2):
        choice.took([1000, 100, 100], 3.1)
    assert choice.plan(1000, 500, 400) == (False, 1)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_and_stays_as_it_was(lj, many):
    compiled = Predictor(lj, compile="eager")  # traced, without the time of a compiler
    for one, two in zip(compiled(many), predict(lj, many), strict=True):
        assert one["energy"] == pytest.approx(two["energy"], abs=1e-12)
        assert np.allclose(one["forces"], two["forces"], atol=1e-12)
    assert "energies" not in vars(lj)


def test_the_error_of_lower_precision_is_measured(many):
    model = build_model(
        "cgcnn_oc20",
        {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8},
        seed=0,
        device="cpu",
    )
    deviations = precision_error(model, many, "bf16")
    assert set(deviations) == {"energy_per_atom", "forces"}
    for name, error in deviations.items():
        assert 0 < error["rms"] <= error["max"], name
        assert error["rms"] < 0.1 * error["spread"] + 1e-3, name
    with pytest.raises(ConfigError, match="no structures"):
        precision_error(model, [], "bf16")
