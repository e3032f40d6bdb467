"""What is to be done, before anything is: songs, options, output paths, and every reason to refuse."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from separator import provenance
from separator.audio import StemFormat
from separator.errors import AudioError, UsageError
from separator.naming import check_template, render, track_name


@dataclass(frozen=True)
class Song:
    """A song to split: a file, or an open binary stream that has no name of its own."""

    source: Path | BinaryIO

    @property
    def path(self) -> Path:
        return self.source if isinstance(self.source, Path) else Path("stdin")

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.path)

    @property
    def size(self) -> int | None:
        """In bytes; None where it is a stream or missing."""
        try:
            return self.source.stat().st_size if isinstance(self.source, Path) else None
        except OSError:
            return None


    def check(self) -> None:
        """Raise AudioError where it is plain, without decoding, that there is nothing to read."""
        if not isinstance(self.source, Path):
            return
        try:
            if self.source.is_dir():
                raise AudioError(f"{self.source} is a folder", hint=f"name its songs: {self.source}/*")
            with self.source.open("rb") as file:
                if self.source.is_file() and not file.read(1):
                    raise AudioError(f"{self.source} is empty")
        except FileNotFoundError as error:
            raise AudioError(f"{self.source} does not exist") from error
        except OSError as error:
            raise AudioError(f"{self.source} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Job:
    """Everything about a run except its songs.

    `stems` are the outputs in the separator's order. `model`, `sha256` and `options` (whatever else shapes the
    samples) go into each stem's comment, and decide what `skip_existing` may skip. `sink` receives the only stem
    instead of a file.
    """

    stems: tuple[str, ...]
    model: str = ""
    sha256: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    out: Path = Path("stems")
    template: str = "{track}/{stem}.{ext}"
    fmt: StemFormat = field(default_factory=lambda: StemFormat("wav"))
    sink: BinaryIO | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    downmix: bool = False
    overwrite: bool = False
    skip_existing: bool = False

    def stamp(self, song: Song) -> str:
        """The comment line of the stems of `song`."""
        shaping = {**self.options, "format": [self.fmt.extension, self.fmt.depth, self.fmt.bitrate],
                   "stems": list(self.stems), "start_s": self.start_s, "duration_s": self.duration_s,
                   "downmix": self.downmix}
        return provenance.stamp(self.model, self.sha256, shaping, song.path.name, song.size)


def outputs(song: Song, job: Job) -> dict[str, Path]:
    """The file of each stem of `song`. Raises UsageError where the template leads out of `job.out` or joins stems."""
    check_template(job.template)
    track, folder = track_name(song.path), song.path.absolute().parent.name
    extension = job.fmt.extension
    paths = {stem: render(job.template, job.out, track=track, stem=stem, ext=extension, model=job.model, folder=folder)
             for stem in job.stems}
    for path in paths.values():
        if path.suffix != f".{extension}":
            raise UsageError(f"--template {job.template!r} must end in .{{ext}} (here .{extension})")
    if len(set(paths.values())) < len(paths):
        raise UsageError(f"--template {job.template!r} gives all stems the same file", hint="use {stem} in it")
    return paths


def plan(songs: Sequence[Song], job: Job) -> dict[Song, bool]:
    """Check the whole run before any work: song -> whether it is already done and may be skipped.

    Raises UsageError where two songs would write the same file, a stem would replace a song, or a file exists.
    """
    if job.sink is not None:
        return dict.fromkeys(songs, False)
    files = {song: outputs(song, job) for song in songs}
    _refuse_collisions(files)
    return {song: is_done(song, paths, job) for song, paths in files.items()}


def _refuse_collisions(files: Mapping[Song, Mapping[str, Path]]) -> None:
    inputs = {_same_file(song.path) for song in files if isinstance(song.source, Path)}
    owner: dict[str, Song] = {}
    for song, paths in files.items():
        for path in paths.values():
            if _same_file(path) in inputs:
                raise UsageError(f"{path} is itself one of the songs", hint="use another --out or --template")
            other = owner.setdefault(_same_file(path), song)
            if other is not song:
                raise UsageError(f"{other.name} and {song.name} would both write {path}",
                                 hint='tell them apart by folder: --template "{folder}/{track}/{stem}.{ext}"')


def _same_file(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def is_done(song: Song, paths: Mapping[str, Path], job: Job) -> bool:
    """Whether `job.skip_existing` lets us skip `song`: all stems are there, made by this model with these options.

    Stems that are ours but incomplete (the program was killed) are to be made again.
    Raises UsageError where files exist that may be neither skipped nor replaced.
    """
    existing = [path for path in paths.values() if os.path.lexists(path)]
    if folders := [path for path in existing if path.is_dir()]:
        raise UsageError(f"{folders[0]} is a folder", hint="use another --out or --template")
    if not existing or job.overwrite:
        return False
    if not job.skip_existing:
        raise UsageError(f"{existing[0]} exists", hint="use --overwrite or --skip-existing, or another --out")
    wanted = provenance.parse(job.stamp(song))
    for path in existing:
        if not provenance.same_work(provenance.read_stamp(path), wanted):
            raise UsageError(f"{path} exists, but was not made from {song.name} by this model with these options",
                             hint="use --overwrite, or another --out")
    return len(existing) == len(paths)


def refuse_existing(song: Song, paths: Mapping[str, Path], job: Job) -> None:
    """The check of `plan` once more, right before the work: another program may have been there meanwhile."""
    if job.sink is None:
        is_done(song, paths, job)
