"""What became of each song: one line of JSON each, on the disk before anyone is told."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from separator import __version__
from separator.errors import AudioError, UsageError
from separator.jobs import Job, Song

log = logging.getLogger(__name__)

SCHEMA = 1
Record = Mapping[str, Any]


class Manifest:
    """The manifest that this run writes to: lines are only ever added. Made by `open_manifest`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def append(self, record: Record) -> None:
        """Write a line and bring it to the disk. Raises OSError."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def open_manifest(path: Path) -> Iterator[Manifest]:
    """Open `path` for adding, alone; the folder is made if it is missing, and a torn last line is cut off.

    Raises UsageError where another run holds it, AudioError where it cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"another run is writing {path}", hint="wait for it, or use another --out") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise AudioError(f"cannot create {path.parent}/: a file is in the way", hint="use another --out") from error
    except OSError as error:
        raise AudioError(f"{path} cannot be written: {error.strerror or error}", hint="use another --out") from error
    try:
        with path.open("a+b") as file:
            _cut_torn_line(file, path)
            yield Manifest(path, file)
    finally:
        lock.release()


def _cut_torn_line(file: BinaryIO, path: Path) -> None:
    """A line whose end never reached the disk tells of nothing."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        start = max(0, whole - 4096)
        file.seek(start)
        at = file.read(whole - start).rfind(b"\n")
        if at >= 0:
            whole = start + at + 1
            break
        whole = start
    if whole < end:
        log.warning("%s: cut off its torn last line (%d bytes)", path, end - whole)
        file.truncate(whole)
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Record]:
    """The records of a manifest, in order; torn lines are passed over with a warning.

    Raises AudioError where there is no such file, UsageError for a manifest of a later version.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _parse(line)
                if record is None:
                    log.warning("%s: line %d is torn, passed over", path, number)
                elif record.get("schema") != SCHEMA:
                    raise UsageError(f"{path}: line {number} has schema {record.get('schema')!r}, known is {SCHEMA}",
                                     hint="is it a manifest of sepctl, and not of a later version?")
                else:
                    yield record
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from error


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def latest(manifests: Iterable[Path]) -> dict[str, Record]:
    """The last record of each input in any of the manifests; what finished goes before what failed."""
    found: dict[str, Record] = {}
    for record in (record for path in manifests for record in read(path)):
        before = found.get(record["input"])
        if before is None or record["status"] != "failed" or before["status"] == "failed":
            found[record["input"]] = record
    return found


def outputs_of(record: Record, key: str) -> dict[str, Any]:
    """One figure of each output by stem; none of a record that has no outputs."""
    return {stem: output.get(key) for stem, output in record.get("outputs", {}).items()}


def about(song: Song, job: Job, status: str, attempt: int) -> dict[str, Any]:
    """What every record says of its song, as the song is now."""
    size, mtime_ns = state(song)
    return {"schema": SCHEMA, "status": status, "input": song.key, "size": size,
            "mtime_ns": mtime_ns, "model": job.model, "model_sha256": job.sha256, "options": job.shaping,
            "sepctl": __version__, "attempt": attempt, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def state(song: Song) -> tuple[int | None, int | None]:
    """Size in bytes and time of the last change in ns, by which a song is known again; None of streams."""
    try:
        status = None if song.is_stream else song.path.stat()
    except OSError:
        status = None
    return (None, None) if status is None else (status.st_size, status.st_mtime_ns)
