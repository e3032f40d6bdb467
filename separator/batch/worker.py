"""One process that splits songs: the model loads once, and whatever happens to a song is said, not raised."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from separator import memory
from separator.batch.manifest import state
from separator.batch.plan import Task
from separator.batch.staging import staged
from separator.errors import ResourceError, SepctlError, UsageError
from separator.failures import as_sepctl
from separator.jobs import Job, is_done
from separator.modelfile import file_sha256
from separator.parallel import end_with_parent, heed_signals
from separator.remote import StorageError, publish
from separator.separate import Separator
from separator.split import Progress, SongResult, split_song

PROGRESS_EVERY_S = 0.2      # at most so often, so that a long batch does not drown in messages


@dataclass(frozen=True)
class Outcome:
    """What became of a song that was split: the result, the bytes of its stems, and what it took.

    `size`, `mtime_ns` and `sha256` are the song's before it was read, `peak_memory` in bytes the process's (on Linux,
    while at this song; elsewhere since it started; None where the system does not tell).
    """

    result: SongResult
    sizes: dict[str, int]
    hashes: dict[str, str]
    size: int | None
    mtime_ns: int | None
    sha256: str | None
    peak_memory: int | None


@dataclass(frozen=True)
class Skip:
    """The stems of a song are there already."""


@dataclass(frozen=True)
class Failure:
    """What became of a song that was not split: a `SepctlError` of that `kind`, or a bug of ours.

    `again`: another attempt may go better.
    """

    kind: str
    fact: str
    hint: str = ""
    exit_code: int = 1
    again: bool = False
    bug: bool = False
    traceback: str = ""

    def error(self) -> SepctlError:
        """To raise in another process than the one it happened in."""
        error = SepctlError(self.fact, hint=self.hint)
        error.exit_code = self.exit_code
        return error


@dataclass(frozen=True)
class Ready:
    """The process has started, and turns to its first song."""


@dataclass(frozen=True)
class Loading:
    """The model is being loaded, for the first song: what goes wrong now is not the song's fault."""


@dataclass(frozen=True)
class Started:
    """The song itself is begun."""


@dataclass(frozen=True)
class Heard:
    """So many seconds are written, of so many if known."""

    done_s: float
    total_s: float | None


@dataclass(frozen=True)
class Broken:
    """The model cannot be loaded: no song can be split."""

    failure: Failure


Ending = Outcome | Skip | Failure
Message = Ready | Loading | Started | Heard | Ending | Broken
Tell = Callable[[Message], None]


class Work(Protocol):
    """What a worker does with a song. Raises whatever went wrong."""

    def __call__(self, task: Task, tell: Tell) -> Outcome | Skip: ...


class CannotLoad(Exception):
    """The model; `error` says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Splitter:
    """Everything that a worker has to know, small enough to send anywhere; calling it gives the work.

    `options` are those of `Separator.load`.
    """

    model: Path
    options: dict[str, Any]
    job: Job

    def __call__(self) -> Work:
        return _Splitting(self)


class _Splitting:
    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter
        self._separator: Separator | None = None

    def __call__(self, task: Task, tell: Tell) -> Outcome | Skip:
        song, job = task.song, self._splitter.job
        song.check()
        if task.changed is not None and not job.overwrite:
            raise UsageError(f"{task.changed} is no longer as sepctl wrote it",
                             hint="use --overwrite, or another --out")
        if task.redo and not job.overwrite:
            job = replace(job, skip_existing=True)      # which lets us replace stems that are this work
        if task.replace:
            job = replace(job, overwrite=True, skip_existing=False)
        elif is_done(song, task.paths, job) and not task.redo:
            return Skip()
        separator = self._load(tell)
        tell(Started())
        memory.forget_peak()
        size, mtime_ns = state(song)
        with staged(song, job) as (here, here_job):
            made = split_song(here, separator, here_job, _seldom(tell))
            outcome = Outcome(replace(made, song=song, stems=dict(task.paths)),
                              {stem: path.stat().st_size for stem, path in made.stems.items()},
                              {stem: file_sha256(path) for stem, path in made.stems.items()}, size, mtime_ns,
                              here.sha256, memory.peak_bytes())
            if here_job.out != job.out:
                publish({path: task.paths[stem] for stem, path in made.stems.items()})
        return outcome

    def _load(self, tell: Tell) -> Separator:
        if self._separator is None:
            tell(Loading())
            try:
                self._separator = Separator.load(self._splitter.model, **self._splitter.options)
            except Exception as error:
                raise CannotLoad(error) from error
        return self._separator


def _seldom(tell: Tell) -> Progress:
    last = 0.0

    def progress(done_s: float, total_s: float | None) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            tell(Heard(done_s, total_s))

    return progress


def attempt(work: Work, task: Task, tell: Tell) -> Ending | Broken:
    """Do the work; whatever it raises, but for an interrupt, is a `Failure`, a bug of ours too."""
    try:
        return work(task, tell)
    except CannotLoad as error:
        return Broken(_failure(task, error.error))
    except Exception as error:
        return _failure(task, error)


def _failure(task: Task, error: Exception) -> Failure:
    told = "".join(traceback.format_exception(error))
    known = as_sepctl(error)
    if known is None:
        return Failure(type(error).__name__, f"{task.song.name}: {error!r}",
                       "this is a bug in sepctl; its traceback is above", bug=True, traceback=told)
    cause = error if known is not error else error.__cause__
    starved = known.exit_code == ResourceError.exit_code and isinstance(cause, MemoryError | RuntimeError)
    return Failure(type(known).__name__, known.fact, known.hint, known.exit_code,
                   again=starved or isinstance(known, StorageError), traceback=told)


def serve(connection: Connection, open_work: Callable[[], Work], threads: int, log_level: int) -> None:
    """The main function of a worker process: tasks come in, messages go out, until the connection ends.

    It ends at once when the parent dies, and cleanly, as far as it can, for SIGTERM. Ctrl-C is the parent's to answer.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)            # a process group of its own: the terminal's Ctrl-C does not reach it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)               # stdout is the parent's alone
    logging.getLogger("separator").setLevel(log_level)
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        heed_signals()
        work = open_work()
        connection.send(Ready())
        while True:
            task = connection.recv()
            connection.send(attempt(work, task, connection.send))


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)      # the cleaning up is not to be interrupted
    raise KeyboardInterrupt
