"""The stream is the same, it is computed early but not too early, and no thread outlives its generator."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from separator.dsp.ahead import ahead, behind, unwanted


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


class Source:
    """Counts upwards, and remembers what was done to it."""

    def __init__(self, count: int, error_at: int | None = None) -> None:
        self.count, self.error_at = count, error_at
        self.made = 0
        self.closed_in: str | None = None
        self.reached = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        try:
            for k in range(self.count):
                if k == self.error_at:
                    raise RuntimeError(f"no item {k}")
                with self.reached:
                    self.made += 1
                    self.reached.notify_all()
                yield k
        finally:
            self.closed_in = threading.current_thread().name

    def wait(self, made: int, timeout: float = 5.0) -> bool:
        with self.reached:
            return self.reached.wait_for(lambda: self.made >= made, timeout)


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_the_stream_is_the_same(depth: int, count: int) -> None:
    source = Source(count)
    assert list(ahead(source, depth)) == list(range(count))
    assert source.closed_in == "ahead"


@pytest.mark.parametrize("depth", [1, 3])
def test_the_producer_runs_ahead_by_depth_and_no_further(depth: int) -> None:
    source = Source(100)
    stream = ahead(source, depth)
    assert next(stream) == 0
    assert source.wait(1 + depth)
    assert not source.wait(2 + depth, timeout=0.05)
    stream.close()


def test_an_error_follows_the_items_before_it() -> None:
    stream = ahead(Source(10, error_at=3))
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="no item 3") as caught:
        next(stream)
    assert caught.traceback[-1].name == "__iter__"          # where it really happened
    assert list(stream) == []


def test_an_error_before_the_first_item() -> None:
    with pytest.raises(TypeError):
        next(ahead(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("consumed", [1, 5])
def test_closing_stops_the_producer_and_closes_the_source(consumed: int) -> None:
    source = Source(10**9)
    stream = ahead(source)
    for _ in range(consumed):
        next(stream)
    stream.close()
    assert source.closed_in == "ahead"
    assert source.made <= consumed + 3


def test_a_source_that_others_hold_is_closed_as_well() -> None:
    source = Source(10**9)
    held = iter(source)
    stream = ahead(held)
    next(stream)
    stream.close()
    assert source.closed_in == "ahead"
    assert list(held) == []


def test_a_producer_that_waits_for_ever_is_told_to_stop() -> None:
    def wait() -> Iterator[int]:
        yield 0
        while not unwanted():
            time.sleep(0.01)
        raise InterruptedError

    assert not unwanted()
    stream = ahead(wait())
    assert next(stream) == 0
    stream.close()                                          # and the thread has ended
    assert not unwanted()


def test_an_abandoned_stream_stops_too() -> None:
    source = Source(10**9)
    stream = ahead(source)
    next(stream)
    del stream
    gc.collect()
    assert source.closed_in == "ahead"


def test_an_error_at_the_consumer_stops_the_producer() -> None:
    source = Source(10**9)

    def consume() -> None:
        for k in ahead(source):
            if k == 2:
                raise KeyError(k)

    with pytest.raises(KeyError):
        consume()
    gc.collect()
    assert source.closed_in == "ahead"


def test_two_can_be_chained() -> None:
    source = Source(10**9)
    stream = ahead(k * k for k in ahead(source))
    assert [next(stream) for _ in range(4)] == [0, 1, 4, 9]
    stream.close()
    assert source.closed_in == "ahead"


def test_a_stream_never_started_starts_no_thread() -> None:
    ahead(Source(3))


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth"):
        next(ahead([], 0))


def test_behind_consumes_everything_in_order_in_another_thread() -> None:
    got: list[tuple[int, int]] = []
    with behind(lambda item: got.append((item, threading.get_ident())), depth=2) as put:
        for item in range(50):
            put(item)
    assert [item for item, _ in got] == list(range(50))
    assert {ident for _, ident in got} != {threading.get_ident()}


def test_behind_lets_only_so_many_items_wait() -> None:
    gate, handed = threading.Event(), []

    def producer() -> None:
        with behind(lambda _: gate.wait(30), depth=2) as put:
            for item in range(10):
                put(item)
                handed.append(item)

    thread = threading.Thread(target=producer)
    thread.start()
    time.sleep(0.3)
    assert len(handed) == 3                                 # one in work, two waiting
    gate.set()
    thread.join(30)
    assert len(handed) == 10


@pytest.mark.parametrize("at", [0, 5, 9])
def test_an_error_behind_reaches_the_producer_and_what_waits_is_dropped(at: int) -> None:
    got: list[int] = []

    def consume(item: int) -> None:
        if item == at:
            raise OSError("the disk is full")
        got.append(item)

    def produce() -> None:
        with behind(consume) as put:
            for item in range(10):
                put(item)

    with pytest.raises(OSError, match="disk is full"):
        produce()
    assert got == list(range(at))


def test_an_error_before_drops_what_waits_and_ends_the_thread() -> None:
    gate, got = threading.Event(), []

    def consume(item: int) -> None:
        gate.wait(30)
        got.append(item)

    def produce() -> None:
        with behind(consume, depth=3) as put:
            for item in range(3):
                put(item)
            opener.start()
            raise KeyboardInterrupt

    opener = threading.Timer(0.2, gate.set)
    with pytest.raises(KeyboardInterrupt):
        produce()
    opener.join()
    assert got in ([0], [])                                 # the item in work, if it was taken already
