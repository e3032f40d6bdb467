"""What `sepctl split` tells while it works: for people, or as one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any, Protocol

import click
from tqdm import tqdm

from separator.errors import SepctlError
from separator.jobs import Song
from separator.split import SongResult

PROGRESS_EVERY_S = 1.0  # JSON progress events come at most this often


class Events(Protocol):
    """One method per thing that can happen to a song, and the end of the run."""

    def started(self, song: Song) -> None: ...
    def progress(self, done_s: float, total_s: float | None) -> None: ...
    def done(self, result: SongResult) -> None: ...
    def skipped(self, song: Song) -> None: ...
    def failed(self, song: Song, error: SepctlError) -> None: ...
    def stopped(self) -> None: ...
    def summary(self, counts: dict[str, int], elapsed_s: float) -> None: ...


class Human:
    """Paths of finished stems on stdout, everything else on stderr; a progress bar if that is a terminal."""

    def __init__(self, *, total: int, quiet: bool, verbose: bool, paths: bool) -> None:
        self.total, self.quiet, self.verbose, self.paths = total, quiet, verbose, paths
        self.count = 0
        self.label = ""
        self.bar: tqdm[Any] | None = None

    def started(self, song: Song) -> None:
        self.count += 1
        self.label = shown(f"{song.path.name} [{self.count}/{self.total}]" if self.total > 1 else song.path.name)

    def progress(self, done_s: float, total_s: float | None) -> None:
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            return
        if self.bar is None:
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
            self.bar = tqdm(total=total_s, desc=self.label, unit="s", file=sys.stderr, leave=False, mininterval=0.2,
                            bar_format=layout if total_s else None)
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
        if self.quiet:
            return
        for warning in result.warnings:
            click.echo(f"warning: {shown(result.song.name)}: {warning}", err=True)
        took = f"{result.duration_s:.1f} s of music in {result.elapsed_s:.1f} s"
        click.echo(f"{shown(result.song.name)}: {took}", err=True)

    def skipped(self, song: Song) -> None:
        self.count += 1
        if not self.quiet:
            click.echo(f"{shown(song.name)}: already split, skipped", err=True)

    def failed(self, song: Song, error: SepctlError) -> None:
        self.stopped()
        if self.total == 1:
            return  # its error becomes the program's
        if self.verbose:
            traceback.print_exception(error)
        click.echo(f"Error: {error}", err=True)

    def summary(self, counts: dict[str, int], elapsed_s: float) -> None:
        if self.total > 1 and not self.quiet:
            told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            click.echo(f"{self.total} songs: {told}, in {elapsed_s:.1f} s", err=True)


class Json:
    """One object per line on stdout; its keys are documented in docs/cli.md."""

    def __init__(self) -> None:
        self.song: Song | None = None
        self.last_progress = 0.0

    def tell(self, event: str, song: Song | None, **fields: Any) -> None:
        about = {} if song is None else {"song": song.name}
        click.echo(json.dumps({"event": event, **about, **fields}))

    def started(self, song: Song) -> None:
        self.song, self.last_progress = song, 0.0
        self.tell("started", song)

    def progress(self, done_s: float, total_s: float | None) -> None:
        now = time.monotonic()
        if now - self.last_progress >= PROGRESS_EVERY_S:
            self.last_progress = now
            self.tell("progress", self.song, done_s=round(done_s, 3), total_s=total_s)

    def stopped(self) -> None: ...

    def done(self, result: SongResult) -> None:
        self.tell("done", result.song, stems={stem: str(path) for stem, path in result.stems.items()},
                  sample_rate=result.sample_rate, channels=result.channels, frames=result.frames,
                  duration_s=result.duration_s, elapsed_s=round(result.elapsed_s, 3), clipped=result.clipped,
                  warnings=list(result.warnings))

    def skipped(self, song: Song) -> None:
        self.tell("skipped", song)

    def failed(self, song: Song, error: SepctlError) -> None:
        self.tell("failed", song, error=error.fact, hint=error.hint, exit_code=error.exit_code)

    def summary(self, counts: dict[str, int], elapsed_s: float) -> None:
        self.tell("summary", None, songs=sum(counts.values()), elapsed_s=round(elapsed_s, 3), **counts)


def shown(name: str) -> str:
    """A file name that may go to a terminal: undecodable bytes and control characters replaced."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
