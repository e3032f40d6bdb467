"""`sepctl split` with many songs: plan, worker processes, manifest, and what Ctrl-C does to them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from separator.batch.cluster import Cluster, connect
from separator.batch.engine import Begun, Ended, Engine, Event, Underway
from separator.batch.inputs import MANIFESTS
from separator.batch.manifest import Manifest, is_manifest, latest, open_manifest
from separator.batch.plan import Task, check_space, finished_by, make, settle, sweep_leftovers, unhashed
from separator.batch.pool import Pool, share
from separator.batch.records import recorded
from separator.batch.shard import Shard
from separator.batch.worker import Failure, Outcome, Skip, Splitter
from separator.cli import VERBOSE, tell_stopping
from separator.cli.dryrun import show
from separator.cli.events import Events, HumanBatch, Json
from separator.errors import Interrupted, SepctlError
from separator.jobs import Job, Song


@dataclass(frozen=True)
class Batch:
    """What is to be done here, what is finished already, and how."""

    todo: Sequence[Task]
    finished: Sequence[Task]
    job: Job

    @property
    def songs(self) -> int:
        return len(self.todo) + len(self.finished)


def run_batch(songs: Sequence[Song], named: Collection[Path], job: Job, model: Path, loading: dict[str, Any],
              options: dict[str, Any]) -> None:
    """Split all `songs` that are this shard's; raises SepctlError if any failed, and Interrupted after a Ctrl-C."""
    shard = Shard(*(options["shard"] or (1, 1)))
    path: Path = options["manifest"] or job.out / shard.manifest
    tasks = make(songs, job, named=named, shard=shard)
    works = [Splitter(model, {**loading, "device": device}, job) for device in _devices(loading["device"], options)]
    if options["dry_run"]:
        batch = _settled(tasks, path, job, options)
        with _crew(works, len(batch.todo), options) as crew:
            show(batch.todo, batch.finished, job, works[0], crew, as_json=options["as_json"])
        if not options["skip_existing"]:    # how much that leaves to do is known song by song only
            check_space(batch.todo, job)
        return
    if not job.skip_existing:           # all is to be done: known before anything is made
        check_space(tasks, job)
    events: Events = Json() if options["as_json"] else HumanBatch(quiet=options["quiet"])
    with open_manifest(path) as manifest:       # only now: while another run writes it, who knows what is finished
        batch = _settled(tasks, path, job, options)
        if options["resume"]:
            sweep_leftovers(tasks)
            check_space(batch.todo, job)
        with _crew(works, len(batch.todo), options) as crew:
            _run(batch, crew, manifest, events)


@contextlib.contextmanager
def _crew(works: Sequence[Splitter], songs: int, options: dict[str, Any]) -> Iterator[Pool | Cluster]:
    """Those who do the work, here or on a cluster."""
    retries = 1 if options["retries"] is None else options["retries"]
    if options["engine"] != "ray":
        jobs, threads = options["jobs"] or len(works), None
        if options["jobs"] is None and works[0].options["device"] == "cpu":
            jobs, threads = share(songs)
        yield Pool(works, jobs=jobs, threads=threads, timeout_s=options["timeout"], retries=retries)
        return
    with connect(options["address"]):
        yield Cluster(works[0], jobs=options["jobs"], cuda=works[0].options["device"] == "cuda",
                      timeout_s=options["timeout"], retries=retries)


def _settled(tasks: Sequence[Task], manifest: Path, job: Job, options: dict[str, Any]) -> Batch:
    """What the manifests leave to do."""
    if not job.skip_existing:
        return Batch(tasks, (), job)
    if options["manifest"] is None:
        manifests = sorted(filter(is_manifest, job.out.glob(MANIFESTS)))     # not those of other programs
    else:
        manifests = [manifest] if manifest.exists() else []
    records = latest(manifests, finished_by(job, tasks))
    todo, finished = settle(tasks, records, job, resume=options["resume"], verify=options["verify"])
    if options["verify"]:
        todo = unhashed(todo, records, job)
    return Batch(todo, finished, job)


def _devices(chosen: str, options: dict[str, Any]) -> list[str]:
    """One for each worker that is started if nobody says how many: every CUDA device, unless one is named.

    Ray shows each actor its own device only.
    """
    if chosen != "cuda" or options["engine"] == "ray":
        return [chosen]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _run(batch: Batch, engine: Engine, manifest: Manifest, events: Events) -> None:
    started = time.perf_counter()
    counts = {"done": 0, "skipped": 0, "failed": 0}
    try:
        events.planned(sorted([*batch.finished, *batch.todo], key=lambda task: task.number))
        for task in batch.finished:
            events.skipped(task.song)
            counts["skipped"] += 1
        with _first_interrupt_drains(engine):
            _follow(batch, engine, manifest, events, counts)
    finally:
        events.stopped()
    left = batch.songs - sum(counts.values())
    events.summary({**counts, **({"not begun": left} if left else {})}, time.perf_counter() - started)
    if left:
        raise Interrupted(f"interrupted before {left:,} of {batch.songs:,} songs",
                          hint=f"the same command{'' if batch.job.skip_existing else ' with --resume'} goes on")
    if counts["failed"]:
        raise SepctlError(f"{counts['failed']:,} of {batch.songs:,} songs failed, listed in {manifest.path}",
                          hint=f"sepctl report --failed {manifest.path}")


def _follow(batch: Batch, engine: Engine, manifest: Manifest, events: Events, counts: dict[str, int]) -> None:
    with contextlib.closing(recorded(engine.run(batch.todo), batch.job, manifest)) as happening:
        for event in happening:
            _tell(event, events)
            if isinstance(event, Ended) and not event.again:
                counts[_STATUS[type(event.ending)]] += 1


_STATUS = {Outcome: "done", Skip: "skipped", Failure: "failed"}


def _tell(event: Event, events: Events) -> None:
    song = event.task.song
    if isinstance(event, Begun):
        events.started(song)
    elif isinstance(event, Underway):
        events.progress(song, event.done_s, event.total_s)
    elif isinstance(event.ending, Outcome):
        events.done(event.ending.result)
    elif isinstance(event.ending, Skip):
        events.skipped(song)
    else:
        if event.ending.bug or click.get_current_context().meta.get(VERBOSE):
            click.echo(event.ending.traceback, err=True, nl=False)
        (events.again if event.again else events.failed)(song, event.ending.error())


@contextlib.contextmanager
def _first_interrupt_drains(engine: Engine) -> Iterator[None]:
    """The first Ctrl-C lets the songs in work finish, the second stops them; other signals stop them at once."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return

    def drain(number: int, frame: FrameType | None) -> None:
        engine.drain()
        with contextlib.suppress(OSError):
            os.write(2, b"\nfinishing the songs in work; once more to stop now ...\n")
        signal.signal(signal.SIGINT, stop)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        tell_stopping()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
