"""BatchingCalculator: calculators in many threads that share one model and answer in batches.

Unmodified ASE code that works on several structures in threads (NEB images, many optimizers,
phonons) asks one structure at a time. Here each question waits until all calculators that are at
work have asked, or a moment has passed; then one of the waiting threads evaluates them together.
There is no thread of our own, and so none that could be left behind.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Self

from ase_nnp.calculator.calculator import NNPCalculator
from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["BatchingCalculator"]


class _Question:
    """One structure that waits for its answer."""

    def __init__(self, asker: _Asker, atoms: Atoms, properties: Collection[str]) -> None:
        self.asker, self.atoms, self.properties = asker, atoms, tuple(properties)
        self.thread = threading.current_thread()
        self.answer: dict[str, Any] | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


class _Exchange:
    """Where the questions of all calculators meet.

    A calculator is expected to ask as long as it lives and has not missed a round; one whose
    thread waits here already, or has ended, cannot. Nobody waits longer than ``wait`` seconds for
    the others, and whoever missed a round is expected again once it has asked.
    """

    def __init__(self, predictor: Predictor, wait: float) -> None:
        self.predictor, self.wait = predictor, wait
        self.changed = threading.Condition()
        self.waiting: list[_Question] = []
        self.expected: weakref.WeakSet[_Asker] = weakref.WeakSet()
        self.busy = False
        self.batches: list[int] = []  # structures of each model call

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process; questions, threads and locks stay here."""
        return {"predictor": self.predictor, "wait": self.wait}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def ask(self, question: _Question) -> dict[str, Any]:
        """Return the answer to a question; blocks until it is there."""
        asker = question.asker
        with self.changed:
            # A calculator may be handed from thread to thread: the last one that asked stands for
            # it.
            asker.thread = question.thread
            self.expected.add(asker)
            self.waiting.append(question)
            self.changed.notify_all()
            deadline = time.monotonic() + self.wait
            try:
                while not question.done:
                    left = deadline - time.monotonic()
                    if self.busy:
                        self.changed.wait()
                    elif left <= 0 or not self._missing():
                        self._lead(left <= 0)
                    else:
                        self.changed.wait(left)
            finally:  # an interrupted thread takes its question along
                if question in self.waiting:
                    self.waiting.remove(question)

        if question.error is not None:
            raise question.error
        assert question.answer is not None
        return question.answer

    def _missing(self) -> list[_Asker]:
        """Return who is expected and could still ask."""
        asked = {id(q.asker) for q in self.waiting}

        # A thread that drives several calculators asks for one at a time: while it waits here, its
        # others cannot ask.
        blocked = {q.thread for q in self.waiting}
        return [a for a in self.expected if id(a) not in asked and a.thread not in blocked]

    def _lead(self, late: bool) -> None:
        """Answer all questions that wait, in this thread; called and left with the lock held."""
        if late:
            for asker in self._missing():
                self.expected.discard(asker)

        # The lock is free while the model computes, so that others may already line up.
        questions, self.waiting = self.waiting, []
        self.busy = True
        self.changed.release()
        try:
            self._answer(questions)
        finally:  # also when this thread is interrupted: nobody may wait for it in vain
            self.changed.acquire()
            self.busy = False
            self.waiting = [q for q in questions if not q.done] + self.waiting
            self.changed.notify_all()

    def _answer(self, questions: Sequence[_Question]) -> None:
        """Evaluate together what asks for the same; one by one where that fails."""
        groups: dict[tuple[str, ...], list[_Question]] = {}
        for question in questions:
            # Who asks for less must not pay for a stress that another one wants.
            groups.setdefault(question.properties, []).append(question)

        for properties, group in groups.items():
            try:
                answers = self.predictor([q.atoms for q in group], properties, progress=False)
                self.batches.append(len(group))
            except Exception as error:  # whose fault it is shows one by one
                if len(group) == 1:
                    group[0].error = error
                else:
                    self._singly(group)
                continue
            for question, answer in zip(group, answers, strict=True):
                question.answer = answer

    def _singly(self, group: Sequence[_Question]) -> None:
        for question in group:
            try:
                question.answer = self.predictor.single(question.atoms, question.properties)
                self.batches.append(1)
            except Exception as error:  # goes to the thread that asked
                question.error = error


class _Asker:
    """What a calculator takes for its predictor: it asks the exchange."""

    def __init__(self, exchange: _Exchange) -> None:
        self.exchange = exchange
        self.thread: threading.Thread | None = None
        self.calls = 0
        exchange.expected.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"exchange": self.exchange, "calls": self.calls}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["exchange"])  # type: ignore[misc]
        self.calls = state["calls"]

    @property
    def model(self) -> Potential:
        return self.exchange.predictor.model

    @property
    def precision(self) -> str | None:
        return self.exchange.predictor.precision

    @property
    def compile(self) -> bool | str:
        return self.exchange.predictor.compile

    def single(self, atoms: Atoms, properties: Collection[str]) -> dict[str, Any]:
        self.calls += 1
        return self.exchange.ask(_Question(self, atoms, properties))


class BatchingCalculator(NNPCalculator):
    """An ASE calculator that shares its model with its clones, and answers them in batches.

    ::

        calc = BatchingCalculator("my.nnp")
        for image in images:
            image.calc = calc.clone()
        NEB(images, parallel=True)          # threads; one model call for all images

    Parameters
    ----------
    model, options
        As for :class:`~ase_nnp.NNPCalculator`.
    wait
        Seconds that a question waits for others to come. Calculators that do not ask in time are
        not waited for until they ask again. A single thread that uses several clones in turn
        waits once at most.

    Notes
    -----
    An error goes to the thread whose structure caused it. ``model_calls`` counts the questions of
    one calculator, ``batches`` the structures of each model call of all of them.

    Raises
    ------
    ConfigError
        For a ``wait`` that is no time.
    """

    name = "nnp"

    def __init__(self, model: Any = None, *, wait: float = 0.05, **options: Any) -> None:
        if not wait >= 0:
            raise ConfigError(f"wait = {wait}: seconds, zero or more.")
        self._wait = float(wait)
        self._exchange: _Exchange | None = None
        super().__init__(model, **options)

    def _setup(self, model: Potential, precision: str | None, compile: bool | str) -> None:
        super()._setup(model, precision, compile)
        if self._exchange is None:
            self._exchange = _Exchange(self._predictor, self._wait)
        self._predictor = _Asker(self._exchange)  # type: ignore[assignment]

    def clone(self) -> Self:
        """Return a calculator of its own that shares model and batches with this one."""
        from ase.calculators.calculator import Calculator

        # Past __init__, which would load the model again.
        twin = type(self).__new__(type(self))
        Calculator.__init__(twin)
        twin._wait, twin._exchange = self._wait, self._exchange
        twin._setup(self.model, self._predictor.precision, self._predictor.compile)
        twin._want_stress = self._want_stress
        return twin

    @property
    def batches(self) -> list[int]:
        """Structures of each model call so far, of all calculators that share the model."""
        assert self._exchange is not None
        return list(self._exchange.batches)
