"""Songs with known stems are decoded once, to what training reads (`separator.train.prepared`).

A song's folder appears complete or not at all: it is made under `.preparing/`, every file is read back and compared
with what was decoded, `song.json` comes last, and then the whole folder is renamed. So a run may be killed at any
moment and started again; what is complete, and still matches its source and its checksum, is kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

from separator.audio import AudioReader
from separator.audio.pcm import PCM, to_integers
from separator.dsp.rate import resample
from separator.errors import AudioError, ResourceError, UsageError
from separator.train.check import APART_S
from separator.train.prepared import MANIFEST, QUIET, Layer, Manifest, PreparedLayer, Runs, Song, sounding
from separator.train.prepareplan import UNFINISHED, Task

FORMAT = PCM["16"]
BLOCK = 8 * QUIET  # frames: read at once


@dataclass(frozen=True)
class Prepared:
    """A song that is complete; `kept` if it was so before."""

    kept: bool
    seconds: float
    bytes: int
    clipped: int  # samples beyond full scale
    notes: tuple[str, ...]


@contextlib.contextmanager
def filling(destination: Path) -> Iterator[None]:
    """Nobody else prepares into the folder meanwhile; what was left unfinished is gone, before and after."""
    with _writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(destination / f"{UNFINISHED}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(f"{destination} is being filled by another run", hint="wait for its end") from error
    try:
        shutil.rmtree(destination / UNFINISHED, ignore_errors=True)
        yield
    finally:
        shutil.rmtree(destination / UNFINISHED, ignore_errors=True)
        lock.release()


def prepare_song(task: Task) -> Prepared:
    """Prepare one song, or find it complete.

    Raises AudioError where a source cannot be read to its end, ResourceError where the disk is full; either way
    nothing half-written stays.
    """
    with _writing(task.destination):
        sources = _sources(task)
    found = _complete(task, sources)
    if found:
        return _report(found, kept=True)
    try:
        with _writing(task.destination):
            layers = {name: _write(task, name, layer) for name, layer in sources.items()}
            manifest = Manifest(sample_rate=task.sample_rate, layers=layers)
            with (task.unfinished / MANIFEST).open("x", encoding="utf-8") as file:
                file.write(manifest.text())
                file.flush()
                os.fsync(file.fileno())
            if task.folder.exists():
                shutil.rmtree(task.folder)
            task.folder.parent.mkdir(parents=True, exist_ok=True)
            task.unfinished.replace(task.folder)
    finally:
        shutil.rmtree(task.unfinished, ignore_errors=True)
    return _report(manifest, kept=False)


def _sources(task: Task) -> dict[str, PreparedLayer]:
    """`<stem>/<layer>.npy` -> where it comes from; what it will hold is not known yet."""
    found: dict[str, PreparedLayer] = {}
    for stem in task.song.stems:
        files = task.song.files(stem)
        single = len(files) == 1 and files[0][0].parent.name != stem
        names = [stem if single else path.stem for path, _ in files]
        for (path, stream), name in zip(files, names, strict=True):
            status = path.stat()
            name = name if names.count(name) == 1 else path.name  # lead.wav beside lead.flac
            source = path.relative_to(task.source).as_posix()
            if not source.isprintable():
                raise AudioError(f"{source!r}: not a name in UTF-8 without control characters", hint="rename it")
            found[f"{stem}/{name}.npy"] = PreparedLayer(
                source=source, stream=stream, size=status.st_size,
                mtime_ns=status.st_mtime_ns, frames=1, sha256="", clipped=0, sounding=(),
            )  # fmt: skip
    if not found:
        raise AudioError(f"{task.song.name} has none of the stems asked for", hint="stems are named by their files")
    return found


def _complete(task: Task, sources: dict[str, PreparedLayer]) -> Manifest | None:
    """The manifest of a song that is there, made from these very sources, and undamaged."""
    song = Song(task.folder)
    try:
        manifest = song.manifest
        if manifest is None or manifest.sample_rate != task.sample_rate or manifest.layers.keys() != sources.keys():
            return None
        for name, told in manifest.layers.items():
            made = told.model_copy(update={"frames": 1, "sha256": "", "clipped": 0, "sounding": ()})
            held = told.frames, told.sha256, told.sounding
            if made != sources[name] or _read_back(task.folder / name) != held:
                return None
    except (AudioError, OSError):
        return None
    return manifest


def _write(task: Task, name: str, layer: PreparedLayer) -> PreparedLayer:
    """Decode one layer to its file, read that back, and tell what it holds."""
    path = task.unfinished / name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, frames, clipped = hashlib.sha256(), 0, 0
    with path.open("xb") as file:
        file.write(_header(0))
        try:
            for pcm, beyond in _decode(task.source / layer.source, layer.stream, task.sample_rate):
                data = pcm.tobytes()
                file.write(data)
                digest.update(data)
                frames, clipped = frames + len(pcm), clipped + beyond
        except AudioError as error:
            hint = "replace the file, or take the song out of the sources"
            raise AudioError(error.fact, hint=hint) from error
        file.seek(0)
        file.write(_header(frames))
        file.flush()
        os.fsync(file.fileno())
    *held, heard = _read_back(path)
    if held != [frames, digest.hexdigest()]:
        raise ResourceError(f"{path} reads back other than it was written", hint="look after the disk")
    told = {"frames": frames, "sha256": digest.hexdigest(), "clipped": clipped, "sounding": heard}
    return layer.model_copy(update=told)


def _decode(path: Path, stream: int, sample_rate: int) -> Iterator[tuple[NDArray[np.int16], int]]:
    """Blocks of PCM `[n, 2]`, mono twice, and how many of the decoded samples exceed full scale."""
    with AudioReader(path, stream=stream) as reader:
        empty = True
        for block in resample(reader, reader.sample_rate, sample_rate):
            pcm = to_integers(block.numpy(), FORMAT).T.astype("<i2")
            empty = False
            yield np.broadcast_to(pcm, (len(pcm), 2)), int((block.abs() > 1).sum())
        if empty:
            raise AudioError(f"{path} is too short: no frame at {sample_rate} Hz")


def _header(frames: int) -> bytes:
    """What stands before the samples of an .npy file; NumPy makes it as long for any number of frames."""
    stream = io.BytesIO()
    shape = {"descr": "<i2", "fortran_order": False, "shape": (frames, 2)}
    np.lib.format.write_array_header_1_0(stream, shape)
    return stream.getvalue()


def _read_back(path: Path) -> tuple[int, str, Runs]:
    """Frames, SHA-256 of the samples, and where it sounds, of a file as it is on the disk."""
    layer, digest = Layer.open(path), hashlib.sha256()

    def blocks() -> Iterator[NDArray[np.int16]]:
        for start in range(0, layer.frames, BLOCK):
            block = layer.read(start, BLOCK)
            digest.update(block.tobytes())
            yield block

    heard = sounding(blocks())
    return layer.frames, digest.hexdigest(), heard


def _report(manifest: Manifest, *, kept: bool) -> Prepared:
    rate, layers = manifest.sample_rate, manifest.layers
    ends: dict[str, float] = {}
    for name, layer in sorted(layers.items()):
        stem = name.partition("/")[0]
        ends[stem] = max(ends.get(stem, 0.0), layer.frames / rate)
    beyond = {name: layer.clipped for name, layer in sorted(layers.items()) if layer.clipped}
    notes = [f"{name}: {count} samples beyond full scale, clipped" for name, count in beyond.items()]
    if max(ends.values()) - min(ends.values()) > APART_S:
        notes.append("stems of different lengths: " + ", ".join(f"{stem} {end:.2f} s" for stem, end in ends.items()))
    frames = [layer.frames for layer in layers.values()]
    return Prepared(kept, max(frames) / rate, 4 * sum(frames), sum(beyond.values()), tuple(notes))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Errors of the disk as what a user can cure."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and run the same command again: what is complete is kept"
            raise ResourceError(f"{folder}: the disk is full", hint=hint) from error
        where = error.filename or folder
        raise AudioError(f"{where}: {error.strerror or error}", hint="check the folder and its permissions") from error
