"""One function over many structures on any ``concurrent.futures.Executor``.

Processes, threads, Dask (``client.get_executor()``) and Parsl (``ParslPoolExecutor``) offer that
interface themselves; :class:`RayExecutor` gives it to Ray.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ase_nnp.errors import ConfigError, TaskError
from ase_nnp.workflows.tasks import name_of

__all__ = ["Failure", "RayExecutor", "map_structures", "unordered"]


@dataclass(frozen=True)
class Failure:
    """A structure whose function raised, in place of its result."""

    index: int
    name: str
    error: BaseException


@dataclass
class _Item:
    index: int
    atoms: Any
    future: Future[Any] | None = None
    breaks: int = 0  # executors that broke while this was in flight


def map_structures(
    function: Callable[[Any], Any],
    structures: Iterable[Any],
    executor: Executor | Callable[[], Executor],
    *,
    in_flight: int | None = None,
    retries: int = 2,
    on_error: str = "raise",
    progress: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Yield ``function(atoms)`` for each structure, in order, computed by ``executor``.

    Parameters
    ----------
    function
        Must travel to where the executor runs it: a function of a module, or a small object such
        as :class:`ase_nnp.workflows.tasks.ModelTask`, which loads its model there once.
    structures
        Read as results are taken, never far ahead.
    executor
        Used and left open. Or a function that makes one (``lambda: ProcessPoolExecutor(4)``): then
        an executor that breaks because a process died is replaced, and all are shut down at the
        end.
    in_flight
        Structures handed out and not yet yielded, at most; by default four times the CPUs.
    retries
        How many broken executors a structure may have been part of. After the first break those
        structures run one at a time, so that the one that kills is known and the others are not
        blamed.
    on_error
        ``"raise"``: the first failure ends the map. ``"return"``: a :class:`Failure` stands in the
        place of the result.
    progress
        Called with the number of structures done, after each.

    Raises
    ------
    TaskError
        Naming the structure and what its function raised.
    """
    if on_error not in ("raise", "return"):
        raise ConfigError(f"on_error is {on_error!r}; it can be 'raise' or 'return'.")

    # Enough to keep all busy, few enough that a lazy dataset of millions is not read ahead.
    most = in_flight or 4 * (os.cpu_count() or 1)
    if most < 1 or retries < 0:
        raise ConfigError(f"in_flight {in_flight}, retries {retries}: at least 1 and 0.")
    pool = _Pool(executor)
    return _mapped(function, structures, pool, most, retries, on_error == "raise", progress)


def _mapped(
    function: Callable[[Any], Any],
    structures: Iterable[Any],
    pool: _Pool,
    most: int,
    retries: int,
    raises: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[Any]:
    source = (_Item(k, atoms) for k, atoms in enumerate(structures))
    waiting: deque[_Item] = deque()
    done = 0
    try:
        while True:
            # After a break, those that were in flight run one at a time: one of them kills.
            suspects = any(item.breaks for item in waiting)
            for item in islice(source, 0 if suspects else most - len(waiting)):
                waiting.append(item)
            if not waiting:
                return

            for item in list(waiting)[: 1 if suspects else None]:
                if item.future is None:
                    item.future = pool.submit(function, item.atoms)

            first = waiting[0]
            assert first.future is not None
            try:
                result = first.future.result()
            except BrokenExecutor as error:
                # An executor that breaks fails all that it held: those that had ended keep their
                # results.
                flying = [item for item in waiting if item.future is not None]
                for item in flying:
                    item.future = None if not _good(item.future) else item.future
                    item.breaks += item.future is None
                if not pool.renew() or first.breaks > retries:
                    result = _failed(first, error, raises)
                else:
                    continue
            except Exception as error:
                result = _failed(first, error, raises)

            waiting.popleft()
            done += 1
            yield result
            if progress is not None:
                progress(done)
    finally:
        for item in waiting:
            if item.future is not None:
                item.future.cancel()
        pool.close()


def unordered(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    executor: Executor | Callable[[], Executor],
    *,
    in_flight: int,
    retries: int,
) -> Iterator[tuple[Any, Any]]:
    """Yield each item with ``function(item)``, or with what was raised, as they are done.

    Parameters
    ----------
    function, executor
        As in :func:`map_structures`.
    items
        Handed out in order.
    in_flight
        Items handed out and not yet done, at most.
    retries
        How often an item is handed out again after the executor broke under it.
    """
    pool, waiting = _Pool(executor), deque(_Item(k, item) for k, item in enumerate(items))
    running: dict[Future[Any], _Item] = {}
    try:
        while waiting or running:
            while waiting and len(running) < in_flight:
                item = waiting.popleft()
                running[pool.submit(function, item.atoms)] = item

            done, _ = wait(running, return_when=FIRST_COMPLETED)
            renewed = True
            if any(isinstance(_error(future), BrokenExecutor) for future in done):
                done, _ = wait(running)  # a broken executor fails all that it had
                renewed = pool.renew()

            for future in done:
                item, error = running.pop(future), _error(future)

                # Only deaths are repeated: what a function raised it would raise again.
                item.breaks += isinstance(error, BrokenExecutor)
                again = isinstance(error, BrokenExecutor) and renewed and item.breaks <= retries
                if again:
                    waiting.appendleft(item)
                else:
                    yield item.atoms, error if error is not None else future.result()
    except BaseException:
        # An interrupted user wants the processes gone, and shutdown waits for their present work.
        pool.terminate()
        raise
    finally:
        for future in running:
            future.cancel()
        pool.close()


def _error(future: Future[Any]) -> BaseException | None:
    """Return what a future that is done has raised."""
    return CancelledError() if future.cancelled() else future.exception()


def _good(future: Future[Any] | None) -> bool:
    """Whether a future ended before its executor broke."""
    if future is None or not future.done() or future.cancelled():
        return False
    return not isinstance(future.exception(), BrokenExecutor)


def _failed(item: _Item, error: BaseException, raises: bool) -> Failure:
    name = name_of(item.index, item.atoms)
    if isinstance(error, BrokenExecutor):
        said = f"its process died ({item.breaks} times)"
    else:
        said = f"{type(error).__name__}: {error}"
    if raises:
        raise TaskError(f"{name}: {said}") from error
    return Failure(item.index, name, error)


class _Pool:
    """An executor, and the way to another one where the caller told it."""

    def __init__(self, executor: Executor | Callable[[], Executor]) -> None:
        # A broken ProcessPoolExecutor stays broken; only a function can make another.
        self._make = None if hasattr(executor, "submit") else executor
        self._executor: Any = executor if self._make is None else None

    def submit(self, function: Callable[[Any], Any], atoms: Any) -> Future[Any]:
        """Hand out one call; a broken executor says so through the future."""
        if self._executor is None:
            self._executor = self._make()  # type: ignore[misc, operator]
        try:
            return self._executor.submit(function, atoms)  # type: ignore[no-any-return]
        except BrokenExecutor as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def renew(self) -> bool:
        """Let go of a broken executor; return whether there can be another."""
        if self._make is None:
            return False
        self.close()
        return True

    def terminate(self) -> None:
        """Tell the processes that we started to end now, not after their present call."""
        if self._make is not None and self._executor is not None:
            # Python 3.14 has terminate_workers() for this.
            for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                process.terminate()

    def close(self) -> None:
        """Shut down what we made ourselves."""
        if self._make is not None and self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


class RayExecutor(Executor):
    """Ray behind the interface of ``concurrent.futures``; Ray itself repeats what a death undid.

    Parameters
    ----------
    options
        For each task, as for ``ray.remote``: ``num_cpus``, ``num_gpus``, ``max_retries``.

    Raises
    ------
    ConfigError
        Ray is not installed, or ``ray.init()`` has not been called.
    """

    def __init__(self, **options: Any) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("Ray is not installed; pip install 'ase_nnp[scale]'.") from None
        if not ray.is_initialized():
            raise ConfigError("Call ray.init() first.")
        self._options = options

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start ``fn(*args, **kwargs)`` as a Ray task."""
        import ray

        make = ray.remote(**self._options) if self._options else ray.remote
        future: Future[Any] = make(fn).remote(*args, **kwargs).future()
        return future
