"""The loop that all batched runs share: fill, evaluate, record, retire, move.

Structures wait in line, enter while there is room, and leave when they are done or have failed;
the others do not wait for them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import AseNnpError, StructureError
from ase_nnp.workflows.batched.checkpoint import restore_state, run_state
from ase_nnp.workflows.batched.evaluate import BatchResults, Evaluator
from ase_nnp.workflows.batched.explosion import traveled
from ase_nnp.workflows.batched.frames import pack
from ase_nnp.workflows.batched.inputs import Structures
from ase_nnp.workflows.batched.interrupt import uninterrupted
from ase_nnp.workflows.batched.method import Method
from ase_nnp.workflows.batched.monitor_pool import MonitorPool
from ase_nnp.workflows.batched.outcome import Outcome, as_result, from_result, labeled
from ase_nnp.workflows.batched.readings import HostCopy, Readings
from ase_nnp.workflows.batched.settings import Progress, RunSettings
from ase_nnp.workflows.batched.state import Array, Batch
from ase_nnp.workflows.batched.store import Store
from ase_nnp.workflows.doubts import doubts, unknown_places

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Loop"]


class Loop:
    """One run: the structures on the move, those that wait, and those that are done."""

    def __init__(
        self,
        structures: Structures,
        method: Method,
        evaluator: Evaluator,
        steps: int,
        settings: RunSettings,
    ) -> None:
        self.structures, self.method, self.evaluator = structures, method, evaluator
        self.steps, self.settings = steps, settings
        self.store: Store | None = None
        self.monitors = MonitorPool(settings.monitor)
        self.batch = Batch.of([], [])
        self.next = 0  # the first structure that still waits
        self.finished = self.failed = 0
        self.ready: list[Outcome] = []  # done, not yet handed out
        self.first: Atoms | None = None  # of those that wait, once it has been read
        self.sound = False  # whether the state is that between two steps

    def outcomes(self) -> Iterator[Outcome]:
        """Yield each structure as it is done."""
        self._resume()
        saved = time.monotonic()
        self.sound = True
        try:
            while True:
                with self._change():
                    self._fill()
                yield from self._handed()
                if not len(self.batch):
                    break

                results = self.evaluator(self.batch)
                with self._change():
                    text = self._advance(results)
                self._tell(text)

                yield from self._handed()

                # Between two steps, so that a checkpoint holds one moment of all.
                if time.monotonic() - saved >= self.settings.checkpoint_every:
                    self._save()
                    saved = time.monotonic()
            self._save()
        except BaseException:
            # Ctrl-C, or a caller who has seen enough: keep what was done since the checkpoint.
            if self.sound:
                with suppress(AseNnpError):  # such as a full disk: the reason above counts
                    self._save()
            raise
        self._tell("")

    def _change(self) -> _Change:
        return _Change(self)

    def _handed(self) -> Iterator[Outcome]:
        ready, self.ready = self.ready, []
        yield from ready

    def _fill(self) -> None:
        """Let waiting structures in while there is room."""
        new: list[Atoms] = []
        index: list[int] = []
        atoms = self.batch.segments.rows
        while self.next < len(self.structures):
            number = self.next
            try:
                one = self.structures.read(number) if self.first is None else self.first
                if atoms and atoms + len(one) > self.evaluator.max_atoms:
                    self.first = one
                    break

                self.evaluator.check(one)
                self.method.check(one)
                Batch.of([one], [number])
            except Exception as error:  # of a reader or a model, which may be plugins
                self._refuse(number, str(error))
            else:
                new.append(one)
                index.append(number)
                atoms += len(one)
            self.first, self.next = None, number + 1

        if new:
            added = Batch.of(new, index, self.evaluator.model.device)
            self.method.add(added)
            self.batch = self.batch.join(added)

    def _refuse(self, number: int, reason: str) -> None:
        given = self.structures.readable(number)
        self._retire(given, Outcome(number, given.copy(), "failed", 0, reason=reason))

    def _advance(self, results: BatchResults) -> str:
        """Use the answers of the model and move on; returns a line for people."""
        batch, method = self.batch, self.method
        came = copy.copy(batch)  # steps replace tensors and change none
        method.on_forces(batch, results)
        reached = HostCopy(batch, results)
        watched = method.watched(batch)

        # All take the step before the host knows who is done: it then waits once a step, and those
        # leave as they were before it.
        method.take_step(batch, results)
        batch.step = batch.step + 1
        travel = traveled(batch, moving_cell=method.stress)
        stale = self.evaluator.stale(batch)
        sound = results.sound(batch.segments)
        seen = Readings.of(results.energy, sound, results.closest, watched, *travel, stale)

        going = self._let_go(came, reached, seen, results.failed)
        batch.unlisted = seen.stale > 0
        step = batch.step - 1
        self.batch = batch if going.all() else batch.keep(going)
        if not going.all():
            method.keep(going)
        return method.describe(step[going], seen.watched[going]) if going.any() else ""

    def _let_go(
        self, came: Batch, reached: HostCopy, seen: Readings, failed: dict[int, str]
    ) -> Array:
        """Record, watch, and retire who fails or is done; returns who goes on, (B,) bool."""
        batch = self.batch
        going = self._fail(came, {**seen.failures(), **failed})

        fresh = np.isnan(batch.first_energy) & going
        batch.first_energy[fresh] = seen.energy[fresh]
        converged = self.method.done(seen.watched) & going
        done = converged | ((batch.step > self.steps) & going)
        self._record(reached, going, done)
        self._look(reached, going & ~done)
        stopped = np.zeros_like(going)
        if self.monitors.options is not None:
            stopped = self.monitors.look(reached.batch, reached.results, going)

        fmax = self.method.fmax(seen.watched)
        leaving = np.flatnonzero(done | stopped).tolist()
        last = self._with_doubts([labeled(reached.batch, reached.results, k) for k in leaving])
        for k, atoms in zip(leaving, last, strict=True):
            going[k] = False
            status = "converged" if converged[k] else "stopped" if stopped[k] else "finished"
            outcome = self._outcome(reached.batch, k, atoms, status)
            outcome.energy = float(seen.energy[k])
            outcome.unknown += bool(self.method.looks and outcome.doubts.get("ood_flag", False))
            outcome.fmax = None if fmax is None else float(fmax[k])
            if status == "stopped":
                outcome.reason = self.monitors.reason(outcome.index)
            self._retire(batch.atoms[k], outcome)

        # The others must not pay for the neighbor list of what has flown apart.
        flown = {k: reason for k, reason in seen.explosions().items() if going[k]}
        return going & self._fail(batch, flown)

    def _look(self, at: HostCopy, going: Array) -> None:
        """Ask now and then whether states along the way are known to the model."""
        looks, model = self.method.looks, self.evaluator.model
        if not looks or "ood_flag" not in model.outputs:
            return
        due = np.flatnonzero(going & ((self.batch.step - 1) % looks == 0)).tolist()
        with suppress(Exception):  # of a model, which is a plugin: the run itself goes well
            for place in unknown_places(model, [at.batch.snapshot(k) for k in due]):
                self.batch.unknown[due[place]] += 1

    def _with_doubts(self, last: list[Atoms]) -> list[Atoms]:
        """Attach what the model doubts of last states: asked once, and not at every step."""
        with suppress(Exception):  # of a model, which is a plugin: the run itself went well
            for atoms, row in zip(last, doubts(self.evaluator.model, last), strict=True):
                atoms.calc.results |= row
        return last

    def _fail(self, batch: Batch, reasons: dict[int, str]) -> Array:
        """Retire who has failed, as they are in ``batch``; returns who has not, (B,) bool."""
        sound = np.ones(len(batch), dtype=bool)
        host = batch.on_host() if reasons else batch
        for k, reason in sorted(reasons.items()):
            sound[k] = False
            outcome = self._outcome(host, k, host.snapshot(k), "failed")
            outcome.reason = reason
            self._retire(batch.atoms[k], outcome)
        return sound

    def _outcome(self, batch: Batch, k: int, atoms: Atoms, status: str) -> Outcome:
        index, before = int(batch.index[k]), float(batch.first_energy[k])
        return Outcome(
            index,
            atoms,
            status,
            int(batch.step[k]),
            None if np.isnan(before) else before,
            events=self.monitors.events(index),
            unknown=int(batch.unknown[k]),
        )

    def _record(self, at: HostCopy, sound: Array, done: Array) -> None:
        """Keep a frame of each structure whose turn it is."""
        if self.store is None or self.store.trajectory is None:
            return

        # The last frame too, whatever the interval: it is what was reached.
        step = self.batch.step - 1
        due = ((step % self.settings.interval == 0) & sound) | done
        for k in np.flatnonzero(due).tolist():
            batch, results = at.batch, at.results
            rows = batch.segments.slice(k)
            record = pack(
                int(step[k]),
                float(results.energy[k]),
                batch.cell[k].numpy(),
                None if results.stress is None else results.stress[k].numpy(),
                batch.positions[rows].numpy(),
                results.forces[rows].numpy(),
                batch.momenta[rows].numpy(),
            )
            self.store.record(int(batch.index[k]), record)

    def _retire(self, given: Atoms, outcome: Outcome) -> None:
        self._count(outcome)
        self.monitors.forget(outcome.index)
        if self.store is not None:
            self.store.finish(outcome.index, given, as_result(outcome))

    def _count(self, outcome: Outcome) -> None:
        self.finished += 1
        self.failed += outcome.status == "failed"
        self.ready.append(outcome)

    def _tell(self, text: str) -> None:
        if self.settings.progress is not None:
            running = len(self.batch)
            total = len(self.structures)
            self.settings.progress(Progress(total, self.finished, running, self.failed, text))

    def _save(self) -> None:
        if self.store is None:
            return
        with self._change():
            # Those on the move alone: what is done lies in the results already.
            moving = dict(zip(self.batch.index.tolist(), self.batch.atoms, strict=True))
            arrays, notes = run_state(self.batch, self.method, self.monitors, self.next)
            self.store.save(arrays, notes, moving)

    def _resume(self) -> None:
        """Go on where the checkpoint was, if there is one; else make the first."""
        if self.store is None:
            return
        loaded = self.store.load()
        if loaded is None:
            self._save()
            return

        arrays, notes, lines = loaded
        try:
            for line in lines:
                self._count(from_result(line, self.structures.readable(int(line["index"]))))
            index = [int(k) for k in arrays["batch_index"]]
            atoms = [self.structures.read(k) for k in index]
            device = self.evaluator.model.device
            self.batch = restore_state(arrays, notes, atoms, self.method, self.monitors, device)
            self.next = int(notes["next"])
        except (LookupError, TypeError, ValueError, StructureError) as error:
            raise self.store.damaged(f"{type(error).__name__}: {error}") from error

        # Frames written after the checkpoint would come twice.
        self.store.rewind(dict(zip(index, atoms, strict=True)))


class _Change:
    """A change of a loop's state that no interrupt breaks, and that an error leaves unsound."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._quiet = loop, uninterrupted()

    def __enter__(self) -> None:
        self._quiet.__enter__()
        self._loop.sound = False

    def __exit__(self, *error: Any) -> None:
        self._loop.sound = error[0] is None
        self._quiet.__exit__(*error)
