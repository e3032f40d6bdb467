"""Split one song into files: read, separate, write, and let all stems appear together or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from separator import provenance
from separator.audio import AudioReader, StemFormat, StemWriter
from separator.audio.place import temporary
from separator.dsp.ahead import ahead, behind
from separator.errors import AudioError, ModelError, ResourceError, SepctlError
from separator.jobs import Job, Song, outputs, refuse_existing
from separator.separate import Separator

Progress = Callable[[float, "float | None"], None]  # seconds of audio written so far, and in all if known
_BYTES = {"16": 2, "24": 3, "32f": 4}  # per sample
_AT_LEAST = {"wav": 1.0, "flac": 0.2}  # of its nominal size, what a stem takes; of the lossy formats, half
LOUDEST = 1e10  # times full scale: integers of 32 bits, written as floats, are far below
_BLOCKS_AHEAD = 2  # decoded and separated blocks that may wait: the three stages overlap, memory stays bounded


@dataclass(frozen=True)
class Level:
    """How loud a stem is, full scale being 1."""

    peak: float
    rms: float


@dataclass(frozen=True)
class SongResult:
    """What became of one song. `clipped` counts samples per stem beyond full scale of an integer format.

    `stems` are its files, none where the stem went to a sink.
    `division` is the stems' energy over the song's, where the stems are the whole song (else, and of silence, None):
    near 1 where each sound went to one stem, 1/S where all S stems are the same faint copy of the song.
    """

    song: Song
    stems: dict[str, Path]
    sample_rate: int
    channels: int
    frames: int
    elapsed_s: float
    clipped: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)      # kind to words
    levels: dict[str, Level] = field(default_factory=dict)
    division: float | None = None

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


def split_song(song: Song, separator: Separator, job: Job, progress: Progress = lambda *_: None) -> SongResult:
    """Write the stems of `song` as `job` asks.

    Decoding, separation and encoding run side by side; memory does not depend on the song's length. On any exception,
    an interrupt included, no file and no new folder stays behind.
    Raises AudioError (song unreadable, empty, or output not writable), ResourceError (disk), UsageError (exists).
    """
    assert separator.stems == job.stems, "the caller asks the separator for the stems of the job"
    started = time.perf_counter()
    paths = outputs(song, job)
    refuse_existing(song, paths, job)
    with AudioReader(song.source, start_s=job.start_s, duration_s=job.duration_s, downmix=job.downmix) as reader:
        _check_space(song, reader, job)
        tags = provenance.with_stamp(reader.tags, job.stamp(song))      # hashes the song: before there is a folder
        with _new_folders() as make, contextlib.ExitStack() as stack:
            writers = {stem: stack.enter_context(_writer(reader, job, paths.get(stem), tags, make))
                       for stem in job.stems}
            total_s = _duration(reader, job)
            progress(0.0, total_s)
            meter = _Meter(len(job.stems))
            try:
                frames = _pump(reader, separator, list(writers.values()), meter,
                               lambda done_s: progress(done_s, total_s))
            except (AudioError, ModelError) as error:
                if error.__cause__ is not None or song.name in error.fact:      # a stem that cannot be written; or told
                    raise
                raise _blamed(song, meter.peak, error) from error
            if not frames:
                raise AudioError(f"{song.name} holds no samples{_after_start(job)}")
            _commit(writers, paths, song, job)
    return SongResult(song, paths, reader.sample_rate, reader.channels, frames, time.perf_counter() - started,
                      {stem: writer.clipped for stem, writer in writers.items()},
                      dict(_warnings(writers, job, reader.sample_rate)),
                      {stem: Level(writer.peak, rms) for (stem, writer), rms in zip(
                          writers.items(), meter.rms(frames * reader.channels), strict=True)},
                      meter.division() if _is_whole(separator) else None)


def _is_whole(separator: Separator) -> bool:
    return separator.rest is not None or len(separator.stems) == len(separator.card.stems) > 1


def _blamed(song: Song, peak: float, error: AudioError | ModelError) -> SepctlError:
    """An error of the separator, which knows no names; where the network failed at what is no music, the song's."""
    if isinstance(error, ModelError) and peak > LOUDEST:
        return AudioError(f"{song.name}: its peak is {peak:.1e} times full scale, which no model can compute with",
                          hint="scale it down, or write it again: its samples may not be what its header says")
    return type(error)(f"{song.name}: {error.fact}", hint=error.hint)


class _Meter:
    """Energies of the stems and of their sum, from the blocks that pass; and the peak of the song's."""

    def __init__(self, stems: int) -> None:
        self._stems = torch.zeros(stems, dtype=torch.float64)
        self._song = 0.0
        self.peak = 0.0

    def pass_on(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The song's blocks `[C, n]`."""
        for block in blocks:
            self.peak = max(self.peak, float(block.abs().amax()) if block.numel() else 0.0)
            yield block

    def hear(self, block: Tensor) -> None:
        """A block `[S, C, n]`."""
        self._stems += torch.linalg.vector_norm(block, dim=(1, 2), dtype=torch.float64) ** 2
        self._song += float(torch.linalg.vector_norm(block.sum(0), dtype=torch.float64) ** 2)

    def rms(self, samples: int) -> list[float]:
        """Of each stem, given the number of samples of one."""
        return [float(energy / samples) ** 0.5 for energy in self._stems]

    def division(self) -> float | None:
        return float(self._stems.sum()) / self._song if self._song else None


def _after_start(job: Job) -> str:
    return f" after --start {job.start_s:g}" if job.start_s else ""


def _writer(reader: AudioReader, job: Job, path: Path | None, tags: Mapping[str, str],
            make: Callable[[Path], None]) -> StemWriter:
    """To the file at `path`, whose folder is made, or to the sink of `job`."""
    def begin(to: Path | BinaryIO) -> StemWriter:
        if isinstance(to, Path):
            make(to.parent)
        return StemWriter(to, job.fmt, reader.sample_rate, reader.channels, tags=tags, cover=reader.cover)

    to = job.sink or path
    assert to is not None
    try:
        return begin(to)
    except AudioError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    return begin(to)        # a song that failed has just removed the folder, which it had made


def _pump(reader: AudioReader, separator: Separator, writers: Sequence[StemWriter], meter: _Meter,
          progress: Callable[[float], None]) -> int:
    """Move the whole song from `reader` through `separator` into `writers`, one per stem; returns the frame count.

    The network stays in this thread, and the others keep to one processor thread each: as soon as OpenMP has to run two
    teams of threads it lets them sleep between loops, and the recurrent layers, thousands of short loops, take twice
    as long.
    """
    frames = 0

    def write(block: Tensor) -> None:
        torch.set_num_threads(1)
        for writer, stem in zip(writers, block, strict=True):
            writer.write(stem)

    with contextlib.closing(ahead(_on_one_thread(meter.pass_on(reader)), _BLOCKS_AHEAD)) as blocks, \
            contextlib.closing(separator.stream(blocks, reader.sample_rate)) as stems, \
            behind(write, _BLOCKS_AHEAD) as put:
        for block in stems:                                             # [S, C, n]
            put(block)
            meter.hear(block)
            frames += block.shape[-1]
            progress(frames / reader.sample_rate)
    return frames


def _on_one_thread(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    torch.set_num_threads(1)                                            # a matter of the thread that iterates
    yield from blocks


def _commit(writers: Mapping[str, StemWriter], paths: Mapping[str, Path], song: Song, job: Job) -> None:
    """Flush all stems to the disk, then rename them all; a failed rename takes back those before it.

    Only what `job` lets us replace is replaced, also of what appeared since the song was begun.
    """
    for writer in writers.values():
        writer.finish()
    refuse_existing(song, paths, job)
    with contextlib.ExitStack() as undo:
        for stem, path in paths.items():
            old = _keep(path) if job.overwrite or job.skip_existing else None
            undo.callback(_put_back, path, old, writers[stem])
            writers[stem].commit(replace=job.overwrite or old is not None)
        undo.pop_all()
    for path in paths.values():
        _kept(path).unlink(missing_ok=True)


def _kept(path: Path) -> Path:
    """Where the old file waits while its successors are renamed; swept like any other leftover if we are killed."""
    return temporary(path.with_name(f"{path.name}.old"))


def _keep(path: Path) -> Path | None:
    """Give a file that will be replaced a second name; on file systems without links, only that one."""
    if not path.exists():
        return None
    try:
        os.link(path, _kept(path))
    except OSError:
        path.replace(_kept(path))
    return _kept(path)


def _put_back(path: Path, old: Path | None, writer: StemWriter) -> None:
    """Undo a rename: the old file returns, or there is none."""
    if old is not None:
        old.replace(path)
        old.unlink(missing_ok=True)     # two names of one file: renaming one onto the other changes nothing
    else:
        writer.withdraw()


@contextlib.contextmanager
def _new_folders() -> Iterator[Callable[[Path], None]]:
    """Gives what makes a folder; on an exception those that did not exist, and are empty, are removed again."""
    created: list[Path] = []

    def make(folder: Path) -> None:
        created.extend(reversed([each for each in (folder, *folder.parents) if not os.path.exists(each)]))
        _make(folder)

    try:
        yield make
    except BaseException:
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise AudioError(f"cannot create {folder}/: a file is in the way", hint="use another --out") from error
    except PermissionError as error:
        raise AudioError(f"cannot create {folder}/: not allowed", hint="use another --out") from error
    except FileNotFoundError as error:
        raise AudioError(f"cannot create {folder}/: {error.strerror}", hint="use another --out") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise AudioError(f"cannot create {folder}/: the name is too long",
                         hint="use a shorter --template or --out") from error


def _duration(reader: AudioReader, job: Job) -> float | None:
    """How many seconds will be split, by the container's word."""
    return None if reader.duration_s is None else job.part_s(reader.duration_s)


def _check_space(song: Song, reader: AudioReader, job: Job) -> None:
    """Refuse a song whose stems surely do not fit, before hours of work; where the length is unknown, hope."""
    seconds = _duration(reader, job)
    if job.sink is not None or seconds is None:
        return
    need = len(job.stems) * seconds * bytes_per_second(job.fmt, reader.sample_rate, reader.channels)
    free = free_bytes(job.out)
    if need > free:
        raise ResourceError(f"the stems of {song.name} need {need / 1e6:.0f} MB, but {job.out} has {free / 1e6:.0f} MB",
                            hint="free some space, use another --out, or a smaller --format such as flac")


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is, or will be."""
    return shutil.disk_usage(next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))).free


def bytes_per_second(fmt: StemFormat, sample_rate: int, channels: int) -> float:
    """A lower bound on what one stem takes."""
    nominal = fmt.bits_per_second(channels) / 8 if fmt.depth is None else _BYTES[fmt.depth] * sample_rate * channels
    return nominal * _AT_LEAST.get(fmt.extension, 0.5)


def _warnings(writers: Mapping[str, StemWriter], job: Job, sample_rate: int) -> Iterator[tuple[str, str]]:
    clipped = ", ".join(f"{writer.clipped} of {stem}" for stem, writer in writers.items() if writer.clipped)
    if clipped and job.fmt.depth is not None:
        yield "clipped", f"samples beyond full scale were clipped: {clipped}; wav with --bit-depth 32f keeps them"
    for writer in writers.values():
        if writer.written_rate != sample_rate:
            yield "resampled", f"{job.fmt.extension} cannot hold {sample_rate} Hz: written at {writer.written_rate} Hz"
            return
