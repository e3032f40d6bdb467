"""Work ahead and behind: the producer, or the consumer, of a stream runs in a thread of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import Queue, SimpleQueue
from threading import Event, Semaphore, Thread, local
from typing import Generic, TypeVar

T = TypeVar("T")
PATIENCE_MS = 200   # how long a stalled pipe is waited for before asking whether anything is still wanted of it
_here = local()     # of a thread that works ahead or behind: `stopped`, an Event


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def unwanted() -> bool:
    """Whether what the calling thread works at is for nobody: it works ahead or behind, and was asked to stop.

    For work that may wait for ever: it is to ask now and then, and to raise where the answer is yes.
    """
    stopped: Event | None = getattr(_here, "stopped", None)
    return stopped is not None and stopped.is_set()


def ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Iterate over `items` in a background thread that is at most `depth` items ahead of the consumer.

    The thread starts with the first `next`. An exception of `items` is raised at the consumer, after the items before
    it and with its own traceback. When the returned generator is closed, or collected, the thread finishes the item it
    is at (which may ask whether it is `unwanted`), closes `items` if that can be closed, and has ended before the call
    returns.

    Raises ValueError for a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1 (got {depth})")
    ready: SimpleQueue[_Item[T] | _End] = SimpleQueue()
    free = Semaphore(depth)             # places that the producer may still fill
    stopped = Event()
    thread = Thread(target=_produce, args=(items, ready, free, stopped), name="ahead", daemon=True)
    thread.start()
    try:
        while isinstance(entry := ready.get(), _Item):
            free.release()
            yield entry.value
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        free.release()                  # wakes a producer that waits for a place
        thread.join()


def _produce(items: Iterable[T], ready: SimpleQueue[_Item[T] | _End], free: Semaphore, stopped: Event) -> None:
    """Put every item, then an end that carries the error, if any. Takes a place before it computes an item."""
    error: BaseException | None = None
    _here.stopped = stopped
    try:
        source = iter(items)
        try:
            while free.acquire() and not stopped.is_set():
                ready.put(_Item(next(source)))
        except StopIteration:
            pass
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
    except BaseException as caught:     # whatever it is, it belongs to the consumer
        error = caught
    ready.put(_End(error))


@contextlib.contextmanager
def behind(consume: Callable[[T], None], depth: int = 2) -> Iterator[Callable[[T], None]]:
    """Yield a function that hands items to `consume` in a background thread, of which at most `depth` wait.

    An exception of `consume` is raised by the next hand-over, or at the end, and what waits then is dropped. At the end
    everything is consumed; after an exception in the `with` block nothing more is than the item in work. Either way the
    thread has ended before the block does.
    """
    waiting: Queue[_Item[T] | _End] = Queue(depth)
    dropping = Event()
    errors: list[BaseException] = []

    def work() -> None:
        _here.stopped = dropping
        while isinstance(entry := waiting.get(), _Item):
            if not dropping.is_set():
                try:
                    consume(entry.value)
                except BaseException as error:  # whatever it is, it belongs to the producer
                    errors.append(error)
                    dropping.set()

    def hand_over(item: T) -> None:
        if errors:
            raise errors[0]
        waiting.put(_Item(item))

    thread = Thread(target=work, name="behind", daemon=True)
    thread.start()
    try:
        yield hand_over
    except BaseException:
        dropping.set()
        raise
    finally:
        waiting.put(_End(None))
        thread.join()
    if errors:
        raise errors[0]
