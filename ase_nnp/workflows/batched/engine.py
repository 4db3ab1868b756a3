"""The loop that all batched runs share: fill, evaluate, record, retire, move.

Structures wait in line, enter while there is room, and leave when they are done or have failed;
the others do not wait for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ase_nnp.errors import AseNnpError, ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.batched.evaluate import Evaluator, Found
from ase_nnp.workflows.batched.frames import pack
from ase_nnp.workflows.batched.outcome import Outcome, as_result, from_result, labelled
from ase_nnp.workflows.batched.state import Array, Batch
from ase_nnp.workflows.batched.store import Store
from ase_nnp.workflows.batched.watch import Watch

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Method", "Progress", "run"]

#: Atoms that drift farther than this (Angstrom) have left any structure that was meant.
FARTHEST = 1e5
#: A cell whose volume changes by more than this factor has collapsed or burst.
VOLUME_FACTOR = 100.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands: numbers of structures, and a line for people."""

    total: int
    finished: int
    running: int
    failed: int
    text: str = ""


class Method:
    """A way to move structures; the state of each is its own.

    ``arrive`` is called with the forces at the present positions, ``done`` says who needs no
    further step, ``depart`` moves the others.
    """

    name = ""
    stress = False

    def settings(self) -> dict[str, Any]:
        """Return what must be the same to go on with a run, as JSON-able values."""
        raise NotImplementedError

    def check(self, atoms: Atoms) -> None:
        """Refuse a structure this method cannot move."""

    def add(self, new: Batch) -> None:
        """Append structures at the end of the batch; may change their momenta."""

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` (B,) is false."""

    def arrive(self, batch: Batch, found: Found) -> None:
        """Use the forces at the present positions."""

    def done(self, batch: Batch) -> Array:
        """Return which structures have converged, (B,) bool."""
        return np.zeros(len(batch), dtype=bool)

    def fmax(self, batch: Batch) -> Array | None:
        """Return the largest force of each structure, (B,) eV/Angstrom, if forces count."""
        return None

    def depart(self, batch: Batch, found: Found) -> None:
        """Move every structure one step."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """Return what :meth:`restore` needs."""
        return {}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""

    def say(self, batch: Batch, found: Found) -> str:
        """Return a line for people on how things are."""
        return ""


def run(
    model: Potential,
    structures: Sequence[Atoms],
    method: Method,
    *,
    steps: int,
    folder: str | Path | None = None,
    trajectory: str | None = "traj",
    interval: int = 1,
    checkpoint_every: float = 30.0,
    monitor: Mapping[str, Any] | None = None,
    batch: str | int = "auto",
    max_edges: int | None = None,
    max_atoms: int | None = None,
    skin: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Outcome]:
    """Move structures and yield each as it is done; see :func:`relax_many` for the arguments."""
    if steps < 0 or interval < 1:
        raise ConfigError(f"steps = {steps}, interval = {interval}: at least 0 and 1.")
    wanted = (["stress"] if method.stress else []) + Watch.properties(monitor, model)
    options = {} if skin is None else {"skin": skin}
    evaluator = Evaluator(
        model, wanted, batch=batch, max_edges=max_edges, max_atoms=max_atoms, **options
    )
    store = None
    if folder is not None:
        from ase_nnp.models.files import model_hash

        settings = {
            "method": method.name,
            "steps": steps,
            "interval": interval,
            "structures": len(structures),
            "trajectory": trajectory,
            "model": model_hash(model),
            **method.settings(),
        }
        store = Store(Path(folder), settings, trajectory)
    loop = _Loop(structures, method, evaluator, store, steps, interval, monitor, progress)
    loop.every = checkpoint_every
    training = model.training
    model.eval()
    try:
        yield from loop.run()
    finally:
        loop.watch.close()
        if store is not None:
            store.close()
        if training:
            torch.nn.Module.train(model, True)


class _Loop:
    """One run."""

    every: float = 30.0

    def __init__(
        self,
        structures: Sequence[Atoms],
        method: Method,
        evaluator: Evaluator,
        store: Store | None,
        steps: int,
        interval: int,
        monitor: Mapping[str, Any] | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.structures, self.method, self.evaluator = structures, method, evaluator
        self.store, self.steps, self.interval = store, steps, interval
        self.progress = progress
        self.watch = Watch(monitor)
        self.batch = Batch.of([], [])
        self.next = 0
        self.finished = self.failed = 0
        self.ready: list[Outcome] = []
        self.frames: dict[int, int] = {}
        self.first: Atoms | None = None  # of those that wait, once it has been read

    def run(self) -> Iterator[Outcome]:
        self._resume()
        saved = time.monotonic()
        while True:
            self._fill()
            yield from self._handed()
            if not len(self.batch):
                break
            found = self.evaluator(self.batch)
            found = self._drop_failed(found)
            if len(self.batch):
                found = self._land(found)
            if len(self.batch):
                with np.errstate(all="ignore"):
                    self.method.depart(self.batch, found)
                self.batch.step += 1
                self._drop_exploded()
            yield from self._handed()
            if self.store is not None and time.monotonic() - saved >= self.every:
                self._save()
                saved = time.monotonic()
        self._save()
        self._tell("")

    def _handed(self) -> Iterator[Outcome]:
        ready, self.ready = self.ready, []
        yield from ready

    def _fill(self) -> None:
        """Let waiting structures in while there is room."""
        new: list[Atoms] = []
        index: list[int] = []
        atoms = self.batch.segments.rows
        while self.next < len(self.structures):
            one = self.structures[self.next] if self.first is None else self.first
            if atoms and atoms + len(one) > self.evaluator.max_atoms:
                self.first = one
                break
            self.first = None
            number, self.next = self.next, self.next + 1
            try:
                self.evaluator.check(one)
                self.method.check(one)
                Batch.of([one], [number])
            except AseNnpError as error:
                self._retire(Outcome(number, one.copy(), "failed", 0, reason=str(error)))
                continue
            new.append(one)
            index.append(number)
            atoms += len(one)
        if new:
            added = Batch.of(new, index)
            self.method.add(added)
            self.batch = self.batch.join(added)

    def _land(self, found: Found) -> Found:
        """Use the forces: record, watch, and let go who is done."""
        batch, method = self.batch, self.method
        fresh = np.isnan(batch.first_energy)
        batch.first_energy[fresh] = found.energy[fresh]
        with np.errstate(all="ignore"):  # who overflows is found out by name
            method.arrive(batch, found)
        converged = method.done(batch)
        done = converged | (batch.step >= self.steps)
        self._record(found, done)
        stopped = self.watch.look(batch, found)
        leaving = done | stopped
        if leaving.any():
            fmax = method.fmax(batch)
            for k in np.flatnonzero(leaving).tolist():
                status = "converged" if converged[k] else "stopped" if stopped[k] else "finished"
                index = int(batch.index[k])
                self._retire(
                    Outcome(
                        index,
                        labelled(batch, found, k),
                        status,
                        int(batch.step[k]),
                        float(batch.first_energy[k]),
                        float(found.energy[k]),
                        None if fmax is None else float(fmax[k]),
                        self.watch.reason(index) if status == "stopped" else "",
                        self.watch.events(index),
                    )
                )
            found = self._kept(~leaving, found)
        self._tell(method.say(self.batch, found) if len(self.batch) else "")
        return found

    def _record(self, found: Found, done: Array) -> None:
        store, batch = self.store, self.batch
        if store is None or store.trajectory is None:
            return
        due = (batch.step % self.interval == 0) | done
        for k in np.flatnonzero(due).tolist():
            rows = batch.segments.slice(k)
            index = int(batch.index[k])
            record = pack(
                int(batch.step[k]),
                float(found.energy[k]),
                batch.cell[k],
                None if found.stress is None else found.stress[k],
                batch.positions[rows],
                found.forces[rows],
                batch.momenta[rows],
            )
            store.record(index, record)
            self.frames[index] = self.frames.get(index, 0) + 1

    def _drop_failed(self, found: Found) -> Found:
        """Let go who has no answer."""
        if not found.failed:
            return found
        mask = np.ones(len(self.batch), dtype=bool)
        for k, reason in sorted(found.failed.items()):
            mask[k] = False
            self._fail(k, reason)
        return self._kept(mask, found)

    def _drop_exploded(self) -> None:
        """Let go who has flown apart; the others must not pay for its neighbour list."""
        batch = self.batch
        far = batch.segments.max(np.abs(batch.positions).max(axis=1))
        with np.errstate(invalid="ignore"):
            bad = ~(far < FARTHEST)
        ratio = np.ones(len(batch))
        if self.method.stress:
            given = np.array([abs(np.linalg.det(one.cell.array)) for one in batch.atoms])
            ratio = np.abs(np.linalg.det(batch.cell)) / given
        burst = ~((ratio < VOLUME_FACTOR) & (ratio > 1 / VOLUME_FACTOR))
        if not (bad | burst).any():
            return
        for k in np.flatnonzero(bad | burst).tolist():
            self._fail(
                k,
                f"an atom is {far[k]:.3g} Angstrom from the origin: the structure has exploded"
                if bad[k]
                else f"the volume is {ratio[k]:.3g} times what it was",
            )
        self._keep(~(bad | burst))

    def _fail(self, k: int, reason: str) -> None:
        batch = self.batch
        before = float(batch.first_energy[k])
        self._retire(
            Outcome(
                int(batch.index[k]),
                batch.snapshot(k),
                "failed",
                int(batch.step[k]),
                None if np.isnan(before) else before,
                reason=reason,
                events=self.watch.events(int(batch.index[k])),
            )
        )

    def _keep(self, mask: Array) -> None:
        """Go on with the structures where ``mask`` is true."""
        self.batch = self.batch.keep(mask)
        self.method.keep(mask)

    def _kept(self, mask: Array, found: Found) -> Found:
        """As :meth:`_keep`; returns what was found of those that stay."""
        segments = self.batch.segments
        self._keep(mask)
        return found.keep(mask, segments)

    def _retire(self, outcome: Outcome) -> None:
        self.finished += 1
        self.failed += outcome.status == "failed"
        self.watch.forget(outcome.index)
        self.frames.pop(outcome.index, None)
        if self.store is not None:
            self.store.finish(outcome.index, self.structures[outcome.index], as_result(outcome))
        self.ready.append(outcome)
        self._tell("")

    def _tell(self, text: str) -> None:
        if self.progress is not None:
            self.progress(
                Progress(len(self.structures), self.finished, len(self.batch), self.failed, text)
            )

    def _save(self) -> None:
        if self.store is None:
            return
        batch = self.batch
        names = ("index", "step", "first_energy", "positions", "momenta", "cell")
        arrays = {f"batch_{name}": getattr(batch, name) for name in names}
        arrays["batch_sizes"] = batch.segments.sizes
        arrays |= {f"method_{name}": value for name, value in self.method.state().items()}
        notes = {
            "next": self.next,
            "frames": [self.frames.get(int(i), 0) for i in batch.index],
            "watch": self.watch.state(),
        }
        moving = dict(zip(batch.index.tolist(), batch.atoms, strict=True))
        self.store.save(arrays, notes, moving)

    def _resume(self) -> None:
        if self.store is None:
            return
        loaded = self.store.load()
        if loaded is None:
            self._save()
            return
        arrays, notes, results = loaded
        for line in results:
            outcome = from_result(line, self.structures[int(line["index"])])
            self.finished += 1
            self.failed += outcome.status == "failed"
            self.ready.append(outcome)
        index = arrays["batch_index"].tolist()
        batch = Batch.of([self.structures[i] for i in index], index)
        if not np.array_equal(batch.segments.sizes, arrays["batch_sizes"]):
            raise ConfigError(
                f"The structures are not those of the run in {self.store.folder}: their sizes "
                "differ. Name a new folder."
            )
        for name in ("step", "first_energy", "positions", "momenta", "cell"):
            setattr(batch, name, arrays[f"batch_{name}"])
        prefix = "method_"
        state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        self.method.restore(state, batch)
        self.batch, self.next = batch, int(notes["next"])
        self.watch.restore(notes["watch"])
        self.frames = dict(zip(index, notes["frames"], strict=True))
        moving = zip(index, notes["frames"], batch.atoms, strict=True)
        self.store.rewind({i: (frames, atoms) for i, frames, atoms in moving})
