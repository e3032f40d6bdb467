"""Worker processes of this machine: each loads the model once, and whatever one of them dies of costs one song."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection

from separator import memory
from separator.batch import engine
from separator.batch.engine import Crew, Died, Worker
from separator.batch.plan import Task
from separator.batch.worker import Message, Work, serve
from separator.parallel import cause, few_threads, later_signals, remedy, starting

MOST = 8                        # workers on processors that are started unasked
WORKER_BYTES = 1_500_000_000    # of each: 1.1 GB were measured for the umxhq size, and a third more


def processors() -> int:
    """That this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def most_threads() -> int | None:
    """What OMP_NUM_THREADS says; None if it says nothing."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else None


def cores() -> int:
    """Processors that this process may use; fewer where OMP_NUM_THREADS says so."""
    return min(processors(), most_threads() or processors())


def share(songs: int) -> tuple[int, int]:
    """Workers for so many songs on the processors of this machine, and threads of each.

    Many workers of few threads split more songs in an hour than few of many. The threads depend on the machine alone,
    for other numbers of threads give other last bits; the workers also on the songs and on the memory that is free.
    """
    most = min(cores(), MOST)
    free = memory.available_bytes()
    fit = 1 if free is None else free // WORKER_BYTES
    return max(min(most, songs, fit), 1), cores() // most


class Pool(Crew["_Process"]):
    """`Engine` of `jobs` processes with `threads` each. `works[k % len(works)]` is what the k-th of them does."""

    def __init__(self, works: Sequence[Callable[[], Work]], *, jobs: int = 1, threads: int | None = None,
                 timeout_s: float | None = None, retries: int = 1) -> None:
        super().__init__(jobs, threads or max(1, cores() // jobs), timeout_s, retries)
        self._works = works

    def hire(self, place: int) -> _Process:
        return _Process(self._works[place % len(self._works)], self.threads)

    def wait(self, workers: Sequence[_Process], timeout_s: float | None) -> None:
        connection.wait([worker.connection for worker in workers], timeout=timeout_s)


class _Process(Worker):
    """One of them, and the connection to it."""

    def __init__(self, work: Callable[[], Work], threads: int) -> None:
        super().__init__()
        context = multiprocessing.get_context("spawn")
        level = logging.getLogger("separator").getEffectiveLevel()
        with starting():
            self.connection, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs, work, threads, level), daemon=True)
            with theirs, few_threads(threads), later_signals():     # theirs alone: their end ends the connection
                self._process.start()

    def available(self) -> bool:
        return True         # what it is given waits until it has started

    def send(self, task: Task) -> None:
        with contextlib.suppress(OSError):          # it died: its connection says so
            self.connection.send(task)

    def messages(self) -> Iterator[Message]:
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError) as error:        # the latter in the middle of a message
            self.end()
            code = self._process.exitcode
            raise Died(cause(code), remedy(code) or "a decoder may have crashed; is the song damaged?") from error

    def stop(self) -> None:
        if self.task is not None:
            self._process.terminate()
        self.connection.close()

    def end(self) -> None:
        if self.ended:
            return
        self._process.join(engine.GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()
        self.buried()
