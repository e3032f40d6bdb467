"""What is to be done, before anything is: songs, options, output paths, and every reason to refuse."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from separator import provenance
from separator.atomic import LONGEST_NAME
from separator.audio import StemFormat
from separator.errors import AudioError, ModelError, UsageError
from separator.modelfile import file_sha256
from separator.naming import check_template, render, safe_name, track_name
from separator.remote import Url, exists, name_of, near

REMEDIES = ("{folder}/{track}/{stem}.{ext}", "{track}.{source_ext}/{stem}.{ext}",
            "{folder}/{track}.{source_ext}/{stem}.{ext}")  # templates that may keep songs apart


@dataclass(frozen=True)
class Song:
    """A song to split: a file, or a stream: an open binary file object without a name of its own, a FIFO, a device.

    A stream can be read once, and only by whoever splits it. `folder` is where a song stands below the folder that was
    named for it: its stems stand in the same place below the output folder.
    """

    source: Path | BinaryIO
    folder: PurePath = field(default_factory=PurePath)

    @property
    def path(self) -> Path:
        return self.source if isinstance(self.source, Path) else Path("stdin")

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.path)

    @property
    def key(self) -> str:
        """By which a manifest knows the song: absolute path, or URL."""
        return name_of(self.path)

    @property
    def is_stream(self) -> bool:
        if not isinstance(self.source, Path):
            return True
        if isinstance(self.source, Url):
            return False
        return os.path.exists(self.source) and not os.path.isfile(self.source) and not os.path.isdir(self.source)

    @property
    def size(self) -> int | None:
        """In bytes; None where it is a stream or missing."""
        try:
            return None if self.is_stream else self.path.stat().st_size
        except OSError:
            return None

    @functools.cached_property
    def sha256(self) -> str | None:
        """Of the file's bytes, read once in constant memory; None for a stream. Raises AudioError if unreadable."""
        if self.is_stream:
            return None
        self.check()
        try:
            return file_sha256(self.path)
        except ModelError as error:
            raise AudioError(f"{self.path} cannot be read: {error.__cause__ or error.fact}") from error

    def check(self) -> None:
        """Raise AudioError where it is plain, without decoding, that there is nothing to read. Opens only files."""
        if not isinstance(self.source, Path):
            return
        try:
            if stat.S_ISDIR(mode := self.source.stat().st_mode):
                raise AudioError(f"{self.source} is a folder", hint="-r splits the songs in it")
            if not stat.S_ISREG(mode):
                return
            with self.source.open("rb") as file:
                if not file.read(1):
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

    @property
    def shaping(self) -> dict[str, Any]:
        """All that shapes the samples, but for the model and the song, as JSON has it."""
        return {**self.options, "format": [self.fmt.extension, self.fmt.depth, self.fmt.bitrate],
                "stems": list(self.stems), "start_s": self.start_s, "duration_s": self.duration_s,
                "downmix": self.downmix}

    def part_s(self, song_s: float) -> float:
        """How many seconds of a song of that length will be split."""
        seconds = max(0.0, song_s - self.start_s)
        return seconds if self.duration_s is None else min(seconds, self.duration_s)

    def stamp(self, song: Song) -> str:
        """The comment line of the stems of `song`; the first call reads the whole file for its SHA-256."""
        return provenance.stamp(self.model, self.sha256, self.shaping, song.path.name, song.size, song.sha256)


def outputs(song: Song, job: Job) -> dict[str, Path]:
    """The file of each stem of `song`; none where the stem goes to a sink.

    Raises UsageError where the template leads out of `job.out`, joins stems, or makes a name too long for a disk.
    """
    check_template(job.template)
    if job.sink is not None:
        return {}
    extension = job.fmt.extension
    out = job.out.joinpath(*map(safe_name, song.folder.parts))
    values = {"track": track_name(song.path), "folder": Path(os.path.abspath(song.path)).parent.name,
              "source_ext": song.path.suffix.removeprefix("."), "model": job.model, "ext": extension}
    paths = {stem: render(job.template, out, stem=stem, **values) for stem in job.stems}
    for path in paths.values():
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
            raise UsageError(f"the output of {song.name} would have a name of more than {LONGEST_NAME} bytes: {path}",
                             hint="use a shorter --template or --out")
        if path.suffix != f".{extension}":
            raise UsageError(f"--template {job.template!r} must end in .{{ext}} (here .{extension})")
    if len(set(paths.values())) < len(paths):
        raise UsageError(f"--template {job.template!r} gives all stems the same file", hint="use {stem} in it")
    return paths


def plan(songs: Sequence[Song], job: Job, only: Collection[Song] | None = None) -> dict[Song, dict[str, Path]]:
    """Check the whole run before any work; returns the files of each song (none where the stem goes to a sink).

    Raises UsageError where two songs would write the same file, a stem would replace a song, or a file exists. With
    `job.skip_existing` what exists is a matter of each song alone: ask `is_done` when it is its turn. `only` are those
    to be split here, if others of the batch are split elsewhere.
    """
    files = {song: outputs(song, job) for song in songs}
    _refuse_collisions(files, job)
    if only is not None:
        files = {song: files[song] for song in only}
    if not job.skip_existing and not isinstance(job.out, Url):      # of a store each worker asks for its songs
        for song, paths in files.items():
            is_done(song, paths, job)
    return files


def _refuse_collisions(files: Mapping[Song, Mapping[str, Path]], job: Job) -> None:
    same = _Places()
    inputs = {place for song in files if isinstance(song.source, Path)
              for place in (same(song.source), same(Path(os.path.realpath(song.source))))}
    owner: dict[str, Song] = {}
    for song, paths in files.items():
        for path in paths.values():
            if same(path) in inputs:
                raise UsageError(f"{path} is itself one of the songs", hint="use another --out or --template")
            other = owner.setdefault(same(path), song)
            if other is not song:
                raise UsageError(f"{other.name} and {song.name} would both write {path}",
                                 hint=_keep_apart(files, job))


def _keep_apart(songs: Collection[Song], job: Job) -> str:
    for template in REMEDIES:
        told, same = replace(job, template=template), _Places()
        if len({same(path) for song in songs for path in outputs(song, told).values()}) == len(songs) * len(job.stems):
            return f'tell them apart: --template "{template}"'
    return "split them separately, each with another --out"


class _Places:
    """One spelling for each place on the disk. Looks each folder up once: a batch has a hundred thousand stems."""

    def __init__(self) -> None:
        self._real = functools.cache(os.path.realpath)

    def __call__(self, path: Path) -> str:
        return os.path.normcase(os.path.join(self._real(path.parent), path.name))


def is_done(song: Song, paths: Mapping[str, Path], job: Job) -> bool:
    """Whether `job.skip_existing` lets us skip `song`: all stems are there, made by this model with these options.

    Stems that are ours but incomplete (the program was killed) are to be made again.
    Raises UsageError where files exist that may be neither skipped nor replaced, those of a stream among them: nobody
    knows whether it gives the same song again. AudioError where stems exist, but the song cannot be read.
    """
    existing = [path for path in paths.values() if exists(path)]
    if folders := [path for path in existing if path.is_dir()]:
        raise UsageError(f"{folders[0]} is a folder", hint="use another --out or --template")
    if not existing or job.overwrite:
        return False
    if not job.skip_existing:
        raise UsageError(f"{existing[0]} exists", hint="use --overwrite or --skip-existing, or another --out")
    if song.is_stream:
        raise UsageError(f"{existing[0]} exists, and a stream cannot be compared with it: {song.name}",
                         hint="use --overwrite, or another --out")
    wanted = provenance.parse(job.stamp(song))
    assert wanted is not None
    for path in existing:
        with near(path) as file:
            stamp = provenance.read_stamp(file)
        if told := provenance.difference(stamp, wanted):
            raise UsageError(f"{path} exists, but was not made from {song.name} in this way: {told}",
                             hint="use --overwrite, or another --out")
    return len(existing) == len(paths)


def refuse_existing(song: Song, paths: Mapping[str, Path], job: Job) -> None:
    """The check of `plan` once more, right before the work: another program may have been there meanwhile."""
    is_done(song, paths, job)
