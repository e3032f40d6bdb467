"""`sepctl split --dry-run`: the plan, and what it would take."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from separator.batch.engine import Crew
from separator.batch.estimate import SECONDS, speed
from separator.batch.plan import Task
from separator.batch.worker import Splitter
from separator.cli.events import SCHEMA, Json
from separator.cli.text import shown
from separator.jobs import Job
from separator.remote import Url
from separator.separate import Separator
from separator.split import free_bytes


def show(todo: Sequence[Task], finished: Sequence[Task], job: Job, work: Splitter, crew: Crew[Any], *,
         as_json: bool) -> None:
    """Print it on stdout. Loads the model, for the estimate of the time."""
    known_s = [task.duration_s for task in todo if task.duration_s is not None]
    need = sum(task.need_bytes or 0 for task in todo)
    free = None if isinstance(job.out, Url) else free_bytes(job.out)
    at_once = min(crew.jobs, len(todo)) or 1
    x = speed(Separator.load(work.model, **work.options), crew.threads) * at_once if todo else 0.0
    estimate_s = sum(known_s) / x if x else 0.0
    if as_json:
        Json().planned(todo)
        click.echo(json.dumps({
            "schema": SCHEMA, "event": "summary", "dry_run": True, "songs": len(todo) + len(finished),
            "skipped": len(finished), "duration_s": sum(known_s), "unknown_durations": len(todo) - len(known_s),
            "need_bytes": need, "free_bytes": free, "x_real_time": round(x, 2), "estimate_s": round(estimate_s, 1)}))
        return
    for task in todo:
        stems = sorted({os.path.splitext(path.name)[0] if path.stem in job.stems else path.name
                        for path in task.paths.values()})
        where = type(job.out)(os.path.commonpath([path.parent for path in task.paths.values()]))
        to = f"{shown(str(where))}/{{{','.join(stems)}}}"
        click.echo(f"{_clock(task.duration_s):>8}  {shown(task.song.name)} -> {to}")
    unknown = f", {len(todo) - len(known_s):,} of unknown length" if len(known_s) < len(todo) else ""
    click.echo(f"{len(todo):,} songs to split, {len(finished):,} finished already: "
               f"{_clock(sum(known_s))} of audio{unknown}")
    room = "" if free is None else f", {free / 1e9:.2f} GB free in {shown(str(job.out))}"
    click.echo(f"at least {need / 1e9:.2f} GB for the stems{room}")
    click.echo(f"about {_clock(estimate_s)}: {x:.1f} x real time, estimated from {SECONDS:g} s of noise "
               f"(workers: {at_once}, threads each: {crew.threads})")


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
