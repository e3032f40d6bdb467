"""Workers on the machines of a Ray cluster: an actor for each group of cores or GPU, the model loaded once in each."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from separator.batch import engine
from separator.batch.engine import Crew, Died, Worker
from separator.batch.plan import Task
from separator.batch.pool import most_threads, processors
from separator.batch.worker import Broken, Failure, Heard, Message, Outcome, Ready, Skip, Work, attempt
from separator.errors import SepctlError, UsageError

log = logging.getLogger(__name__)

HEARD_EVERY_S = 1.0             # an actor tells of its progress: a thousand of them talk to one driver
PATIENCE_S = 60.0               # without any worker, before that is said
STORE_BYTES = 100 * 1024 ** 2   # of a cluster that we start: nothing but messages goes through it


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Join the Ray cluster at `address` (`auto`: the one this machine belongs to), or start one of this machine alone.

    Nothing of Ray comes out on stdout, nothing is reported to its makers. Raises UsageError, SepctlError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")    # without it, a warning
    ray = _ray()
    if address is not None and "://" in address:
        raise UsageError(f"--address {address}: Ray clients are not served",
                         hint="run sepctl on a machine of the cluster (ray job submit -- sepctl split ...)")
    own: dict[str, Any] = {} if address else {"num_cpus": processors(), "include_dashboard": False,
                                              "object_store_memory": STORE_BYTES}
    with _signals_kept():
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            raise SepctlError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}",
                              hint="--address HOST:6379 of its head, as `ray start --head` tells it") from error
    ray._private.worker._worker_logs_enabled = False        # else, and nothing else, the death of a worker is printed
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs the package ray", hint="pip install 'sepctl[ray]'") from error
    return ray


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray answers SIGTERM by its own way out; ours cleans up."""
    numbers = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Share:
    """What each of so many actors takes of its machine."""

    jobs: int
    threads: int
    gpus: float = 0.0


def share(nodes: Sequence[Mapping[str, float]], jobs: int | None, limit: int | None, *, cuda: bool) -> Share:
    """Divide machines, given as Ray's resources of each, among `jobs` actors, or as many as they hold.

    On CPUs the largest groups of cores of which that many fit, never larger than the smallest machine or `limit`;
    on GPUs one each, or equal parts. Raises UsageError where it cannot be.
    """
    if cuda:
        found = [(int(node["GPU"]), int(node.get("CPU", 0))) for node in nodes if node.get("GPU", 0) >= 1]
        total = sum(gpus for gpus, _ in found)
        if not total:
            raise UsageError("--device cuda: the cluster has no GPU", hint="use --device cpu")
        each = -(-(jobs or total) // total)                     # actors on a GPU
        threads = min(cpus // (gpus * each) for gpus, cpus in found)
        return Share(jobs or total, max(1, min(threads, limit or threads)), 1 / each)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus or (jobs or 1) > sum(cpus):
        raise UsageError(f"--jobs {jobs or 1}: the cluster has only {sum(cpus)} processors", hint="use fewer")
    threads = min(*cpus, limit or min(cpus), min(cpus))
    while jobs and sum(each // threads for each in cpus) < jobs:
        threads -= 1
    return Share(jobs or sum(each // threads for each in cpus), threads)


class Cluster(Crew["_Actor"]):
    """`Engine` of `jobs` actors that do `work`, inside of `connect`. Each has one task at a time, none waits there.

    Actors that die, alone or with their machine, are replaced as soon as the cluster has room for new ones. All
    machines see the songs, the model and the stems under the same paths: they share a file system.
    """

    def __init__(self, work: Callable[[], Work], *, jobs: int | None = None, cuda: bool = False,
                 timeout_s: float | None = None, retries: int = 1) -> None:
        self._ray = _ray()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        part = share(nodes, jobs, most_threads(), cuda=cuda)
        super().__init__(part.jobs, part.threads, timeout_s, retries)
        self._work, self._gpus = work, part.gpus

    def hire(self, place: int) -> _Actor:
        made = self._ray.remote(Performer).options(num_cpus=self.threads, num_gpus=self._gpus, max_concurrency=3)
        level = logging.getLogger("separator").getEffectiveLevel()
        return _Actor(self._ray, made.remote(self._work, self.threads, level, os.getcwd()))

    def wait(self, workers: Sequence[_Actor], timeout_s: float | None) -> None:
        nobody = all(worker.task is None for worker in workers)
        heard, _ = self._ray.wait([worker.said for worker in workers], num_returns=1, fetch_local=False,
                                  timeout=PATIENCE_S if nobody else timeout_s)
        if nobody and not heard:
            log.warning("the cluster has had no room for a worker for %.0f s; still waiting", PATIENCE_S)


class _Actor(Worker):
    """The driver's end of a `Performer`."""

    def __init__(self, ray: Any, handle: Any) -> None:
        super().__init__()
        self._ray, self._handle = ray, handle
        self.said = handle.ready.remote()       # or, of a task, the stream of messages

    def available(self) -> bool:
        """An actor that the cluster has no room for yet gets no task: it would be stuck with it."""
        if not self.loading:
            return True
        if not self._ray.wait([self.said], timeout=0)[0]:
            return False
        with self._alive():
            self._ray.get(self.said)
        return True

    def send(self, task: Task) -> None:
        self.said = self._handle.perform.remote(task)

    def messages(self) -> Iterator[Message]:
        with contextlib.suppress(StopIteration):
            while self._ray.wait([self.said], timeout=0)[0]:
                with self._alive():
                    message: Message = self._ray.get(next(self.said))
                yield message

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except self._ray.exceptions.RayError as error:
            raise Died(_cause(error), "out of memory? use fewer --jobs; or was its machine lost?") from error

    def stop(self) -> None:
        if self.task is not None:
            self._handle.stop.remote()

    def end(self) -> None:
        if self.ended:
            return
        if self.task is not None:
            self._ray.wait([self.said.completed()], timeout=engine.GRACE_S)
        self._ray.kill(self._handle)
        self.buried()


class Performer:
    """The actor: a process with the model. Its songs are split in a thread, so that it hears a `stop` meanwhile."""

    def __init__(self, open_work: Callable[[], Work], threads: int, log_level: int, folder: str) -> None:
        import torch

        torch.set_num_threads(threads)
        logging.getLogger("separator").setLevel(log_level)
        self._folder = folder
        self._work = open_work()
        self._stopping = threading.Event()

    def ready(self) -> None:
        """Answers as soon as there is a process."""

    def stop(self) -> None:
        """Give up the song in work, leaving nothing half-written."""
        self._stopping.set()

    def perform(self, task: Task) -> Iterator[Message]:
        """What happens to the song, the last being how it ended."""
        said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._perform, args=(task, said), daemon=True).start()
        yield Ready()
        last_s = 0.0
        while True:
            message = said.get()
            if isinstance(message, Heard):
                if time.monotonic() - last_s < HEARD_EVERY_S:
                    continue
                last_s = time.monotonic()
            yield message
            if isinstance(message, Outcome | Skip | Failure | Broken):
                return

    def _perform(self, task: Task, said: queue.SimpleQueue[Message]) -> None:
        def tell(message: Message) -> None:
            if self._stopping.is_set():
                raise KeyboardInterrupt
            said.put(message)

        try:
            os.chdir(self._folder)
        except OSError:
            said.put(Broken(Failure("SepctlError", f"a machine of the cluster lacks the folder {self._folder}",
                                    "run sepctl in a folder that all of them share")))
            return
        try:
            said.put(attempt(self._work, task, tell))
        except BaseException as error:      # whatever it is, the driver is waiting for an end
            said.put(Failure("Crash", f"{task.song.name}: {error!r}", again=True))


def _cause(error: Exception) -> str:
    """The line of Ray's report that tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "creation task" in lines[0]:
        return lines[-1]        # of a traceback
    return next((line for line in lines if line.startswith("The actor is dead because")), lines[0]).split(". ")[0]
