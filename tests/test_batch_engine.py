"""Worker processes: whatever one of them does, its song alone pays, and a fresh process goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from batchworks import Acting, tasks

from separator import parallel
from separator.batch import engine
from separator.batch.engine import Begun, Ended
from separator.batch.plan import Task
from separator.batch.pool import Pool
from separator.batch.worker import Failure, Outcome, Skip, Splitter
from separator.errors import ModelError, ResourceError, SepctlError, UsageError
from separator.jobs import Job, Song, outputs
from separator.modelfile import file_sha256
from separator.separate import Separator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def acting(tmp_path: Path) -> Acting:
    return Acting(tmp_path)


def endings(events: list[engine.Event]) -> dict[str, tuple[int, str]]:
    """What became of each song: attempts, and "ok" or the kind of failure. Each ends for good once."""
    final = [event for event in events if isinstance(event, Ended) and not event.again]
    found = {event.task.song.path.stem: (event.attempt, "ok" if isinstance(event.ending, Skip) else event.ending.kind)
             for event in final}
    assert len(found) == len(final)
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_each_song_pays_for_itself(acting: Acting) -> None:
    songs = tasks("ok-1", "crash", "ok-2", "bad", "bug", "memory-once", "ok-3")
    songs[1] = replace(songs[1], paths={"bass": acting.folder / "bass.wav"})
    events = list(Pool([acting], jobs=1, retries=1).run(songs))
    assert endings(events) == {
        "ok-1": (1, "ok"), "ok-2": (1, "ok"), "ok-3": (1, "ok"), "bad": (1, "AudioError"),
        "bug": (1, "ZeroDivisionError"), "crash": (2, "Crash"), "memory-once": (2, "ok")}
    words = [word for _, word in acting.notes() if word != "opened"]
    assert words == ["ok-1", "crash", "ok-2", "bad", "bug", "memory-once", "ok-3",     # in order, then again
                     "crash", "memory-once"]
    facts = {event.task.song.path.stem: event.ending for event in events
             if isinstance(event, Ended) and isinstance(event.ending, Failure)}
    assert facts["crash"].fact == "the process that split crash.wav died: SIGSEGV"
    assert (facts["bug"].bug, "ZeroDivisionError: division by zero" in facts["bug"].traceback) == (True, True)
    assert (facts["bad"].fact, facts["bad"].hint, facts["bad"].exit_code) == ("bad song", "get another", 5)
    assert (facts["memory-once"].kind, facts["memory-once"].exit_code) == ("ResourceError", 6)
    opened = [pid for pid, word in acting.notes() if word == "opened"]
    assert len(opened) == len(set(opened)) == 4     # one, and one after each crash and lack of memory
    assert not any(map(alive, opened))
    assert not list(acting.folder.glob(".*.part"))      # what the crash left half-written


def test_a_song_that_hangs_is_ended_and_tried_again(acting: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that does not hear SIGTERM. The other worker is not disturbed."""
    monkeypatch.setattr(engine, "GRACE_S", 0.2)
    events = list(Pool([acting], jobs=2, timeout_s=4, retries=0).run(tasks("deaf", "ok-1", "slow-1", "ok-2")))
    assert endings(events) == {"deaf": (1, "Timeout"), "slow-1": (1, "ok"), "ok-1": (1, "ok"), "ok-2": (1, "ok")}
    failure = next(event.ending for event in events if isinstance(event, Ended) and isinstance(event.ending, Failure))
    assert failure.fact == "deaf.wav took longer than 4 s"
    assert not any(alive(pid) for pid, _ in acting.notes())


def test_two_workers_share_the_songs_and_each_opens_once(acting: Acting) -> None:
    songs = tasks(*(f"slow-{number}" for number in range(4)))
    assert endings(list(Pool([acting], jobs=2).run(songs))) == {task.song.path.stem: (1, "ok") for task in songs}
    by_process: dict[int, list[str]] = {}
    for pid, word in acting.notes():
        by_process.setdefault(pid, []).append(word)
    assert len(by_process) == 2
    assert all(words[0] == "opened" and words.count("opened") == 1 for words in by_process.values())
    assert sorted(word for words in by_process.values() for word in words[1:]) == [t.song.path.stem for t in songs]


def test_a_model_that_does_not_load_ends_the_run(acting: Acting) -> None:
    with pytest.raises(SepctlError, match="the model is broken\n  hint: get another") as caught:
        list(Pool([acting]).run(tasks("load", "ok")))
    assert caught.value.exit_code == 4
    assert [word for _, word in acting.notes()] == ["opened", "load"]


def test_processes_that_die_while_the_model_loads_end_the_run(acting: Acting) -> None:
    with pytest.raises(SepctlError, match="3 processes in a row died while they loaded the model: SIGSEGV"):
        list(Pool([acting], retries=5).run(tasks("load-crash", "ok")))
    assert not any(alive(pid) for pid, _ in acting.notes())


def test_too_little_memory_for_one_model_costs_that_worker_alone(acting: Acting) -> None:
    events = list(Pool([acting], jobs=2, retries=1).run(tasks("slow-1", "load-memory-once", "ok-1")))
    assert endings(events) == {"slow-1": (1, "ok"), "load-memory-once": (2, "ok"), "ok-1": (1, "ok")}
    failure = next(event.ending for event in events if isinstance(event, Ended) and isinstance(event.ending, Failure))
    assert (failure.kind, failure.fact, failure.exit_code) == ("ResourceError", "out of memory", 6)
    assert not any(alive(pid) for pid, _ in acting.notes())


def test_too_little_memory_for_any_model_ends_the_run(acting: Acting) -> None:
    with pytest.raises(ResourceError, match="3 processes in a row died while they loaded the model: out of memory"):
        list(Pool([acting], retries=5).run(tasks("load-memory", "ok")[:1]))
    assert not any(alive(pid) for pid, _ in acting.notes())


def test_a_system_without_room_for_processes_is_told_and_leaves_none(
    acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parallel.SpawnProcess.start
    launched: list[SpawnProcess] = []

    def start_one(process: SpawnProcess) -> None:
        if launched:
            raise OSError(24, "Too many open files")
        launched.append(process)
        real(process)

    monkeypatch.setattr(parallel.SpawnProcess, "start", start_one)
    with pytest.raises(ResourceError, match="started: Too many open files\n.*fewer --jobs"):
        list(Pool([acting], jobs=2).run(tasks("hang", "ok")))
    assert launched and not multiprocessing.active_children()


def test_a_retry_makes_again_what_was_finished_but_never_told(tmp_path: Path, tiny_model: Path) -> None:
    """The worker died after the renames: its stems are this song's and no reason to refuse; others' files are one."""
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).standard_normal((4000, 2)) * 0.1, 8000)
    song = Song(tmp_path / "song.wav")
    stems = ("vocals", "drums", "bass", "other")
    job = Job(stems=stems, model="tiny", sha256=file_sha256(tiny_model), out=tmp_path / "stems")
    task = Task(1, song, outputs(song, job))
    work = Splitter(tiny_model, {"device": "cpu"}, job)()
    first = work(task, lambda _: None)
    with pytest.raises(UsageError, match="exists"):
        work(task, lambda _: None)

    crew = Pool([], retries=1)
    assert crew._ended(task, 1, Failure("Crash", "", again=True)).again
    (again, attempt), = crew._queue
    assert attempt == 2
    second = work(again, lambda _: None)
    assert isinstance(first, Outcome) and isinstance(second, Outcome) and second.hashes == first.hashes
    task.paths["bass"].write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"bass\.wav exists, but was not made from"):
        work(again, lambda _: None)
    assert task.paths["bass"].read_bytes() == b"mine"


def test_a_model_that_changes_while_a_batch_runs_is_not_loaded(tmp_path: Path, tiny_model: Path) -> None:
    """Its stems would tell the SHA-256 of the other."""
    with pytest.raises(ModelError, match=r"tiny\.safetensors has changed since this run began"):
        Separator.load(tiny_model, sha256="0" * 64)
    assert Separator.load(tiny_model, sha256=file_sha256(tiny_model)).card.name == "tiny"


def test_drain_finishes_what_is_begun_and_begins_nothing(acting: Acting) -> None:
    crew, events = Pool([acting], jobs=1), []
    for event in crew.run(tasks("ok-1", "slow-1", "ok-2")):
        events.append(event)
        if isinstance(event, Begun) and event.task.number == 2:
            crew.drain()
    assert endings(events) == {"ok-1": (1, "ok"), "slow-1": (1, "ok")}


def test_closing_stops_at_once(acting: Acting) -> None:
    running = Pool([acting], jobs=1).run(tasks("hang", "ok"))
    assert isinstance(next(running), Begun)
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < engine.GRACE_S      # by SIGTERM, which it hears
    assert not any(alive(pid) for pid, _ in acting.notes())
    assert [word for _, word in acting.notes()] == ["opened", "hang"]


def test_a_worker_does_not_outlive_its_parent(acting: Acting) -> None:
    """Not even one that hangs, when the parent is killed without a word."""
    code = ("from batchworks import Acting, tasks; from pathlib import Path; from separator.batch.pool import Pool\n"
            f"for event in Pool([Acting(Path({str(acting.folder)!r}))]).run(tasks('hang')): print(flush=True)")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        parent.stdout.readline()
    parent.kill()
    parent.wait()
    (pid, _), _ = acting.notes()
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def test_a_stream_is_not_tried_again(acting: Acting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be read once."""
    monkeypatch.chdir(tmp_path)
    crash, = tasks("crash")
    crew, failure = Pool([acting], retries=3), Failure("Crash", "", again=True)
    assert crew._ended(crash, 1, failure).again
    os.mkfifo("crash.wav")
    assert not crew._ended(crash, 1, failure).again


@pytest.mark.parametrize(("asked", "jobs", "threads"), [("4", 2, 2), ("1", 4, 1), ("", 1, None), ("0", 1, None)])
def test_threads_are_never_more_than_cores(
    asked: str, jobs: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert Pool([], jobs=jobs).threads == (threads or 8 // jobs)
