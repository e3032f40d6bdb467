"""A plan and those who work on it: who gets which song, what happens when one of them fails, and who tries again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from separator.audio.place import sweep
from separator.batch.plan import Task
from separator.batch.worker import Broken, Ending, Failure, Heard, Loading, Message, Ready, Started
from separator.errors import ResourceError, SepctlError

GRACE_S = 5.0       # for a worker that is told to end, before it is killed
LOST_AT_START = 3   # workers that die in a row while they load the model: then it is not the songs


@dataclass(frozen=True)
class Begun:
    """A worker is at the song itself."""

    task: Task
    attempt: int


@dataclass(frozen=True)
class Underway:
    """So many seconds of the song are written, of so many if known."""

    task: Task
    done_s: float
    total_s: float | None


@dataclass(frozen=True)
class Ended:
    """The song is done, skipped or failed, for good unless `again`."""

    task: Task
    attempt: int
    ending: Ending
    again: bool = False


Event = Begun | Underway | Ended


class Engine(Protocol):
    """A way of running a plan. Every task ends exactly once for good, unless `drain` was called before it began."""

    def run(self, tasks: Sequence[Task]) -> Generator[Event, None, None]:
        """Work on `tasks`, handed out in their order. Closing the generator stops everything and leaves no half file.

        Raises SepctlError where no song can be split at all, because the model cannot be loaded or no process started.
        """
        ...

    def drain(self) -> None:
        """Begin no more songs; those in work are finished. May be called from a signal handler."""
        ...


class Died(Exception):
    """A worker; why, as far as one knows."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.cause, self.hint = cause, hint


class Worker(ABC):
    """A process somewhere, and the task it is at."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.attempt = 0
        self.deadline: float | None = None
        self.loading = True         # torch, and later the model: that takes its time, but not the song's
        self.ended = False

    def give(self, task: Task, attempt: int, timeout_s: float | None) -> None:
        self.task, self.attempt = task, attempt
        self.deadline = None if self.loading else _deadline(timeout_s)
        self.send(task)

    def buried(self) -> None:
        """It has ended: remove what it left half-written, where it left that on this machine."""
        self.ended = True
        if self.task is not None:
            for folder in {path.parent for path in self.task.paths.values()}:
                sweep(folder)
        self.task = None

    @abstractmethod
    def available(self) -> bool:
        """Whether a task may be given to it. Raises Died."""

    @abstractmethod
    def send(self, task: Task) -> None: ...

    @abstractmethod
    def messages(self) -> Iterator[Message]:
        """What it has said since, without waiting. Raises Died."""

    @abstractmethod
    def stop(self) -> None:
        """Let it end: at once if it is idle, else as soon as it has cleaned up."""

    @abstractmethod
    def end(self) -> None:
        """See that it has ended, and that none of its half-written files is left."""


W = TypeVar("W", bound=Worker)


class Crew(ABC, Generic[W]):
    """`Engine` of `jobs` workers, wherever they are.

    A task that takes longer than `timeout_s`, without the start of its process and the loading of the model, is ended
    with its process; one that ends so, or kills its process, or finds too little memory, is tried again up to
    `retries` times after all others. Whatever it is, a fresh process goes on with the next task.
    """

    def __init__(self, jobs: int, threads: int, timeout_s: float | None, retries: int) -> None:
        self.jobs, self.threads, self.timeout_s, self.retries = jobs, threads, timeout_s, retries
        self._draining = False
        self._lost_at_start = 0
        self._queue: deque[tuple[Task, int]] = deque()      # tasks and attempts

    @abstractmethod
    def hire(self, place: int) -> W:
        """A new worker for that place among the jobs."""

    @abstractmethod
    def wait(self, workers: Sequence[W], timeout_s: float | None) -> None:
        """Until one of them has said something, has died, or has become available."""

    def drain(self) -> None:
        self._draining = True

    def run(self, tasks: Sequence[Task]) -> Generator[Event, None, None]:
        self._queue = deque((task, 1) for task in tasks)
        workers: dict[int, W] = {}                  # by their place among the jobs
        try:
            while True:
                for place in range(min(self.jobs, len(self._queue) + len(workers))):
                    if self._queue and not self._draining:
                        self._hand_out(place, workers)
                busy = [worker for worker in workers.values() if worker.task is not None]
                if not busy and (self._draining or not self._queue):
                    return
                hired = [worker for worker in workers.values() if not worker.ended]
                self.wait(hired if self._queue and not self._draining else busy, _time_left(busy))
                for worker in busy:
                    yield from self._listen(worker)
        finally:
            end_all(workers.values())

    def _hand_out(self, place: int, workers: dict[int, W]) -> None:
        worker = workers.get(place)
        if worker is None or worker.ended:
            worker = workers[place] = self.hire(place)
        try:
            if worker.task is None and worker.available():
                worker.give(*self._queue.popleft(), self.timeout_s)
        except Died as died:
            worker.end()
            self._count_lost(died.cause)

    def _listen(self, worker: W) -> Iterator[Event]:
        """What a worker has said since, and whether its time is up."""
        assert worker.task is not None
        task, attempt = worker.task, worker.attempt
        try:
            for message in worker.messages():
                if isinstance(message, Ready):
                    worker.loading, worker.deadline = False, _deadline(self.timeout_s)
                elif isinstance(message, Loading):
                    worker.loading, worker.deadline = True, None
                elif isinstance(message, Started):
                    worker.loading, self._lost_at_start = False, 0
                    worker.deadline = _deadline(self.timeout_s)
                    yield Begun(task, attempt)
                elif isinstance(message, Heard):
                    yield Underway(task, message.done_s, message.total_s)
                elif isinstance(message, Broken):
                    failure = message.failure
                    if failure.exit_code != ResourceError.exit_code:
                        raise failure.error()
                    end_all([worker])           # where another has found memory enough, that one goes on
                    self._count_lost(failure.fact, ResourceError)
                    yield self._ended(task, attempt, replace(failure, again=True))
                    return
                else:
                    worker.task = None
                    if isinstance(message, Failure) and message.again:
                        end_all([worker])           # its memory may be in pieces
                    yield self._ended(task, attempt, message)
                    return
        except Died as died:
            worker.end()
            if worker.loading:
                self._count_lost(died.cause)
            fact = f"the process that split {task.song.name} died: {died.cause}"
            yield self._ended(task, attempt, Failure("Crash", fact, died.hint, again=True))
            return
        if worker.deadline is not None and time.monotonic() > worker.deadline:
            end_all([worker])
            fact = f"{task.song.name} took longer than {self.timeout_s:g} s"
            yield self._ended(task, attempt, Failure("Timeout", fact, "--timeout allows more", again=True))

    def _count_lost(self, cause: str, kind: type[SepctlError] = SepctlError) -> None:
        """Raises SepctlError of that kind if it is not the songs that workers die of."""
        self._lost_at_start += 1
        if self._lost_at_start >= LOST_AT_START:
            raise kind(f"{LOST_AT_START} processes in a row died while they loaded the model: {cause}",
                       hint="sepctl doctor; is there memory enough?")

    def _ended(self, task: Task, attempt: int, ending: Ending) -> Ended:
        again = (isinstance(ending, Failure) and ending.again and attempt <= self.retries
                 and not task.song.is_stream and not self._draining)
        if again:
            self._queue.append((replace(task, redo=True), attempt + 1))     # its stems may be there, unreported
        return Ended(task, attempt, ending, again)


def end_all(workers: Iterable[Worker]) -> None:
    """All are told before any is waited for."""
    alive = [worker for worker in workers if not worker.ended]
    for worker in alive:
        worker.stop()
    for worker in alive:
        worker.end()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _time_left(workers: Sequence[Worker]) -> float | None:
    deadlines = [worker.deadline for worker in workers if worker.deadline is not None]
    return max(0.0, min(deadlines) - time.monotonic()) + 0.01 if deadlines else None
