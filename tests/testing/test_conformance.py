"""Physics that every registered family owes, and proof that the suite would notice."""

from __future__ import annotations

import pytest

from ase_nnp.registry.installed import installed, missing_packages
from ase_nnp.testing import CHECKS, make_subject, run_check, run_checks

SUBJECTS = {}
#: What the fast tests look at: the default model's family, a formula, its repulsion, and the quick
#: ones; all others take seconds each.
FAST = {"cgcnn", "crystalformer", "descriptor_mlp", "facet", "lj", "mpnn", "zbl"}


def cases(names):
    """Every check of every name; the device check runs a model operation by operation."""
    return [
        pytest.param(
            name,
            check,
            id=f"{name}-{check.name}",
            marks=pytest.mark.slow if name not in FAST or check.name == "runs_on_a_device" else (),
        )
        for name in sorted(names)
        for check in CHECKS
    ]


@pytest.mark.parametrize(("name", "check"), cases({*installed().families, "lj"}))
def test_every_family_keeps_what_it_promises(name, check):
    missing = missing_packages(installed().families[name])
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")
    if name not in SUBJECTS:
        SUBJECTS[name] = make_subject(name)
    outcome = run_check(check, SUBJECTS[name])
    assert outcome.ok, f"{name}: {outcome.message}"
    if outcome.status == "declared":
        assert SUBJECTS[name].family.notes, f"{name} declares a violation and does not say why"


@pytest.mark.parametrize(("name", "check"), cases(installed().corrections))
def test_every_correction_keeps_what_it_promises(name, check):
    correction = installed().corrections[name]
    if missing := missing_packages(correction):
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")
    key = f"correction {name}"
    if key not in SUBJECTS:
        SUBJECTS[key] = make_subject(correction)
    outcome = run_check(check, SUBJECTS[key])
    assert outcome.ok, f"{name}: {outcome.message}"
    if outcome.status == "declared":
        assert correction.notes, f"{name} declares a violation and does not say why"


def broken_lj(change):
    """A Lennard-Jones subject whose model was broken by hand."""
    subject = make_subject("lj")
    model = subject.model
    model.__class__ = type("Broken", (type(model),), change)
    return subject


def without_shifts(self, graph):
    import torch

    return (
        type(self)
        .__mro__[1]
        .energies(self, graph.replace(edge_shift=torch.zeros_like(graph.edge_shift)))
    )


def summed_over_the_batch(self, graph):
    energy = type(self).__mro__[1].energies(self, graph)
    return energy.sum().expand_as(energy)


def doubled_stress(self, graph, properties):
    results = type(self).__mro__[1].compute(self, graph, properties)
    return {k: 2 * v if k == "stress" else v for k, v in results.items()}


def wrong_sign(self, graph, properties):
    results = type(self).__mro__[1].compute(self, graph, properties)
    return {k: -v if k == "forces" else v for k, v in results.items()}


def squeezed(self, graph, properties):
    results = type(self).__mro__[1].compute(self, graph, properties)
    return {k: v.squeeze(0) if k == "forces" else v for k, v in results.items()}


def direction_matters(self, graph):
    vectors = graph.edge_vectors()
    energy = type(self).__mro__[1].energies(self, graph)
    tilt = (vectors[:, 0] ** 2).new_zeros(graph.num_structures)
    return energy + 1e-3 * tilt.index_add(0, graph.batch[graph.edge_index[1]], vectors[:, 0] ** 2)


def order_matters(self, graph):
    import torch

    energy = type(self).__mro__[1].energies(self, graph)
    rank = torch.arange(graph.num_atoms, dtype=energy.dtype) * graph.atomic_numbers * 1e-5
    return energy + torch.zeros_like(energy).index_add(0, graph.batch, rank)


def cut_off_hard(self, graph):
    r = graph.edge_vectors().norm(dim=-1)
    pair = -0.1 / r**2
    return pair.new_zeros(graph.num_structures).index_add(0, graph.batch[graph.edge_index[1]], pair)


def per_structure_mean(self, graph):
    return type(self).__mro__[1].energies(self, graph) / graph.atoms_per_structure()


def absolute_positions(self, graph):
    energy = type(self).__mro__[1].energies(self, graph)
    return energy + 1e-4 * energy.new_zeros(graph.num_structures).index_add(
        0, graph.batch, graph.positions[:, 2]
    )


MUTANTS = {
    "edge_shift dropped": ({"energies": without_shifts}, "energy_is_invariant_under_translation"),
    "summed over the batch": ({"energies": summed_over_the_batch}, "batching_changes_nothing"),
    "stress doubled": ({"compute": doubled_stress}, "stress_is_the_strain_derivative"),
    "forces with the wrong sign": ({"compute": wrong_sign}, "forces_are_minus_the_gradient"),
    "forces squeezed": ({"compute": squeezed}, "isolated_atom"),
    "x is special": ({"energies": direction_matters}, "energy_is_invariant_under_rotation"),
    "order matters": ({"energies": order_matters}, "energy_is_invariant_under_permutation"),
    "no envelope": ({"energies": cut_off_hard}, "cutoff_is_smooth"),
    "mean instead of sum": ({"energies": per_structure_mean}, "energy_is_extensive"),
    "where it stands matters": (
        {"energies": absolute_positions},
        "energy_is_invariant_under_translation",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_suite_notices_a_model_broken_by_hand(mutant):
    change, expected = MUTANTS[mutant]
    failed = [o.check for o in run_checks(broken_lj(change)) if not o.ok]
    assert expected in failed, f"only {failed}"
