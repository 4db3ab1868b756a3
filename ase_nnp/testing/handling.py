"""Files, copies, precision, devices, and input that must be refused."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError, UnsupportedElementError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.registry.correction import Correction
from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.subject import Subject, check, compare

__all__: list[str] = []


@check(1e-12)
def check_save_and_load(subject: Subject) -> float:
    """A saved model comes back with the same answers."""
    from ase_nnp.models.files import load_model, save_model

    # A correction is saved in the header of the model that it is added to, never alone.
    if isinstance(subject.family, Correction):
        before = subject.predict(subject.crystal())[0]
        stored = Subject(subject.family, _stored(subject)).predict(subject.crystal())[0]
        # What a term gives beside the energy is not the model's.
        return compare(stored, {name: before[name] for name in stored})
    subject.value(subject.crystal())
    trained = Subject(subject.family, _as_after_training(subject))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.nnp"
        save_model(trained.model, path)
        again = Subject(subject.family, load_model(path, device="cpu", dtype="float64"))

    # Another structure first: what a model keeps of the first that it meets is in no file.
    structures = (subject.finite(), subject.crystal())
    return max(compare(again.predict(a)[0], trained.predict(a)[0]) for a in structures)


def _as_after_training(subject: Subject) -> Potential:
    """Return a copy with units that no fresh model has, where the family has such units."""
    model = copy.deepcopy(subject.model)
    references = {z: 1.5 + 0.25 * k for k, z in enumerate(sorted(set(subject.numbers)))}
    # Families without references or scales say so by refusing.
    with contextlib.suppress(ConfigError):
        model.set_scales(references, energy=1.75, forces=1.25)
    return model


def _stored(subject: Subject) -> Potential:
    """Return a correction as it comes out of the header of the model that it was saved with."""
    from ase_nnp.models.corrections import with_stored_corrections

    term = subject.model
    functional = term.config.get("functional")
    name = term.family if functional is None else f"{term.family}:{functional}"

    # Through JSON, as a file would keep it: tuples come back as lists.
    entry = json.loads(json.dumps({"name": name, "config": dict(term.config)}))
    return with_stored_corrections(_Nothing().to(torch.float64), [entry])


class _Nothing(Conservative):
    """A model without an energy, to which a correction is added."""

    outputs = ("energy", "energies", "forces", "stress")

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return zeros, eV."""
        # Of the positions, so that the gradient exists and is zero.
        shares = 0.0 * graph.positions.sum(dim=1)
        total = shares.new_zeros(graph.num_structures).index_add(0, graph.batch, shares)
        return {"energy": total, "energies": shares}


@check(1e-12)
def check_pickling_and_copying(subject: Subject) -> float:
    """Pickled and deep-copied models, also used ones, give the same answers on their own."""
    before = subject.predict(subject.crystal())[0]
    twins = (pickle.loads(pickle.dumps(subject.model)), copy.deepcopy(subject.model))
    figures: list[float] = [
        compare(Subject(subject.family, twin).predict(subject.crystal())[0], before)
        for twin in twins
    ]

    # A copy that is trained further must leave the original as it was.
    with torch.no_grad():
        for tensor in (t for twin in twins for t in twin.parameters()):
            tensor.add_(0.125)
    return max(*figures, compare(subject.predict(subject.crystal())[0], before))


@check(2e-3)
def check_dtype_and_device_moves(subject: Subject) -> float:
    """Single precision agrees with double; so does the GPU where there is one."""
    before = subject.predict(subject.crystal())[0]
    twin = Subject(subject.family, copy.deepcopy(subject.model).to(torch.float32))
    figures: list[float] = [compare(twin.predict(subject.crystal())[0], before)]
    if torch.cuda.is_available():
        moved = Subject(subject.family, copy.deepcopy(subject.model).to("cuda"))

        # In float64 a GPU agrees a thousand times better than single precision does.
        figures.append(compare(moved.predict(subject.crystal())[0], before) * 1e3)
    return max(figures)


@check(0.0)
def check_unsupported_elements_are_refused(subject: Subject) -> float:
    """An element outside the model's list raises, naming it."""
    if subject.model.elements is None:
        raise NotApplicable("the model takes any element")

    # Up to 119, so that there is one also for a model of all elements.
    strange = next(z for z in range(1, 120) if z not in subject.model.elements)
    atoms = subject.crystal()
    atoms.numbers[2] = strange
    try:
        subject.predict(atoms)
    except UnsupportedElementError:
        return 0.0
    raise AssertionError(f"element {strange} was answered for")


@check(0.0)
def check_positions_that_are_not_finite_are_refused(subject: Subject) -> float:
    """NaN in, error out; and the next call works."""
    atoms = subject.crystal()
    before = subject.predict(atoms)[0]
    bad = atoms.copy()
    bad.positions[1, 1] = np.nan
    try:
        subject.predict(bad)
    except StructureError:
        return compare(subject.predict(atoms)[0], before)
    raise AssertionError("positions with NaN were answered")
