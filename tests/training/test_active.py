"""Active learning: trajectories end where the model is unsure, and the oracle is asked there."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.training import Settings, fit
from ase_nnp.workflows.active_learning import Explorer, active_learning, label


def ensemble(*members):
    from ase_nnp.uncertainty import wrap

    return wrap("ensemble", list(members), mode="sequential")


def test_a_trajectory_ends_at_the_first_structure_above_the_threshold(frames, pairs):
    model = ensemble(pairs(0), pairs(1))
    starts = frames(3, rattle=0.02)
    explorer = Explorer(kind="md", steps=20, threshold=1e9)
    chosen, visited = explorer(model, starts)
    assert chosen == []
    assert len(visited) == 3 * 21

    def spread(atoms):
        row = ase_nnp.predict(model, [atoms], ("forces_std",), progress=False)[0]
        return np.linalg.norm(row["forces_std"], axis=1).max()

    levels = [spread(a) for a in visited[:21]]
    # In the widest gap of the middle half: on a level itself, the last bit would decide.
    ordered = np.sort(levels)[5:16]
    widest = int(np.diff(ordered).argmax())
    threshold = float(ordered[widest : widest + 2].mean())
    chosen, _ = Explorer(kind="md", steps=20, threshold=threshold)(model, starts[:1])
    first = next(k for k, level in enumerate(levels) if level > threshold)
    np.testing.assert_allclose(chosen[0].positions, visited[first].positions, atol=1e-5)


def test_labels_are_those_of_the_oracle_whatever_is_fixed(frames):
    from ase.constraints import FixAtoms

    some = frames(2)
    some[0].set_constraint(FixAtoms([0]))
    done = label(some, EMT)
    for atoms, given in zip(frames(2), done, strict=True):
        np.testing.assert_allclose(given.calc.results["forces"], atoms.calc.results["forces"])
        assert given.calc.results["energy"] == pytest.approx(atoms.calc.results["energy"])


def test_a_model_without_error_bars_cannot_ask(pairs, frames):
    with pytest.raises(ConfigError, match="error bars"):
        Explorer()(pairs(), frames(1))


def test_without_a_threshold_the_score_of_the_flag_is_watched(pairs, frames):
    from ase_nnp.uncertainty import fit as fit_bars

    model = fit_bars(
        "auto", pairs(0), train=frames(20, rattle=0.02), calibration=frames(12, seed=5)
    )
    explorer = Explorer(kind="md", steps=30, threshold=None, temperature=4000.0)
    assert explorer.watched() == "ood_score"
    chosen, visited = explorer(model, frames(1, rattle=0.02))
    row = ase_nnp.predict(model, chosen, ("ood_score", "ood_flag"), progress=False)[0]
    assert row["ood_flag"]
    assert row["ood_score"] > model.uq["score_threshold"]
    flags = ase_nnp.predict(model, visited[:-1], ("ood_flag",), progress=False)
    assert not any(bool(one["ood_flag"]) for one in flags)


def test_rounds_label_train_and_count_the_calls(frames, pairs, tmp_path):
    settings = Settings(epochs=3, batch={"structures": 4}, progress=False)
    times = []

    def train(known):
        times.append(len(known))
        folders = [tmp_path / f"{len(times)}_{k}" for k in range(2)]
        return ensemble(
            *(fit(pairs(k), known, None, settings, folder=f).model for k, f in enumerate(folders))
        )

    result = active_learning(
        train,
        frames(4),
        frames(3, seed=2),
        EMT,
        Explorer(steps=5, threshold=1e-4, temperature=300.0),
        rounds=2,
        per_round=2,
        measure=lambda model: {"members": float(len(model.members))},
    )
    assert times == [4, 6, 8]
    assert [row["oracle_calls"] for row in result.rounds] == [0, 2, 4]
    assert len(result.labeled) == 8
    assert all(a.calc.results["energy"] is not None for a in result.labeled)


def surrogate_energies(visited):
    energies = []
    for atoms in visited:
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    return energies


def test_with_a_surrogate_the_first_structure_whose_energy_rises_is_chosen(frames, pairs):
    # The surrogate is the oracle itself: what it says of the visited structures is the truth.
    explorer = Explorer(kind="relax", steps=25, surrogate=EMT)
    starts = frames(3, rattle=0.15)
    chosen, visited = explorer(pairs(), starts)
    assert len(chosen) == 3  # an untrained model goes uphill soon

    ends = [k for k, atoms in enumerate(visited) if any(same(atoms, one) for one in chosen)]
    begins = [0, *(k + 1 for k in ends[:-1])]
    for begin, end in zip(begins, ends, strict=True):
        energies = surrogate_energies(visited[begin : end + 1])
        steps = np.diff(energies)
        assert steps[-1] > 0
        assert (steps[:-1] <= 0).all()


def same(one, two):
    return np.array_equal(one.positions, two.positions)


def test_a_model_that_agrees_with_the_surrogate_asks_nothing(frames):
    model = ase_nnp.from_ase(EMT())
    explorer = Explorer(kind="relax", steps=8, surrogate=EMT)
    chosen, visited = explorer(model, frames(2, rattle=0.02))
    assert chosen == []
    assert len(visited) > 2


def test_a_surrogate_does_not_go_with_dynamics():
    with pytest.raises(ConfigError, match="relax"):
        Explorer(kind="md", surrogate=EMT)


def test_walks_to_the_end_need_no_error_bars(pairs, frames):
    explorer = Explorer(kind="relax", steps=4, surrogate=EMT).to_the_end()
    chosen, visited = explorer(pairs(), frames(2, rattle=0.15))
    assert chosen == []
    assert len(visited) == 2 * 5
