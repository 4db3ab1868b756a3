"""Faults that leave energies and forces of a fresh model right: each is noticed by its check."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch

import ase_nnp
from ase_nnp import ModelFamily, Potential
from ase_nnp.models.atomic_energies import AtomicEnergies
from ase_nnp.registry.installed import installed
from ase_nnp.testing import CHECKS, make_subject, run_check
from ase_nnp.testing.checks import Subject


class Pairs(AtomicEnergies):
    """A learned pair potential with energies of atoms."""

    def __init__(self, cutoff=4.0):
        super().__init__(range(1, 101))
        self.cutoff = cutoff
        self.weights = torch.nn.Embedding(101, 4)

    def envelope(self, r):
        return (1 - (r / self.cutoff) ** 2) ** 3

    def atom_energies(self, graph):
        source, target = graph.edge_index
        r = graph.edge_vectors().norm(dim=1)
        z = self.weights(graph.atomic_numbers)
        pair = (z[source] * z[target]).sum(1) * torch.exp(-r) * self.envelope(r)
        return torch.zeros_like(graph.positions[:, 0]).index_add(0, target, pair)


class Direct(Potential):
    """Forces and stress along the bonds, written by hand and those of the energy."""

    outputs = ("energy", "forces", "stress")

    def __init__(self, cutoff=4.0):
        super().__init__()
        self.cutoff = cutoff
        self.strength = torch.nn.Parameter(torch.ones(()))

    def turn(self, stress):
        return stress

    def forward(self, graph):
        vectors, target = graph.edge_vectors(), graph.edge_index[1]
        x = 1 - vectors.square().sum(1, keepdim=True) / self.cutoff**2
        pull = -6 / self.cutoff**2 * self.strength * x**2 * vectors  # of 1/2 x^3 for each edge
        center = graph.batch[target]
        energy = x.new_zeros(graph.num_structures)
        energy = energy.index_add(0, center, 0.5 * self.strength * x[:, 0] ** 3)
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        virial = torch.zeros_like(graph.cell)
        virial = virial.index_add(0, center, 0.5 * pull[:, :, None] * vectors[:, None])
        forces = torch.zeros_like(graph.positions).index_add(0, target, pull)
        return {"energy": energy, "forces": forces, "stress": self.turn(virial / volume)}


def moved_in_place(self, graph):
    shares = Pairs.atom_energies(self, graph)
    graph.positions.data.mul_(1.01)
    return shares


def seeded(self, graph):
    torch.manual_seed(0)
    return Pairs.atom_energies(self, graph)


def frozen_weights(self, graph):
    twin = copy.deepcopy(self).requires_grad_(False)
    return Pairs.atom_energies(twin, graph)


def detached(self, graph, properties):
    results = Pairs.compute(self, graph, properties)
    return {k: v.detach() if k == "forces" else v for k, v in results.items()}


def other_energy_alone(self, graph, properties):
    results = Pairs.compute(self, graph, properties)
    return results if "forces" in properties else {**results, "energy": results["energy"] + 0.5}


def faster_and_different(self, graph):
    return {k: 1.001 * v for k, v in self.energies(graph).items()}


def ten_electronvolts_lower(self, graph):
    return Pairs.atom_energies(self, graph) - 10.0


def pushed_throughout(self, graph):
    push = torch.zeros_like(graph.positions)
    push = push.index_add(0, graph.edge_index[1], 0.1 * graph.edge_vectors())
    results = Direct.forward(self, graph)
    return {**results, "forces": results["forces"] + push}


def signed_volume(self, graph, properties):
    results = dict(Pairs.compute(self, graph, properties))
    if "stress" in results:
        results["stress"] = results["stress"] * torch.linalg.det(graph.cell).sign()[:, None, None]
    return results


def two_charges_an_atom(self, graph):
    charges = torch.zeros_like(graph.positions[:, :2])
    return {**AtomicEnergies.energies(self, graph), "charges": charges}


def only_crystals_and_slabs(self, graph):
    axes = graph.pbc[graph.batch[graph.edge_index[1]]].sum(1, keepdim=True)
    shift = torch.where(axes == 1, 0, graph.edge_shift)
    return Pairs.atom_energies(self, graph.replace(edge_shift=shift))


def reads_tags(self, graph):
    return (1 + graph.tags) * Pairs.atom_energies(self, graph)


def handed(self, graph):
    vectors, (source, target) = graph.edge_vectors(), graph.edge_index
    r = vectors.norm(dim=1, keepdim=True)
    weights = [self.envelope(r), self.envelope(r) ** 2, r * self.envelope(r)]
    weights[1] = weights[1] * graph.atomic_numbers[source, None]
    a, b, c = (torch.zeros_like(graph.positions).index_add(0, target, w * vectors) for w in weights)
    return Pairs.atom_energies(self, graph) + 1e-3 * (a * torch.linalg.cross(b, c)).sum(dim=1)


def dipole_along_x(self, graph):
    ones = torch.ones_like(graph.positions[:, 0])
    x = ones.new_zeros(graph.num_structures).index_add(0, graph.batch, ones)
    dipole = torch.stack([x, 0 * x, 0 * x], dim=1)
    return {**AtomicEnergies.energies(self, graph), "dipole": dipole}


def with_charges_of_zero(self, graph):
    charges = torch.zeros_like(graph.positions[:, 0])
    return {**AtomicEnergies.energies(self, graph), "charges": charges}


def another_way_for_many_atoms(self, graph):
    scale = 1 + 1e-6 * (graph.atoms_per_structure().max() > 64)
    return scale * Pairs.atom_energies(self, graph)


def another_way_for_many_structures(self, graph):
    return (1 + 1e-6 * (graph.num_structures > 64)) * Pairs.atom_energies(self, graph)


def decay(self, r):
    return torch.exp(-r * torch.tensor(0.7)) * Pairs.envelope(self, r)


def with_a_rate(self, cutoff=4.0):
    Pairs.__init__(self, cutoff)
    self.register_buffer("rate", torch.tensor(0.7))


def in_training(self, r):
    return (1 + 1e-6 * self.training) * Pairs.envelope(self, r)


def of_84_elements(self, cutoff=4.0):
    Pairs.__init__(self, cutoff)
    self.elements = None
    self.weights = torch.nn.Embedding(84, 4)


def itself(self, memo):
    return self


def scaled_by_the_first(self, r):
    if not hasattr(self, "first"):
        self.first = r.mean().detach()
    return self.first * Pairs.envelope(self, r)


def scale_of_no_file(self, *arguments, **scales):
    AtomicEnergies.set_scales(self, *arguments, **{**scales, "energy": 1.0})
    self.factor = scales["energy"]


def with_factor(self, graph):
    return getattr(self, "factor", 1.0) * Pairs.atom_energies(self, graph)


FAULTS = {
    "graph changed in place": (Pairs, {"atom_energies": moved_in_place}, "calls_leave_no_trace"),
    "global seed": (Pairs, {"atom_energies": seeded}, "calls_leave_no_trace"),
    "weights learn nothing": (Pairs, {"atom_energies": frozen_weights},
                              "gradients_reach_the_weights"),
    "forces detached": (Pairs, {"compute": detached}, "gradients_reach_the_weights"),
    "another energy alone": (Pairs, {"compute": other_energy_alone}, "requests_agree"),
    "a fast way of its own": (Pairs, {"energies_once": faster_and_different}, "requests_agree"),
    "signed volume": (Pairs, {"compute": signed_volume}, "supercell_equals_primitive"),
    "charges (N, 2)": (Pairs, {"outputs": (*Pairs.outputs, "charges"),
                               "energies": two_charges_an_atom}, "outputs_are_what_was_declared"),
    "a wire taken for a molecule": (Pairs, {"atom_energies": only_crystals_and_slabs},
                                    "mixed_pbc"),
    "tags that are not declared": (Pairs, {"atom_energies": reads_tags},
                                   "reads_only_what_it_declares"),
    "a hand of its own": (Pairs, {"atom_energies": handed},
                          "energy_is_that_of_the_mirror_image"),
    "a dipole that does not turn": (Pairs, {"outputs": (*Pairs.outputs, "dipole"),
                                            "energies": dipole_along_x},
                                    "forces_rotate_with_the_atoms"),
    "a copy that is no copy": (Pairs, {"__deepcopy__": itself}, "pickling_and_copying"),
    "state of the first structure": (Pairs, {"envelope": scaled_by_the_first}, "save_and_load"),
    "a scale that is not saved": (Pairs, {"set_scales": scale_of_no_file,
                                          "atom_energies": with_factor}, "save_and_load"),
    "elements without a row": (Pairs, {"elements": property(
        lambda self: frozenset(range(1, 110)), lambda self, value: None)},
                               "declared_elements_are_answered"),
    "force jumps at the cutoff": (Pairs, {"envelope": lambda self, r: 1 - r / self.cutoff,
                                          "atom_energies": ten_electronvolts_lower},
                                  "forces_end_at_the_cutoff"),
    "direct force jumps": (Direct, {"forward": pushed_throughout}, "forces_end_at_the_cutoff"),
    "charges that are always zero": (Pairs, {"outputs": (*Pairs.outputs, "charges"),
                                             "energies": with_charges_of_zero},
                                     "results_depend_on_the_atoms"),
    "no energy": (Pairs, {"envelope": lambda self, r: 0 * r}, "results_depend_on_the_atoms"),
    "another way for many atoms": (Pairs, {"atom_energies": another_way_for_many_atoms},
                                   "supercell_equals_primitive"),
    "another way for many structures": (Pairs, {"atom_energies": another_way_for_many_structures},
                                        "batching_changes_nothing"),
    "stress of the wrong sign": (Direct, {"turn": lambda self, s: -s},
                                 "stress_is_the_strain_derivative"),
    "stress twice as large": (Direct, {"turn": lambda self, s: 2 * s},
                              "stress_is_the_strain_derivative"),
    "a constant in single precision": (Pairs, {"envelope": decay}, "double_precision_is_double"),
    "a buffer in single precision": (Pairs, {"__init__": with_a_rate},
                                     "double_precision_is_double"),
    "no training mode": (Pairs, {"train": lambda self, mode=True: self},
                         "training_mode_comes_and_goes"),
    "no evaluation mode": (Pairs, {"eval": lambda self: self}, "training_mode_comes_and_goes"),
    "frozen for good": (Pairs, {"train": torch.nn.Module.train}, "training_mode_comes_and_goes"),
    "another answer in training": (Pairs, {"envelope": in_training},
                                   "training_mode_comes_and_goes"),
    "no declared elements, 83 rows": (Pairs, {"__init__": of_84_elements},
                                      "declared_elements_are_answered"),
    "stress that does not turn": (Direct, {"turn": lambda self, s: s.roll((1, 1), (1, 2))},
                                  "stress_rotates_with_the_crystal"),
}  # fmt: skip


def subject_of(kind, changes, monkeypatch) -> Subject:
    made = type("Broken", (kind,), changes)
    # Where pickle looks for it: tests are no importable modules here.
    module = types.ModuleType("broken_models")
    module.Broken, made.__module__ = made, module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    family = ModelFamily(
        name="broken", summary="", build=lambda config: made(**config), defaults={"cutoff": 4.0}
    )
    monkeypatch.setitem(installed().families, "broken", family)
    return make_subject("broken")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_fresh_energies_do_not_show_is_noticed(fault, monkeypatch):
    kind, changes, name = FAULTS[fault]
    check = next(check for check in CHECKS if check.name == name)
    sound = run_check(check, subject_of(kind, {}, monkeypatch))
    assert sound.status == "passed", sound.message
    outcome = run_check(check, subject_of(kind, changes, monkeypatch))
    assert not outcome.ok


def test_a_family_that_takes_keys_out_of_its_configuration_is_saved_with_them(
    tmp_path, monkeypatch
):
    family = ModelFamily(
        name="broken",
        summary="",
        build=lambda config: Pairs(config.pop("cutoff")),
        defaults={"cutoff": 4.0},
    )
    monkeypatch.setitem(installed().families, "broken", family)
    model = ase_nnp.build_model("broken", {"cutoff": 3.0}, seed=0, device="cpu")
    assert model.config == {"cutoff": 3.0}
    ase_nnp.save_model(model, tmp_path / "m.nnp")
    assert ase_nnp.load_model(tmp_path / "m.nnp", device="cpu").cutoff == 3.0


def test_a_violation_names_the_result_that_shows_it(monkeypatch):
    changes = {"compute": other_energy_alone}
    check = next(check for check in CHECKS if check.name == "requests_agree")
    outcome = run_check(check, subject_of(Pairs, changes, monkeypatch))
    assert "of 'energy'" in outcome.message
