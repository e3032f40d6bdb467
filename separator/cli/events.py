"""What `sepctl split` tells while it works: for people, or as one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import click
from tqdm import tqdm

from separator.cli.text import shown, shown_lines
from separator.errors import SepctlError
from separator.jobs import Song
from separator.split import SongResult

if TYPE_CHECKING:
    from separator.batch.plan import Task

SCHEMA = 1              # of the JSON objects
PROGRESS_EVERY_S = 1.0  # JSON progress events of one song come at most this often


class Events(Protocol):
    """One method per thing that can happen to a song, and the end of the run."""

    def planned(self, tasks: Sequence[Task]) -> None: ...
    def started(self, song: Song) -> None: ...
    def progress(self, song: Song, done_s: float, total_s: float | None) -> None: ...
    def done(self, result: SongResult) -> None: ...
    def skipped(self, song: Song) -> None: ...
    def failed(self, song: Song, error: SepctlError) -> None: ...
    def again(self, song: Song, error: SepctlError) -> None: ...
    def stopped(self) -> None: ...
    def summary(self, counts: dict[str, int], elapsed_s: float) -> None: ...


class Human:
    """One song: paths of finished stems on stdout, all else on stderr; a progress bar if that is a terminal."""

    def __init__(self, *, quiet: bool, paths: bool) -> None:
        self.quiet, self.paths = quiet, paths
        self.bar: tqdm[Any] | None = None

    def planned(self, tasks: Sequence[Task]) -> None: ...
    def started(self, song: Song) -> None: ...
    def again(self, song: Song, error: SepctlError) -> None: ...
    def summary(self, counts: dict[str, int], elapsed_s: float) -> None: ...

    def progress(self, song: Song, done_s: float, total_s: float | None) -> None:
        if self.quiet or not _is_terminal():
            return
        if self.bar is None:
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
            self.bar = tqdm(total=total_s, desc=shown(song.path.name), unit="s", file=sys.stderr, leave=False,
                            mininterval=0.2, bar_format=layout if total_s else None)
        self.bar.update(min(done_s, total_s or done_s) - self.bar.n)

    def stopped(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def done(self, result: SongResult) -> None:
        self.stopped()
        if self.paths:
            for path in result.stems.values():
                click.echo(os.fsencode(path))
        if not self.quiet:
            self.note(result)

    def note(self, result: SongResult) -> None:
        for warning in result.warnings.values():
            click.echo(f"warning: {shown(result.song.name)}: {warning}", err=True)
        took = f"{result.duration_s:.1f} s of music in {result.elapsed_s:.1f} s"
        click.echo(f"{shown(result.song.name)}: {took}", err=True)

    def skipped(self, song: Song) -> None:
        if not self.quiet:
            click.echo(f"{shown(song.name)}: already split, skipped", err=True)

    def failed(self, song: Song, error: SepctlError) -> None:
        self.stopped()      # the error of a single song becomes the program's


class HumanBatch(Human):
    """Many songs: one bar for all, of songs and of hours of audio. `quiet` leaves nothing but the errors."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet, paths=not quiet)
        self.total = self.ended = 0
        self.lengths: dict[Song, float] = {}        # seconds, where known
        self.heard: dict[Song, float] = {}          # seconds written of each song so far
        self.begun = time.monotonic()

    def planned(self, tasks: Sequence[Task]) -> None:
        self.total = len(tasks)
        self.lengths = {task.song: task.duration_s for task in tasks if task.duration_s is not None}
        if not self.quiet and _is_terminal():
            self.bar = tqdm(total=sum(self.lengths.values()), file=sys.stderr, leave=False, mininterval=0.2,
                            bar_format="{desc} |{bar}| {postfix}")
            self._show()

    def progress(self, song: Song, done_s: float, total_s: float | None) -> None:
        self.heard[song] = done_s
        self._show()

    def _show(self) -> None:
        if self.bar is None:
            return
        total_s, elapsed_s = sum(self.lengths.values()), time.monotonic() - self.begun
        work_s = sum(self.heard.values())
        speed = work_s / elapsed_s if elapsed_s else 0.0
        self.bar.desc = f"{self.ended:,}/{self.total:,} songs"
        left = tqdm.format_interval((total_s - work_s) / speed) if speed and total_s > work_s else "?"
        self.bar.postfix = f"{work_s / 3600:.2f}/{total_s / 3600:.2f} h of audio, {speed:.1f} x real time, {left} left"
        self.bar.update(min(work_s, total_s) - self.bar.n)

    def _end(self, song: Song) -> None:
        """The song counts; its seconds are those it really had. The bar makes room for lines."""
        self.ended += 1
        self.lengths[song] = self.heard.setdefault(song, 0.0)
        if self.bar is not None:
            self.bar.clear()

    def done(self, result: SongResult) -> None:
        self.heard[result.song] = result.duration_s
        self._end(result.song)
        if self.paths:
            for path in result.stems.values():
                click.echo(os.fsencode(path))
        if not self.quiet:
            self.note(result)
        self._show()

    def skipped(self, song: Song) -> None:
        self._end(song)
        super().skipped(song)
        self._show()

    def failed(self, song: Song, error: SepctlError) -> None:
        self.heard.pop(song, None)
        self._end(song)
        click.echo(f"Error: {shown_lines(str(error))}", err=True)
        self._show()

    def again(self, song: Song, error: SepctlError) -> None:
        self.heard.pop(song, None)
        if not self.quiet:
            click.echo(f"{shown_lines(error.fact)}: it will be tried again", err=True)

    def summary(self, counts: dict[str, int], elapsed_s: float) -> None:
        self.stopped()
        if not self.quiet:
            told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
            click.echo(f"{sum(counts.values()):,} songs: {told}, in {elapsed_s:.1f} s", err=True)


class Json:
    """One object per line on stdout; its keys are documented in docs/cli.md."""

    def __init__(self) -> None:
        self.last_progress: dict[Song, float] = {}

    def tell(self, event: str, song: Song | None, **fields: Any) -> None:
        about = {} if song is None else {"song": song.name}
        click.echo(json.dumps({"schema": SCHEMA, "event": event, **about, **fields}))

    def planned(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.tell("planned", task.song, duration_s=task.duration_s, need_bytes=task.need_bytes,
                      stems={stem: str(path) for stem, path in task.paths.items()})

    def started(self, song: Song) -> None:
        self.last_progress[song] = 0.0
        self.tell("started", song)

    def progress(self, song: Song, done_s: float, total_s: float | None) -> None:
        now = time.monotonic()
        if now - self.last_progress.get(song, 0.0) >= PROGRESS_EVERY_S:
            self.last_progress[song] = now
            self.tell("progress", song, done_s=round(done_s, 3), total_s=total_s)

    def stopped(self) -> None: ...

    def done(self, result: SongResult) -> None:
        self.last_progress.pop(result.song, None)
        self.tell("done", result.song, stems={stem: str(path) for stem, path in result.stems.items()},
                  sample_rate=result.sample_rate, channels=result.channels, frames=result.frames,
                  duration_s=result.duration_s, elapsed_s=round(result.elapsed_s, 3), clipped=result.clipped,
                  warnings=list(result.warnings.values()))

    def skipped(self, song: Song) -> None:
        self.tell("skipped", song)

    def failed(self, song: Song, error: SepctlError, *, again: bool = False) -> None:
        self.last_progress.pop(song, None)
        self.tell("failed", song, error=error.fact, hint=error.hint, exit_code=error.exit_code, again=again)

    def again(self, song: Song, error: SepctlError) -> None:
        self.failed(song, error, again=True)

    def summary(self, counts: dict[str, int], elapsed_s: float) -> None:
        self.tell("summary", None, songs=sum(counts.values()), elapsed_s=round(elapsed_s, 3), **counts)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
