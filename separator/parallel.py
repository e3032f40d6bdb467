"""Tasks in processes side by side: each has its own outcome, and whatever a process dies of costs one task."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar, cast

from separator.errors import ResourceError, SepctlError

Task = TypeVar("Task")
Result = TypeVar("Result")
Start = Callable[[], Callable[[Task], Result]]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


@dataclass(frozen=True)
class Failure:
    """A task that failed: why, and the traceback of where (empty where its process died)."""

    error: Exception
    trace: str


def run(
    start: Start[Task, Result], tasks: Sequence[Task], jobs: int, threads: int = 1
) -> Generator[tuple[int, Result | Failure], None, None]:
    """Yield the number of each task and its outcome, as they end; what is fatal to the others the caller may raise.

    `start` is called once per process and returns what does a task. With more than one job and task it is sent to
    fresh interpreters (spawn) of `threads` processor threads each, and must be picklable, like tasks and results;
    else all happens here. A process that dies is replaced. They answer no signal but end at once when the generator
    is closed (`contextlib.closing`) and when this process dies. Raises what `start` raises, and `ResourceError` where
    the system allows no more processes.
    """
    jobs = min(jobs, len(tasks))
    if jobs > 1:
        yield from _Pool(start, tasks, threads).run(jobs)
    elif jobs == 1:
        work = start()
        for number, task in enumerate(tasks):
            yield number, _outcome(work, task)


class _Pool(Generic[Task, Result]):
    def __init__(self, start: Start[Task, Result], tasks: Sequence[Task], threads: int) -> None:
        self._start, self._tasks, self._threads = start, tasks, threads
        self._waiting = iter(range(len(tasks)))
        self._workers: dict[Connection, tuple[SpawnProcess, int]] = {}  # each with the number of its task

    def run(self, jobs: int) -> Iterator[tuple[int, Result | Failure]]:
        try:
            for _ in range(jobs):
                self._launch(next(self._waiting))
            while self._workers:
                for connection in cast("list[Connection]", wait(list(self._workers))):
                    yield self._receive(connection)
        finally:
            for process, _ in self._workers.values():
                if process.is_alive():
                    process.kill()
            for connection in list(self._workers):
                self._bury(connection)

    def _launch(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        with starting():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._start), daemon=True)
            self._workers[ours] = process, number  # before it lives, so that an interrupt ends it
            with theirs, few_threads(self._threads), later_signals():  # theirs alone: their death ends the stream
                process.start()
        self._send(ours, number)

    def _send(self, connection: Connection, number: int) -> None:
        with contextlib.suppress(OSError):  # it died: the next `recv` tells
            connection.send(self._tasks[number])

    def _receive(self, connection: Connection) -> tuple[int, Result | Failure]:
        """A worker's task and its outcome; the worker, or one in the place of a dead one, goes on with the next."""
        process, number = self._workers[connection]
        following = next(self._waiting, None)
        try:
            started, outcome = connection.recv()
        except (EOFError, OSError):
            self._bury(connection)
            if following is not None:
                self._launch(following)
            return number, Failure(_death(process.exitcode), "")
        if not started:
            raise outcome.error from RuntimeError(f"in a process of its own:\n{outcome.trace}")
        if following is None:
            process.kill()  # idle for good
            self._bury(connection)
        else:
            self._workers[connection] = process, following
            self._send(connection, following)
        return number, outcome

    def _bury(self, connection: Connection) -> None:
        process, _ = self._workers[connection]
        if process.pid is not None:
            process.join()
        connection.close()
        del self._workers[connection]


def _serve(connection: Connection, start: Start[Task, Result]) -> None:
    """A worker's life: tasks in, `(started, outcome)` out, until the other end is closed."""
    for number in SIGNALS:  # they go to all processes of a terminal; the first one answers; see `later_signals`
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        work = start()
    except Exception as error:
        connection.send((False, _failure(error)))
        return
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send((True, _outcome(work, connection.recv())))


def end_with_parent() -> None:
    """End this process at once when its parent has died: the whole work of a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _outcome(work: Callable[[Task], Result], task: Task) -> Result | Failure:
    try:
        return work(task)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> Failure:
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, trace)


def _death(code: int | None) -> SepctlError:
    return SepctlError(f"its process died: {cause(code)}", hint=remedy(code) or "try it alone, with --jobs 1")


def cause(code: int | None) -> str:
    """Of a process's death, from its exit code."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def remedy(code: int | None) -> str:
    """Of what the system does to processes where memory runs out; else empty."""
    return "out of memory? use fewer --jobs" if code == -getattr(signal, "SIGKILL", 9) else ""


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Where a process is started: raises `ResourceError` where the system has no room for it, or for its files."""
    try:
        yield
    except OSError as error:
        fact = f"no further process can be started: {error.strerror or error}"
        raise ResourceError(fact, hint="use fewer --jobs") from error


@contextlib.contextmanager
def few_threads(threads: int) -> Iterator[None]:
    """Children started meanwhile find the number in their environment, before they import anything that reads it."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def later_signals() -> Iterator[None]:
    """Children started meanwhile are deaf to `SIGNALS` from their first moment on; here none is lost, only late."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else `Process.start` does, and unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_signals() -> None:
    """In a child started in `later_signals`, once it knows what to do: hear them again."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
